"""Pure functions on boxes that torchvision.ops has not.

Boxes are (R, 4) float32, (x1, y1, x2, y2) in absolute pixels; a box holds x1 <= x < x2, so its width is x2 - x1.
"""

import numpy as np
import torch


def boxes_inside(boxes, image_size):
    """Which boxes lie wholly inside the image.

    Args:
        boxes: (R, 4).
        image_size: (height, width).

    Returns:
        (R,) bool.

    >>> boxes_inside(torch.tensor([[0., 0., 100., 50.], [0., 0., 50., 100.]]), (50, 100))
    tensor([ True, False])
    """
    height, width = image_size
    limits = boxes.new_tensor([width, height])
    return ((boxes[:, :2] >= 0) & (boxes[:, 2:] <= limits)).all(dim=1)


def scale_boxes(boxes, from_size, to_size):
    """Boxes of an image as they lie in the same image resized.

    Args:
        boxes: (R, 4).
        from_size: (height, width) of the image the boxes are in.
        to_size: (height, width) of the image they are wanted in.

    Returns:
        (R, 4).

    >>> scale_boxes(torch.tensor([[10., 20., 30., 40.]]), (50, 100), (100, 300))
    tensor([[30., 40., 90., 80.]])
    """
    y_scale, x_scale = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return boxes * boxes.new_tensor([x_scale, y_scale, x_scale, y_scale])


def overlap_any(boxes, others, iou):
    """Which boxes overlap one of the others more than a limit, on a CPU, in one thread.

    By numpy, because torch shares matrices of this size among threads, and where other programs use the cores one
    thread then waits for the other many times as long as the work takes.

    Args:
        boxes: (R, 4) xyxy.
        others: (S, 4) xyxy.
        iou: the limit of intersection over union. As in ``torchvision.ops.nms``, to the bit: the ratio in single
            precision, which of two numbers is larger in double.

    Returns:
        (R,) bool.

    >>> overlap_any(torch.tensor([[0.0, 0, 4, 2], [4, 0, 6, 2]]), torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 1]]), 0.4)
    tensor([ True, False])
    """
    x1, y1, x2, y2 = boxes.detach().numpy().T[:, :, None]  # [R, 1]
    other_x1, other_y1, other_x2, other_y2 = np.ascontiguousarray(others.detach().numpy().T)  # [S]
    shared = np.minimum(x2, other_x2)  # [R, S]
    shared -= np.maximum(x1, other_x1)
    height = np.minimum(y2, other_y2)
    height -= np.maximum(y1, other_y1)
    shared = np.maximum(shared, 0, out=shared)
    shared *= np.maximum(height, 0, out=height)
    union = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1)
    union -= shared
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without area, which overlap none
        return torch.from_numpy((np.divide(shared, union, out=union) > np.float64(iou)).any(axis=1))
