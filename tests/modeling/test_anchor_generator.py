import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detlite.errors import UserError
from detlite.modeling.anchor_generator import GridAnchorGenerator, cell_anchors
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
