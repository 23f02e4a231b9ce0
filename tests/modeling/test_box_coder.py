import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from detlite.errors import UserError
from detlite.modeling.box_coder import DeltaBoxCoder
from detlite.registry import BOX_CODERS

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 500
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 300 + 1], dim=1)


def test_encoding_is_the_papers_formula():
    box, gt_box = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[15.0, 10, 55, 50]])
    # width 20 to 40, height 40 to 40; center (20, 40) to (35, 30)
    expected = torch.tensor([[2 * 15 / 20, 3 * -10 / 40, 4 * math.log(40 / 20), 5 * math.log(40 / 40)]])
    torch.testing.assert_close(DeltaBoxCoder(weights=[2, 3, 4, 5]).encode(box, gt_box), expected)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_thousand_random_boxes_agree_with_torchvision(weights):
    generator = torch.Generator().manual_seed(0)
    boxes, gt_boxes = random_boxes(1000, generator), random_boxes(1000, generator)
    deltas = torch.randn(1000, 4, generator=generator) * torch.tensor(weights)
    ours, theirs = DeltaBoxCoder(weights=weights), BoxCoder(weights)
    # torchvision takes centers by another route: up to 2e-4 of a pixel apart, which a side of 1 px makes 1e-3
    torch.testing.assert_close(
        ours.encode(boxes, gt_boxes), theirs.encode_single(gt_boxes, boxes), atol=1e-3, rtol=1e-5
    )
    torch.testing.assert_close(ours.decode(boxes, deltas), theirs.decode_single(deltas, boxes), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_degenerate_boxes_and_huge_deltas_agree_with_torchvision(weights):
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9], [0, 0, 10, 10], [0, 0, 10, 10]])
    deltas = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1e4, 1e4], [1e4, -1e4, -1e4, -1e4]])
    ours, theirs = DeltaBoxCoder(weights=weights), BoxCoder(weights)
    decoded = ours.decode(boxes, deltas)
    assert decoded.isfinite().all()
    torch.testing.assert_close(decoded, theirs.decode_single(deltas, boxes))


def test_an_output_never_makes_a_box_more_than_62_times_as_large():
    decoded = DeltaBoxCoder().decode(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 99, 99]]))
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492, 508, 508]]))  # 16 * 1000 / 16 wide, around 8


@pytest.mark.parametrize("weights", WEIGHTS)
def test_decoding_undoes_encoding(weights):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(1000, generator)
    gt_boxes = boxes + torch.rand(1000, 4, generator=generator) * torch.tensor([-20.0, -20, 20, 20])
    coder = DeltaBoxCoder(weights=weights)
    torch.testing.assert_close(coder.decode(boxes, coder.encode(boxes, gt_boxes)), gt_boxes, atol=1e-3, rtol=1e-5)


def test_no_boxes_are_coded_as_no_deltas():
    empty = torch.zeros(0, 4)
    assert DeltaBoxCoder().encode(empty, empty).shape == DeltaBoxCoder().decode(empty, empty).shape == (0, 4)


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 1, 1, 0], []])
def test_other_than_four_positive_weights_are_refused(weights):
    with pytest.raises(UserError, match="four numbers above 0"):
        BOX_CODERS.build({"NAME": "DeltaBoxCoder", "WEIGHTS": weights})
