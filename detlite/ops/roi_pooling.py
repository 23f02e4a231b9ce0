"""RoIAlign and RoIPool for a CPU, as reads of whole cells of channels-last features.

torchvision's kernels go channel by channel, in one thread. Here a cell's channels, which lie together, are read at
once. Letters: S regions of an image, P bins along a side.
"""

import torch
from torch.nn import functional as F

LARGEST_TABLE = 2**26  # numbers; of finer features torchvision's kernel needs less memory


def roi_align_cpu(features, boxes, resolution, scale, sampling_ratio, aligned):
    """RoIAlign: a bin is a weighted sum of 4 cells for each of its samples, a bag of ``embedding_bag``.

    Equal to ``torchvision.ops.roi_align`` up to rounding, and like it computed in the boxes' dtype.

    Args:
        features: (N, C, h, w).
        boxes: for each image (S, 4), in pixels.
        resolution: P.
        scale: feature cells in a pixel.
        sampling_ratio: samples along each side of a bin, at least 1.
        aligned: see :class:`~detlite.modeling.roi_heads.pooler.RoIAlign`.

    Returns:
        (S of all images, C, P, P), channels last.
    """
    pooled = []
    height, width = features.shape[2:]
    for level, image_boxes in zip(features.to(boxes[0].dtype).permute(0, 2, 3, 1), boxes, strict=True):  # [h, w, C]
        x1, y1, x2, y2 = (image_boxes * scale).unbind(dim=1)
        rows, y_weights = _samples(y1, y2, height, resolution, sampling_ratio, aligned)  # [S, P, 2 * samples]
        columns, x_weights = _samples(x1, x2, width, resolution, sampling_ratio, aligned)
        cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]  # [S, P, P, 2 * samples, 2 * samples]
        weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
        bags = F.embedding_bag(
            cells.flatten(0, 2).flatten(1),
            level.reshape(height * width, -1),
            per_sample_weights=weights.flatten(0, 2).flatten(1),
            mode="sum",
        )
        pooled.append(bags.view(len(image_boxes), resolution, resolution, level.shape[2]))
    return torch.cat(pooled).permute(0, 3, 1, 2).to(features.dtype)


def _samples(low, high, size, resolution, sampling_ratio, aligned):
    """Which cells along one axis count in each bin, and how much: (S, P, 2 * sampling_ratio) each.

    Args:
        low, high: (S,) borders of the regions, in cells.
        size: cells along the axis.
        resolution, sampling_ratio, aligned: see :func:`roi_align_cpu`.
    """
    length = high - low if aligned else (high - low).clamp(min=1)
    count = resolution * sampling_ratio
    steps = (torch.arange(count, dtype=low.dtype, device=low.device) + 0.5) / count
    positions = (low - 0.5 if aligned else low)[:, None] + steps * length[:, None]  # [S, count]
    inside = (positions >= -1) & (positions <= size)  # as in torchvision, samples further out count as 0
    positions = positions.clamp(0, size - 1)
    cells = positions.floor().clamp(max=max(size - 2, 0))
    upper = positions - cells
    weights = torch.stack([1 - upper, upper], dim=2) * inside[..., None] / sampling_ratio
    cells = torch.stack([cells, (cells + 1).clamp(max=size - 1)], dim=2).long()
    shape = len(low), resolution, 2 * sampling_ratio
    return cells.view(shape), weights.view(shape)


def roi_pool_cpu(features, boxes, resolution, scale):
    """RoIPool: a bin is the maximum of four windows that cover it, looked up in a table of windows' maxima.

    The table has the maxima of windows of 1, 2, 4, ... cells along each side, at every cell. Equal to
    ``torchvision.ops.roi_pool``; without gradient.

    Args:
        features: (N, C, h, w).
        boxes: for each image (S, 4), in pixels.
        resolution: P.
        scale: feature cells in a pixel.

    Returns:
        (S of all images, C, P, P), channels last; None where the table would be larger than LARGEST_TABLE.
    """
    height, width = features.shape[2:]
    pooled = []
    for level, image_boxes in zip(features.permute(0, 2, 3, 1), boxes, strict=True):  # [h, w, C]
        x1, y1, x2, y2 = (image_boxes * scale).unbind(dim=1)
        y_power, tops, y_empty = _windows(y1, y2, height, resolution)
        x_power, lefts, x_empty = _windows(x1, x2, width, resolution)
        if not len(image_boxes):
            continue
        y_powers, x_powers = int(y_power.max()) + 1, int(x_power.max()) + 1
        if y_powers * x_powers * level.numel() > LARGEST_TABLE:
            return None
        table = _maxima(level, y_powers, x_powers).flatten(0, 3)
        first = (y_power[:, :, None] * x_powers + x_power[:, None, :]) * height * width  # [S, P, P]
        cells = [(first + top[:, :, None] * width + left[:, None, :]).flatten() for top in tops for left in lefts]
        bins = level.new_empty(len(cells[0]), level.shape[2])
        for part in torch.arange(len(bins)).split(256):  # few enough to stay in the cache
            part = slice(int(part[0]), int(part[-1]) + 1)
            torch.index_select(table, 0, cells[0][part], out=bins[part])
            for others in cells[1:]:
                torch.maximum(bins[part], table[others[part]], out=bins[part])
        bins[(y_empty[:, :, None] | x_empty[:, None, :]).flatten()] = 0
        pooled.append(bins.view(len(image_boxes), resolution, resolution, level.shape[2]))
    if not pooled:
        return features.new_zeros(0, features.shape[1], resolution, resolution)
    return torch.cat(pooled).permute(0, 3, 1, 2)


def _windows(low, high, size, resolution):
    """The two windows of 2 ** power cells that cover each bin along one axis, borders as Girshick's kernel has them.

    Args:
        low, high: (S,) borders of the regions, in cells.
        size: cells along the axis.
        resolution: P.

    Returns:
        power (S, P), the windows' first cells (S, P), two tensors, and which bins are empty (S, P).
    """
    low, high = (border.sign() * (border.double().abs() + 0.5).floor() for border in (low, high))  # half away from 0
    length = (high - low + 1).clamp(min=1).float()[:, None] / resolution
    bins = torch.arange(resolution, dtype=torch.float32, device=low.device)
    first = ((bins * length).floor() + low[:, None]).clamp(0, size).long()
    last = (((bins + 1) * length).ceil() + low[:, None]).clamp(0, size).long()
    power = torch.frexp((last - first).clamp(min=1).float()).exponent.long() - 1
    return power, (first.clamp(max=size - 1), (last - 2**power).clamp(min=0)), last <= first


def _maxima(level, y_powers, x_powers):
    """[i, j, y, x]: the maximum of the 2 ** i by 2 ** j cells from (y, x) on, where they are all in ``level``."""
    height, width, channels = level.shape
    table = level.new_empty(y_powers, x_powers, height, width, channels)
    table[0, 0] = level
    for i in range(y_powers):
        if i:
            half = 2 ** (i - 1)
            smaller = table[i - 1, 0]
            torch.maximum(smaller[: height - half], smaller[half:], out=table[i, 0, : height - half])
        for j in range(1, x_powers):
            half = 2 ** (j - 1)
            smaller = table[i, j - 1]
            torch.maximum(smaller[:, : width - half], smaller[:, half:], out=table[i, j, :, : width - half])
    return table
