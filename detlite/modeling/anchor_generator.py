"""Anchors, which the RPN's predictions are relative to (Ren et al. 2015, 3.1.1)."""

import math

import torch

from detlite.errors import require
from detlite.registry import ANCHOR_GENERATORS


class _CellAnchors:
    """The same anchors around every cell of a level.

    Args:
        strides: pixels between the cells of each level.
        cell_anchors: for each level (A, 4), around the origin.
        offset: position of an anchor's center in its cell, in strides: 0.5 is the center, 0 (torchvision) the corner.
        even_cells: whether a level's cells divide the padded image evenly, as torchvision's do: pixels between them are
            image side // cells. It matters if the image is no multiple of the level's stride.
    """

    def __init__(self, strides: list[int], cell_anchors: list, *, offset: float = 0.5, even_cells: bool = False):
        require(0 <= offset <= 1, "offset is a fraction of a cell, from 0 to 1", offset)
        self.strides = list(strides)
        self.offset = offset
        self.even_cells = even_cells
        self.cell_anchors = cell_anchors
        self.num_anchors = [len(cell) for cell in cell_anchors]

    def __call__(self, feature_sizes: list, device: str | torch.device = "cpu") -> list[torch.Tensor]:
        """Return all anchors of feature maps of (height, width) in cells.

        Returns:
            list of (h * w * A, 4), one per level: row by row of the map, the A anchors of a cell together.
        """
        # The padded image is a multiple of the finest level's stride.
        image_size = [cells * self.strides[0] for cells in feature_sizes[0]]
        anchors = []
        for cell, size, stride in zip(self.cell_anchors, feature_sizes, self.strides, strict=True):
            strides = (stride, stride)
            if self.even_cells:
                strides = (image_size[0] // size[0], image_size[1] // size[1])
            anchors.append(shift(cell.to(device), size, strides, self.offset))
        return anchors


@ANCHOR_GENERATORS.register()
class GridAnchorGenerator(_CellAnchors):
    """Boxes of all sizes and aspect ratios around the center of each feature cell.

    An anchor of size s and ratio r has height s * sqrt(r) and width s / sqrt(r), so area s * s. Within a cell, sizes
    vary fastest.

    Args:
        sizes: square roots of the anchors' areas, in pixels; with several feature levels one list per level, or one
            list for all.
        aspect_ratios: height / width.
    """

    def __init__(
        self,
        strides: list[int],
        *,
        sizes: list[float] | list[list[float]] = (128, 256, 512),
        aspect_ratios: list[float] = (0.5, 1, 2),
        **kwargs: object,
    ):
        # One list of sizes is for all levels.
        by_level = bool(sizes) and isinstance(sizes[0], (list, tuple))
        levels = one_per_level("sizes", sizes if by_level else [sizes], len(strides))
        fits = all(map(are_positive, [*levels, aspect_ratios]))
        require(fits, "sizes and aspect_ratios are numbers above 0", sizes, aspect_ratios)
        super().__init__(strides, [cell_anchors(level, aspect_ratios) for level in levels], **kwargs)


@ANCHOR_GENERATORS.register()
class ListAnchorGenerator(_CellAnchors):
    """Boxes of given widths and heights around the center of each feature cell.

    The defaults are py-faster-rcnn's nine; ``detlite anchors`` finds anchors that fit a data set.

    Args:
        anchors: (width, height) of each anchor, in pixels of the network's input; with several feature levels one list
            per level, or one list for all.
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
        **kwargs,
    ):
        # One list of pairs is for all levels.
        by_level = bool(anchors) and all(level and isinstance(level[0], (list, tuple)) for level in anchors)
        levels = one_per_level("anchors", anchors if by_level else [anchors], len(strides))
        cells = []
        for level in levels:
            fits = level and all(len(size) == 2 and are_positive(size) for size in level)
            require(fits, "anchors are pairs of a width and a height above 0", anchors)
            cells.append(centered(torch.tensor(level, dtype=torch.float64)))
        super().__init__(strides, cells, **kwargs)


def are_positive(numbers):
    """Check that a list holds finite numbers above 0, at least one."""
    return bool(numbers) and all(0 < number < math.inf for number in numbers)


def one_per_level(name, levels, count):
    """Return ``count`` lists, one per feature level, from that many or from one. Others are a ValueError."""
    levels = list(levels) * count if len(levels) == 1 else list(levels)
    if len(levels) != count:
        raise ValueError(f"{name} has {len(levels)} lists, but the features have {count} levels")
    return levels


def centered(sizes):
    """Return boxes around the origin: widths and heights (A, 2) -> (A, 4) float32."""
    return torch.cat([-sizes / 2, sizes / 2], dim=1).float()


def cell_anchors(sizes, aspect_ratios):
    """Return the anchors of one cell (A, 4), centered on the origin.

    Sizes are square roots of areas, in pixels, and vary fastest; aspect ratios are height / width.

    >>> cell_anchors([32], [4])  # twice as high, half as wide
    tensor([[ -8., -32.,   8.,  32.]])
    """
    sizes = torch.tensor(sizes, dtype=torch.float64)
    roots = torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()[:, None]
    return centered(torch.stack([(sizes / roots).flatten(), (sizes * roots).flatten()], dim=1))


def shift(cell, feature_size, strides, offset):
    """Copy a cell's anchors to all cells of a feature map: (A, 4) -> (h * w * A, 4).

    Args:
        cell: anchors around the origin.
        feature_size: (height, width) in cells.
        strides: pixels between cells, (vertical, horizontal).
        offset: position of the first center, in strides.

    >>> shift(torch.tensor([[-1., -2., 1., 2.]]), (1, 2), (16, 16), 0.5)
    tensor([[ 7.,  6.,  9., 10.],
            [23.,  6., 25., 10.]])
    """
    height, width = feature_size
    y = (torch.arange(height, device=cell.device) + offset) * strides[0]
    x = (torch.arange(width, device=cell.device) + offset) * strides[1]
    y, x = torch.meshgrid(y, x, indexing="ij")  # [h, w]
    centers = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)  # [h * w, 1, 4]
    return (centers + cell).reshape(-1, 4)
