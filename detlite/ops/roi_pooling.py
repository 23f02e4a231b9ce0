"""RoIAlign with torchvision's signature.

torchvision's kernel runs channel by channel, in one thread. The fast path stores the channels of a cell next to each
other, and reads them at once. Letters: S regions of an image, P bins along a side.
"""

import torch
import torchvision
from torch.nn import functional as F

from detlite.ops.cpu import has_cpu_kernel


def roi_align(features, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """Average bilinear samples of regions: equal to ``torchvision.ops.roi_align`` up to rounding.

    Args:
        features: (N, C, h, w).
        boxes: in pixels. Either a list of one tensor (S, 4) per image, or one tensor for all images whose rows are
            (image index, x1, y1, x2, y2).
        output_size: P.
        spatial_scale: feature cells per pixel.
        sampling_ratio: samples along each side of a bin; -1 takes as many as the bin has feature cells.
        aligned: whether the centers of cells are at half-integer positions.

    Returns:
        (R, C, P, P) for the R regions of all images.
    """
    is_list = not isinstance(boxes, torch.Tensor)
    if is_list and has_cpu_kernel(features) and sampling_ratio > 0:
        return roi_align_cpu(features, boxes, output_size, spatial_scale, sampling_ratio, aligned)

    # Under autocast the features may have a lower precision than the boxes, and not every device's kernel accepts two
    # different data types.
    dtype = boxes[0].dtype if is_list else boxes.dtype
    pooled = torchvision.ops.roi_align(features.to(dtype), boxes, output_size, spatial_scale, sampling_ratio, aligned)
    return pooled.to(features.dtype)


def roi_align_cpu(features, boxes, output_size, spatial_scale, sampling_ratio, aligned):
    """Compute RoIAlign with ``F.embedding_bag``: a bin is a weighted sum of cells, 4 per sample."""
    pooled = []
    height, width = features.shape[2:]
    channels_last = features.to(boxes[0].dtype).permute(0, 2, 3, 1)
    for image_features, image_boxes in zip(channels_last, boxes, strict=True):  # [h, w, C] and [S, 4]
        # Along each axis, a sample reads two cells.
        x1, y1, x2, y2 = (image_boxes * spatial_scale).unbind(dim=1)
        rows, y_weights = _sample_cells(y1, y2, height, output_size, sampling_ratio, aligned)  # [S, P, 2 * samples]
        columns, x_weights = _sample_cells(x1, x2, width, output_size, sampling_ratio, aligned)

        # A bin reads every cell in one of its rows and one of its columns.
        cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]  # [S, P, P, 2 * samples, 2 * samples]
        weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]

        # Each bin is a bag: [S * P * P, (2 * samples) ** 2].
        bags = F.embedding_bag(
            cells.flatten(0, 2).flatten(1),
            image_features.reshape(height * width, -1),
            per_sample_weights=weights.flatten(0, 2).flatten(1),
            mode="sum",
        )
        pooled.append(bags.view(len(image_boxes), output_size, output_size, image_features.shape[2]))
    return torch.cat(pooled).permute(0, 3, 1, 2).to(features.dtype)


def _sample_cells(low, high, size, output_size, sampling_ratio, aligned):
    """Return the cells that each bin reads along one axis, and their weights.

    Both are (S, P, 2 * sampling_ratio). ``low`` and ``high`` (S,) are the regions' borders, in cells. ``size`` is the
    number of cells along the axis.
    """
    # Samples are equally spaced over the region.
    start = low - 0.5 if aligned else low
    length = high - low if aligned else (high - low).clamp(min=1)
    count = output_size * sampling_ratio
    steps = (torch.arange(count, dtype=low.dtype, device=low.device) + 0.5) / count
    positions = start[:, None] + steps * length[:, None]  # [S, count]
    is_inside = (positions >= -1) & (positions <= size)  # as in torchvision, samples further out count as 0

    # A sample interpolates between two cells. ``fraction`` is the weight of the upper one.
    positions = positions.clamp(0, size - 1)
    lower = positions.floor().clamp(max=max(size - 2, 0))
    upper = (lower + 1).clamp(max=size - 1)
    fraction = positions - lower
    cells = torch.stack([lower, upper], dim=2).long()
    weights = torch.stack([1 - fraction, fraction], dim=2)
    weights = weights * is_inside[..., None] / sampling_ratio
    shape = len(low), output_size, 2 * sampling_ratio
    return cells.view(shape), weights.view(shape)
