"""Choose the network's input, and the anchors for it. Sizes of N images and B boxes in them are (width, height)."""

import math
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from detlite.inspection.speed import Task, timed_detector
from detlite.ops.tiles import cut_tiles
from detlite.preparation.anchors import cluster

SMALL, TINY = 32, 16  # px of the network's input; COCO calls objects under 32 px small
LEAST, MOST, QUALITY = 256, 600, 800  # range of the balanced short side, and the largest; the paper's is 600
TILE, MANY = 512, 0.1  # side of a tile; fraction of tiny objects from which large images are cut into tiles
TIMED = 320  # side of the image that is trained on to estimate times
PYRAMID = {4: (0, 32), 8: (32, 64), 16: (64, math.inf)}  # sides of the objects of each level, by its stride


class Input(NamedTuple):
    """A size of the network's input. Its fields are also values of template.yaml."""

    choice: str
    size: int  # short side of whole images, or side of a tile, in pixels
    tile: int = 0  # 0 for whole images
    overlap: int = 128  # of neighboring tiles, in pixels of the files

    def row(self, objects, image_sizes):
        """Describe the input in a row of a table, a dict; "pixels" are those of an epoch."""
        sides = np.sqrt(objects.boxes[:, 2:].prod(axis=1).clip(min=0))
        if self.tile:
            counts = [len(cut_tiles(size[::-1], self.tile, self.overlap)) for size in image_sizes.tolist()]
            pixels, text = sum(counts) * self.tile**2, f"tiles of {self.tile} px"
        else:
            sides = sides * self.size / objects.image_sizes.min(axis=1)
            ratios = image_sizes.max(axis=1) / image_sizes.min(axis=1)
            pixels, text = self.size**2 * ratios.sum(), f"short side {self.size} px"
        shares = {f"objects < {limit} px": f"{(sides < limit).mean():.1%}" for limit in (TINY, SMALL)}
        return {"choice": self.choice, "input": text, **shares, "pixels": float(pixels)}


def choose_inputs(objects, image_sizes, size=None):
    """Return a list of :class:`Input`, the chosen one first.

    ``objects`` and ``image_sizes`` (N, 2) are in pixels of the files. ``size`` is a short side that the user chose.
    """
    relative = np.sqrt(objects.boxes[:, 2:].prod(axis=1).clip(min=0)) / objects.image_sizes.min(axis=1)
    smallest = max(np.quantile(relative, 0.1), 1e-6)  # nine of ten objects are at least this large
    balanced = np.clip(2 * SMALL / smallest, LEAST, MOST)
    fast = max(LEAST / 2, min(SMALL / smallest, balanced * 2 / 3))
    sizes = {"balanced": balanced, "fast": fast, "quality": min(balanced * 1.5, QUALITY)}
    inputs = [Input(choice, math.ceil(side / 16) * 16) for choice, side in sizes.items()]  # multiples of VGG's stride
    if size:
        return [Input("given", size), *inputs]

    # Tiles keep the pixels of large files. Nearly all objects are whole in one of them.
    is_large = np.median(image_sizes.min(axis=1)) > 1.25 * balanced
    if is_large and (relative * balanced < TINY).mean() > MANY:
        longest = np.quantile(objects.boxes[:, 2:].max(axis=1), 0.95)
        return [Input("balanced", TILE, TILE, int(np.clip(longest, 32, TILE // 2))), inputs[0]._replace(choice="fast")]
    return inputs


def choose_anchors(sizes, num, is_pyramid):
    """Return ``num`` anchors for boxes of sizes (B, 2) in the network's input, on each level if there is a pyramid."""
    if not is_pyramid:
        return cluster(sizes, min(num, len(np.unique(sizes, axis=0))), seed=0).round(1).clip(min=0.1).tolist()
    sides, levels = np.sqrt(sizes.prod(axis=1)), []
    for stride, (low, high) in PYRAMID.items():
        own = sizes[(sides >= low) & (sides < high)]
        if len(np.unique(own, axis=0)) < num:  # add squares, where a level has few objects
            own = np.vstack([own, 4 * stride * 2 ** np.repeat(np.arange(num)[:, None] / num, 2, axis=1)])
        levels.append(cluster(own, num, seed=0).round(1).clip(min=0.1).tolist())
    return levels


def add_times(rows, path):
    """Return rows of inputs with the time of an epoch, estimated from one timed step of a config's detector."""
    timed = timed_detector(Task(path, mode="training", size=(TIMED, TIMED)))
    timed.run()  # the first one is slower
    seconds_per_pixel = timed.run()["total"] / TIMED**2
    return [row | {"time per epoch": tqdm.format_interval(row.pop("pixels") * seconds_per_pixel)} for row in rows]
