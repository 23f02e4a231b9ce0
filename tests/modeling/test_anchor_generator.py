import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detlite.errors import UserError
from detlite.modeling.anchor_generator import GridAnchorGenerator, ListAnchorGenerator, cell_anchors
from detlite.registry import ANCHOR_GENERATORS


def test_cell_anchors_have_their_published_values():
    small = torch.tensor([[-32.0, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]])
    expected = torch.stack([small, 2 * small], dim=1).reshape(-1, 4)  # ratios slowest, sizes fastest
    assert torch.equal(cell_anchors([32, 64], [0.25, 1, 4]), expected)


def test_the_grid_runs_row_by_row_and_a_cells_anchors_stay_together():
    generator = GridAnchorGenerator([16], sizes=[10, 20], aspect_ratios=[1, 4])
    (anchors,) = generator([(2, 3)])
    expected = []
    for y in range(2):
        for x in range(3):
            for ratio in (1, 4):
                for size in (10, 20):
                    width, height = size / ratio**0.5, size * ratio**0.5
                    center_x, center_y = 8 + 16 * x, 8 + 16 * y
                    expected.append(
                        [center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2]
                    )
    torch.testing.assert_close(anchors, torch.tensor(expected))
    assert generator.num_anchors == [4]


def test_anchors_agree_with_torchvisions_but_for_its_rounding_and_its_corner():
    ours = GridAnchorGenerator([16], sizes=[32, 64, 100], aspect_ratios=[0.5, 1, 2], offset=0)
    theirs = AnchorGenerator(((32, 64, 100),), ((0.5, 1.0, 2.0),))
    assert (theirs.cell_anchors[0] - ours.cell_anchors[0]).abs().max() <= 0.5
    theirs.cell_anchors = ours.cell_anchors
    images = ImageList(torch.zeros(1, 3, 48, 80), [(48, 80)])
    (anchors,) = theirs(images, [torch.zeros(1, 1, 3, 5)])
    torch.testing.assert_close(ours([(3, 5)])[0], anchors)


def test_each_level_has_its_own_sizes_or_all_share_one_list():
    own = GridAnchorGenerator([8, 32], sizes=[[16], [64]], aspect_ratios=[1])
    assert [level.tolist() for level in own([(1, 1), (1, 1)])] == [[[-4, -4, 12, 12]], [[-16, -16, 48, 48]]]
    shared = GridAnchorGenerator([8, 32], sizes=[16], aspect_ratios=[1])
    assert [level.tolist() for level in shared([(1, 1), (1, 1)])] == [[[-4, -4, 12, 12]], [[8, 8, 24, 24]]]


def test_a_feature_map_without_cells_has_no_anchors():
    assert GridAnchorGenerator([16])([(0, 5)])[0].shape == (0, 4)


@pytest.mark.parametrize(
    "keys",
    [
        {"SIZES": []},
        {"SIZES": [[]]},
        {"ASPECT_RATIOS": []},
        {"SIZES": [0]},
        {"ASPECT_RATIOS": [-1]},
        {"SIZES": [[8], [9]]},
    ],
)
def test_impossible_sizes_and_ratios_are_refused(keys):
    with pytest.raises(UserError, match="sizes (and|has)"):
        ANCHOR_GENERATORS.build({"NAME": "GridAnchorGenerator", **keys}, [16])


def test_a_list_gives_every_cell_its_anchors_row_by_row():
    generator = ListAnchorGenerator([16], anchors=[[10, 20], [7, 4]])
    (anchors,) = generator([(2, 3)])
    expected = []
    for center_y in (8, 24):
        for center_x in (8, 24, 40):
            expected.append([center_x - 5, center_y - 10, center_x + 5, center_y + 10])
            expected.append([center_x - 3.5, center_y - 2, center_x + 3.5, center_y + 2])
    assert anchors.tolist() == expected
    assert anchors.dtype == torch.float32
    assert generator.num_anchors == [2]


def test_a_list_without_offset_is_centered_on_the_corners():
    assert ListAnchorGenerator([8], anchors=[[2, 6]], offset=0)([(1, 2)])[0].tolist() == [[-1, -3, 1, 3], [7, -3, 9, 3]]


def test_each_level_has_its_own_list_or_all_share_one():
    own = ListAnchorGenerator([8, 32], anchors=[[[2, 4]], [[16, 8], [6, 6]]])
    assert [level.tolist() for level in own([(1, 1), (1, 1)])] == [
        [[3, 2, 5, 6]],
        [[8, 12, 24, 20], [13, 13, 19, 19]],
    ]
    assert own.num_anchors == [1, 2]
    shared = ListAnchorGenerator([8, 32], anchors=[[2, 4]])
    assert [level.tolist() for level in shared([(1, 1), (1, 1)])] == [[[3, 2, 5, 6]], [[15, 14, 17, 18]]]


def test_the_default_list_is_as_large_as_py_faster_rcnns_nine():
    published = [
        *([-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199]),
        *([-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263]),
        *([-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359]),
    ]
    (anchors,) = ListAnchorGenerator([16])([(1, 1)])
    # Its borders are the last pixels inside, so that a side is one longer than their difference.
    assert anchors.tolist() == [[x1, y1, x2 + 1, y2 + 1] for x1, y1, x2, y2 in published]


@pytest.mark.parametrize(
    "anchors",
    [[], [[]], [[[]]], [[8]], [[8, 8, 8]], [[8, 0]], [[8, -1]], [[[8, 8]], [[9, 9]]], [[[8, 8]], []]],
)
def test_impossible_lists_are_refused(anchors):
    with pytest.raises(UserError, match="anchors (are|has)"):
        ANCHOR_GENERATORS.build({"NAME": "ListAnchorGenerator", "ANCHORS": anchors}, [16])


def test_a_list_that_is_neither_pairs_nor_pairs_a_level_is_refused():
    with pytest.raises(UserError, match="ANCHORS: expected a list"):
        ANCHOR_GENERATORS.build({"NAME": "ListAnchorGenerator", "ANCHORS": [8, 16]}, [16])
