import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detlite.ops.boxes import boxes_inside, scale_boxes


def test_a_box_that_touches_the_border_is_inside():
    boxes = torch.tensor(
        [[0.0, 0.0, 100.0, 50.0], [-0.01, 0, 9, 9], [0, -0.01, 9, 9], [0, 0, 100.01, 9], [0, 0, 9, 50.01]]
    )
    assert boxes_inside(boxes, [(50, 100)]).tolist() == [[True, False, False, False, False]]


def test_no_boxes_are_inside_nothing():
    assert boxes_inside(torch.zeros(0, 4), [(50, 100)]).shape == (1, 0)
    assert scale_boxes(torch.zeros(0, 4), (50, 100), (10, 10)).shape == (0, 4)


def test_boxes_scale_as_torchvision_resizes_them():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1000, 2, 2, generator=generator) * torch.tensor([200.0, 100.0])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    theirs = F.resize(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 200)), [130, 90])
    torch.testing.assert_close(scale_boxes(boxes, (100, 200), (130, 90)), theirs.as_subclass(torch.Tensor))
