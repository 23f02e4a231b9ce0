"""Functions on boxes that torchvision.ops lacks.

Boxes are (R, 4) float32, (x1, y1, x2, y2) in absolute pixels. A box covers x1 <= x < x2, so its width is x2 - x1.
"""

import torch


def boxes_inside(boxes, image_size):
    """Check which boxes (R, 4) are wholly inside an image of (height, width): (R,).

    >>> boxes_inside(torch.tensor([[0., 0., 100., 50.], [0., 0., 50., 100.]]), (50, 100))
    tensor([ True, False])
    """
    height, width = image_size
    limits = boxes.new_tensor([width, height])
    return torch.cat([boxes[:, :2] >= 0, boxes[:, 2:] <= limits], dim=1).all(dim=1)


def scale_boxes(boxes, from_size, to_size):
    """Resize boxes (R, 4) with their image, from one (height, width) to another.

    >>> scale_boxes(torch.tensor([[10., 20., 30., 40.]]), (50, 100), (100, 300))
    tensor([[30., 40., 90., 80.]])
    """
    y_scale, x_scale = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return boxes * boxes.new_tensor([x_scale, y_scale, x_scale, y_scale])
