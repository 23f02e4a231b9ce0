"""RoIPool and RoIAlign with torchvision's signatures.

torchvision's kernels run channel by channel, in one thread. The fast paths store the channels of a cell next to each
other, and read them at once. Letters: S regions of an image, P bins along a side.
"""

import itertools

import torch
import torchvision
from torch.nn import functional as F

from detlite.ops.cpu import has_cpu_kernel

REGIONS_AT_A_TIME = 128  # of roi_align_cpu, which needs memory for them twice
LARGEST_TABLE = 2**26  # numbers in the table of roi_pool_cpu; if it would be larger, torchvision's kernel runs


def roi_pool(features, boxes, output_size, spatial_scale=1.0):
    """Max-pool the R regions of all images to (R, C, P, P): bitwise equal to ``torchvision.ops.roi_pool``.

    Args:
        features: (N, C, h, w).
        boxes: in pixels. Either a list of one tensor (S, 4) per image, or one tensor for all images whose rows are
            (image index, x1, y1, x2, y2).
        output_size: P.
        spatial_scale: feature cells per pixel.
    """
    is_list = not isinstance(boxes, torch.Tensor)
    if is_list and has_cpu_kernel(features) and not features.requires_grad:
        pooled = roi_pool_cpu(features, boxes, output_size, spatial_scale)
        if pooled is not None:
            return pooled
    return torchvision.ops.roi_pool(features, boxes, output_size, spatial_scale)


def roi_align(features, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """Average bilinear samples of regions.

    Equal to ``torchvision.ops.roi_align`` up to rounding. See :func:`roi_pool` for the other arguments and the shape of
    the result.

    Args:
        sampling_ratio: samples along each side of a bin; -1 takes as many as the bin has feature cells.
        aligned: whether the centers of cells are at half-integer positions.
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
    channels, height, width = features.shape[1:]
    channels_last = features.to(boxes[0].dtype).permute(0, 2, 3, 1)
    # Contiguous, so that a fully connected layer need not copy it.
    pooled = features.new_empty(sum(map(len, boxes)), channels, output_size**2)
    start = 0
    for image_features, image_boxes in zip(channels_last, boxes, strict=True):  # [h, w, C] and [S, 4]
        image_cells = image_features.reshape(height * width, -1)
        for block in image_boxes.split(REGIONS_AT_A_TIME):
            # Along each axis, a sample reads two cells.
            x1, y1, x2, y2 = (block * spatial_scale).unbind(dim=1)
            rows, y_weights = _sample_cells(y1, y2, height, output_size, sampling_ratio, aligned)  # [S, P, 2 * samples]
            columns, x_weights = _sample_cells(x1, x2, width, output_size, sampling_ratio, aligned)

            # A bin reads every cell in one of its rows and one of its columns: [S, P, P, 2 * samples, 2 * samples].
            cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
            weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]

            # Each bin is a bag: [S * P * P, (2 * samples) ** 2].
            cells, weights = (values.flatten(0, 2).flatten(1) for values in (cells, weights))
            bags = F.embedding_bag(cells, image_cells, per_sample_weights=weights, mode="sum")
            pooled[start : start + len(block)] = bags.view(len(block), output_size**2, channels).transpose(1, 2)
            start += len(block)
    return pooled.unflatten(2, (output_size, output_size))


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


def roi_pool_cpu(features, boxes, output_size, spatial_scale):
    """Compute RoIPool with a table of maxima, without gradient.

    The table has the maxima of all windows whose sides are 1, 2, 4, ... cells. A bin is the maximum of the four windows
    that cover it. Returns None if the table would exceed LARGEST_TABLE.
    """
    height, width = features.shape[2:]
    num_regions = sum(len(image_boxes) for image_boxes in boxes)
    # Contiguous, so that a fully connected layer need not copy it.
    pooled = features.new_empty(num_regions, features.shape[1], output_size, output_size)
    start = 0
    for image_features, image_boxes in zip(features.permute(0, 2, 3, 1), boxes, strict=True):  # [h, w, C] and [S, 4]
        if not len(image_boxes):
            continue
        # Along each axis, two windows cover a bin.
        x1, y1, x2, y2 = (image_boxes * spatial_scale).unbind(dim=1)
        y_power, tops, y_empty = _windows(y1, y2, height, output_size)
        x_power, lefts, x_empty = _windows(x1, x2, width, output_size)
        y_powers, x_powers = int(y_power.max()) + 1, int(x_power.max()) + 1
        if y_powers * x_powers * image_features.numel() > LARGEST_TABLE:
            return None

        # Find the four windows of each bin in the flattened table. It has height * width windows of each size.
        table = _window_maxima(image_features, y_powers, x_powers).flatten(0, 3)
        size_index = y_power[:, :, None] * x_powers + x_power[:, None, :]  # [S, P, P]
        first = size_index * height * width
        windows = []
        for top, left in itertools.product(tops, lefts):
            window = first + top[:, :, None] * width + left[:, None, :]
            windows.append(window.flatten(1))

        # Take the maximum of the four windows, region by region. The bins of one region stay in the cache. They are so
        # few that torch computes them in one thread: threads that wait for each other are slower.
        for index, region_windows in enumerate(zip(*windows, strict=True), start):
            bins = table.index_select(0, region_windows[0])  # [P * P, C]
            for window in region_windows[1:]:
                torch.maximum(bins, table.index_select(0, window), out=bins)
            pooled[index] = bins.unflatten(0, (output_size, output_size)).permute(2, 0, 1)
        regions = pooled[start : start + len(image_boxes)]
        regions.permute(0, 2, 3, 1)[y_empty[:, :, None] | x_empty[:, None, :]] = 0
        start += len(image_boxes)
    return pooled


def _windows(low, high, size, output_size):
    """Return the two windows of 2 ** power cells that cover each bin along one axis.

    Borders are rounded as in Girshick's kernel. Example: the cells 3 to 7 in two bins of 5 / 2 = 2.5 cells. Counted
    from cell 3, bin 0 runs from floor(0) to ceil(2.5) and has the cells 3, 4, 5. Bin 1 runs from floor(2.5) to ceil(5)
    and has the cells 5, 6, 7. The largest power of two in three cells is 2 = 2 ** 1. So the windows of bin 0 start at
    the cells 3 and 4, the windows of bin 1 at 5 and 6.

    ``low`` and ``high`` (S,) are the regions' borders, in cells. ``size`` is the number of cells along the axis.

    Returns:
        (power, (first cells of the first windows, first cells of the second windows), is_empty), all tensors (S, P).

    >>> _windows(torch.tensor([3.0]), torch.tensor([7.0]), size=20, output_size=2)
    (tensor([[1, 1]]), (tensor([[3, 5]]), tensor([[4, 6]])), tensor([[False, False]]))
    """
    # Both border cells belong to the region.
    low, high = _round(low), _round(high)
    length = (high - low + 1).clamp(min=1).float()[:, None] / output_size

    bins = torch.arange(output_size, dtype=torch.float32, device=low.device)
    first = ((bins * length).floor() + low[:, None]).clamp(0, size).long()
    end = (((bins + 1) * length).ceil() + low[:, None]).clamp(0, size).long()  # the cell after the bin

    # frexp's exponent is one too large, for example 3 = 0.75 * 2 ** 2.
    cells = (end - first).clamp(min=1)
    power = torch.frexp(cells.float()).exponent.long() - 1
    starts = first.clamp(max=size - 1), (end - 2**power).clamp(min=0)
    return power, starts, end <= first


def _round(borders):
    """Round to the nearest integer, halves away from 0, as C does."""
    return borders.sign() * (borders.double().abs() + 0.5).floor()


def _window_maxima(image_features, y_powers, x_powers):
    """Return a table of the maxima of all windows in one image's features (h, w, C).

    table[i, j, y, x] is the maximum of a window of 2 ** i by 2 ** j cells, whose top left cell is (y, x). Windows that
    leave the image are not computed.
    """
    height, width, channels = image_features.shape
    table = image_features.new_empty(y_powers, x_powers, height, width, channels)
    table[0, 0] = image_features

    # The maximum of a window is the larger one of its two halves. Double the height with i, and the width with j.
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
