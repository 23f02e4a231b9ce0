"""Overlapping tiles of an image. Tiles and boxes are (x1, y1, x2, y2) in the image's pixels."""

BORDER = 4  # pixels from a tile's border within which a box counts as cut


def cut_tiles(image_size, side, overlap):
    """Cut an image of (height, width) into the fewest square tiles that overlap by ``overlap`` pixels or more.

    An image that is shorter than ``side`` has one row or column of tiles, of its own height or width.

    >>> cut_tiles((100, 250), 150, 40)
    [(0, 0, 150, 100), (100, 0, 250, 100)]
    """
    rows, columns = (_cut(length, side, overlap) for length in image_size)
    return [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _cut(length, side, overlap):
    """Cut a length into overlapping spans (start, end), evenly placed."""
    if length <= side:
        return [(0, length)]
    steps = -((side - length) // (side - overlap))
    starts = [(length - side) * step // steps for step in range(steps + 1)]
    return [(start, start + side) for start in starts]


def uncut(boxes, tile, image_size, overlap):
    """Return which boxes (R, 4) found in a tile to keep, (R,): of the others, the next tile shows more.

    These others touch a border between two tiles, but not the other end of the tiles' overlap. So an object that is
    smaller than the overlap is kept only where it is whole.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    start, end = boxes.new_tensor(tile).view(2, 2)
    is_cut_low = (start > 0) & (low <= start + BORDER) & (high < start + overlap - BORDER)
    is_cut_high = (end < end.new_tensor(image_size[::-1])) & (high >= end - BORDER) & (low > end - overlap + BORDER)
    return ~(is_cut_low | is_cut_high).any(dim=1)
