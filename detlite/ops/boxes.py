"""Functions on boxes that torchvision.ops lacks.

Boxes are (R, 4) float32, (x1, y1, x2, y2) in absolute pixels. A box covers x1 <= x < x2, so its width is x2 - x1.
"""

import torch


def boxes_inside(boxes, image_sizes):
    """Check which boxes (R, 4) are wholly inside each of N images of (height, width): (N, R).

    >>> boxes_inside(torch.tensor([[0., 0., 100., 50.], [0., 0., 50., 100.]]), [(50, 100)])
    tensor([[ True, False]])
    """
    limits = size_limits(image_sizes, boxes.device)
    return ((boxes[:, :2] >= 0) & (boxes[:, 2:] <= limits)).all(dim=2)


def size_limits(image_sizes, device):
    """Return the largest x and y in images of (height, width), without waiting for the device: (N, 1, 2)."""
    limits = torch.tensor([(width, height) for height, width in image_sizes], dtype=torch.float32)
    return limits[:, None].to(device, non_blocking=True)


def clip_to_limits(boxes, limits):
    """Clip boxes (N, R, 4) to their images' limits (N, 1, 2): ``torchvision.ops.clip_boxes_to_image`` of each image."""
    return torch.minimum(boxes.clamp(min=0), limits.repeat(1, 1, 2))


def scale_boxes(boxes, from_size, to_size):
    """Resize boxes (R, 4) with their image, from one (height, width) to another.

    >>> scale_boxes(torch.tensor([[10., 20., 30., 40.]]), (50, 100), (100, 300))
    tensor([[30., 40., 90., 80.]])
    """
    y_scale, x_scale = to_size[0] / from_size[0], to_size[1] / from_size[1]
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale], dim=1)
