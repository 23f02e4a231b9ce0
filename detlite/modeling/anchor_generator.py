"""Anchors: the boxes that the RPN's predictions are relative to (Ren et al. 2015, section 3.1.1)."""

import math

import torch

from detlite.registry import ANCHOR_GENERATORS


class _CellAnchors:
    """The same anchors around every cell of a level.

    Args:
        strides: pixels between the cells of each level.
        offset: where in its cell an anchor is centred, in strides.
        cell_anchors: for each level (A, 4), around the origin.
    """

    def __init__(self, strides, offset, cell_anchors):
        if not 0 <= offset <= 1:
            raise ValueError(f"offset is a share of a cell, from 0 to 1, got {offset}")
        self.strides = list(strides)
        self.offset = offset
        self.cell_anchors = cell_anchors
        self.num_anchors = [len(cell) for cell in cell_anchors]

    def __call__(self, feature_sizes, device="cpu"):
        """All anchors of a batch's feature maps.

        Args:
            feature_sizes: (height, width) of each level, in cells.
            device: where the anchors are wanted.

        Returns:
            list of (h * w * A, 4), one a level: row by row of the map, the A anchors of a cell together.
        """
        return [
            shift(cell.to(device), size, stride, self.offset)
            for cell, size, stride in zip(self.cell_anchors, feature_sizes, self.strides, strict=True)
        ]


@ANCHOR_GENERATORS.register()
class GridAnchorGenerator(_CellAnchors):
    """Boxes of every size and aspect ratio around the centre of every feature map cell.

    An anchor of size s and ratio r has height s * sqrt(r) and width s / sqrt(r), so area s * s. In a cell ratios run
    slowest, sizes fastest.

    Args:
        sizes: square roots of the anchors' areas, in pixels; with several feature levels one list a level, or one list
            for all.
        aspect_ratios: height / width.
        offset: where in its cell an anchor is centred, in strides: 0.5 is the centre, 0 (torchvision) the corner.
    """

    def __init__(
        self,
        strides,
        *,
        sizes: list[float] | list[list[float]] = (128, 256, 512),
        aspect_ratios: list[float] = (0.5, 1, 2),
        offset: float = 0.5,
    ):
        by_level = bool(sizes) and isinstance(sizes[0], (list, tuple))
        levels = one_per_level("sizes", sizes if by_level else [sizes], len(strides))
        if not all(numbers and all(0 < n < math.inf for n in numbers) for numbers in (*levels, aspect_ratios)):
            raise ValueError(f"sizes and aspect_ratios are numbers above 0, got {sizes} and {aspect_ratios}")
        super().__init__(strides, offset, [cell_anchors(level, aspect_ratios) for level in levels])


@ANCHOR_GENERATORS.register()
class ListAnchorGenerator(_CellAnchors):
    """Boxes of the given widths and heights around the centre of every feature map cell.

    The defaults are py-faster-rcnn's nine; ``detlite anchors`` finds those that fit a data set.

    Args:
        anchors: (width, height) of each anchor, in pixels of the network's input; with several feature levels one list
            of them a level, or one list for all.
        offset: where in its cell an anchor is centred, in strides: 0.5 is the centre, 0 the corner.
    """

    def __init__(
        self,
        strides,
        *,
        anchors: list[list[float]] | list[list[list[float]]] = (
            *((184, 96), (368, 192), (736, 384)),
            *((128, 128), (256, 256), (512, 512)),
            *((88, 176), (176, 352), (352, 704)),
        ),
        offset: float = 0.5,
    ):
        by_level = all(level and isinstance(level[0], (list, tuple)) for level in anchors)
        levels = one_per_level("anchors", anchors if by_level and anchors else [anchors], len(strides))
        if not all(
            level and all(len(size) == 2 and 0 < min(size) and max(size) < math.inf for size in level)
            for level in levels
        ):
            raise ValueError(f"anchors are pairs of a width and a height above 0, got {anchors}")
        super().__init__(strides, offset, [centered(torch.tensor(level, dtype=torch.float64)) for level in levels])


def one_per_level(name, levels, count):
    """Lists, one for each feature level; a single one is for all levels.

    Args:
        name: of the parameter that gave them, for the message.
        levels: the lists.
        count: of feature levels.
    """
    levels = list(levels) * count if len(levels) == 1 else list(levels)
    if len(levels) != count:
        raise ValueError(f"{name} has {len(levels)} lists, but the features have {count} levels")
    return levels


def centered(sizes):
    """(A, 2) widths and heights -> (A, 4) float32 boxes around the origin."""
    return torch.cat([-sizes / 2, sizes / 2], dim=1).float()


def cell_anchors(sizes, aspect_ratios):
    """Anchors of one cell, centred on the origin.

    Args:
        sizes: square roots of areas, pixels.
        aspect_ratios: height / width.

    Returns:
        (len(aspect_ratios) * len(sizes), 4), sizes running fastest.

    >>> cell_anchors([32], [4])  # twice as high, half as wide
    tensor([[ -8., -32.,   8.,  32.]])
    """
    sizes = torch.tensor(sizes, dtype=torch.float64)
    roots = torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()[:, None]
    return centered(torch.stack([(sizes / roots).flatten(), (sizes * roots).flatten()], dim=1))


def shift(cell, feature_size, stride, offset):
    """Copies of a cell's anchors at every cell of a feature map.

    Args:
        cell: (A, 4) anchors around the origin.
        feature_size: (height, width) in cells.
        stride: pixels between cells.
        offset: of the first centre, in strides.

    Returns:
        (h * w * A, 4), row by row.

    >>> shift(torch.tensor([[-1., -2., 1., 2.]]), (1, 2), 16, 0.5)
    tensor([[ 7.,  6.,  9., 10.],
            [23.,  6., 25., 10.]])
    """
    height, width = feature_size
    y = (torch.arange(height, device=cell.device) + offset) * stride
    x = (torch.arange(width, device=cell.device) + offset) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")  # [h, w]
    centers = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)  # [h * w, 1, 4]
    return (centers + cell).reshape(-1, 4)
