"""A generated data set: needs no file, has no end, and is the same everywhere for the same seed."""

import numpy as np
import torch
from torchvision import tv_tensors

from detlite.data.datasets.base import coco_ground_truth
from detlite.registry import DATASETS
from detlite.seeding import derive_seed

MAX_OVERLAP = 0.2  # of the smaller one of two objects' squares


@DATASETS.register()
class ShapesDataset:
    """Filled circles, squares and triangles on noisy grounds.

    Objects are an eighth to not quite half of the image wide (16 to 60 px of 128) and may overlap a little. Boxes are
    tight around the pixels that one sees of them: x2 and y2 are one past the last. Image ``index`` depends on ``seed``
    and ``index`` alone; give training and test different seeds.

    Args:
        num_images: how many images an epoch or an evaluation covers; there is one for any index beyond.
        image_size: height and width of the images, in pixels.
        max_objects: an image has 1 to so many objects.
        seed: images of different seeds have nothing in common.
    """

    classes = ["circle", "square", "triangle"]
    category_ids = [1, 2, 3]

    def __init__(self, *, num_images: int = 1000, image_size: int = 128, max_objects: int = 5, seed: int = 0):
        if num_images < 1 or not 32 <= image_size or not 1 <= max_objects <= 100 or seed < 0:
            raise ValueError(
                "need num_images >= 1, image_size >= 32, 1 <= max_objects <= 100 and seed >= 0, "
                f"got {num_images}, {image_size}, {max_objects} and {seed}"
            )
        self.image_size = image_size
        self.max_objects = max_objects
        self.seed = seed
        self.sizes = np.full((num_images, 2), image_size)

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        """The first ``num_images`` images."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index):
        """Image ``index``, any from 0 on, and its objects."""
        owner, boxes, labels, generator = self._draw(index)
        contrast = generator.integers(
            80, 177, (self.max_objects + 1, 3)
        )  # so far is an object's color from the ground's
        contrast[0] = 0
        colors = (generator.integers(0, 256, 3) + contrast) % 256
        noise = generator.integers(20, 61)
        image = np.stack([channel[owner] for channel in colors.T.astype(np.int16)])
        image += generator.integers(-noise, noise + 1, image.shape, dtype=np.int16)
        boxes = torch.from_numpy(boxes.astype(np.float32))
        return tv_tensors.Image(torch.from_numpy(image.clip(0, 255).astype(np.uint8))), {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=owner.shape),
            "labels": torch.from_numpy(labels),
            "image_id": int(index),
        }

    def _draw(self, index):
        """Which object each pixel shows ((H, W), 0 is the ground), the objects' boxes and labels, and the generator."""
        if index < 0:
            raise IndexError(f"index must be at least 0, got {index}")
        generator = np.random.default_rng(derive_seed(self.seed, int(index)))
        size = self.image_size
        number = generator.integers(1, self.max_objects + 1)
        widths = generator.uniform(size / 8, size * 15 / 32, number)
        corners = generator.uniform(size=(number, 2)) * (size - widths[:, None])
        labels = generator.integers(1, len(self.classes) + 1, number)
        apart = _far_apart(corners, widths)
        owner = np.zeros((size, size), np.uint8)
        for i, ((x, y), width, label) in enumerate(zip(corners[apart], widths[apart], labels[apart], strict=True)):
            window = owner[int(y) : int(y + width) + 1, int(x) : int(x + width) + 1]
            # The window's pixel centers as parts of the object's width, from its top left corner.
            u = (np.arange(window.shape[1]) + 0.5 + int(x) - x) / width
            v = (np.arange(window.shape[0])[:, None] + 0.5 + int(y) - y) / width
            window[_inside(self.classes[label - 1], u, v)] = i + 1
        return owner, _visible_boxes(owner, len(apart)), labels[apart], generator

    def coco(self):
        """The ground truth of the first ``num_images`` images as a COCO dict; image ids are the indices."""
        indices = np.arange(len(self))
        _, boxes, labels, _ = zip(*map(self._draw, indices), strict=True)
        box_image_ids = np.repeat(indices, [len(b) for b in boxes])
        boxes = np.concatenate(boxes).astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        names = [f"shapes-{self.seed}-{index}" for index in indices]
        return coco_ground_truth(
            self.classes, self.category_ids, indices, names, self.sizes, box_image_ids, boxes, np.concatenate(labels)
        )


def _inside(shape, u, v):
    """Which points of the unit square, u to the right, v down, a shape covers."""
    if shape == "circle":
        return (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
    if shape == "square":
        return (abs(u - 0.5) <= 0.5) & (abs(v - 0.5) <= 0.5)
    return (abs(u - 0.5) <= v / 2) & (v <= 1)


def _far_apart(corners, widths):
    """Indices of the squares that overlap no square kept before them by more than MAX_OVERLAP of the smaller one."""
    kept = []
    for i in range(len(widths)):
        low = np.maximum(corners[kept], corners[i])
        high = np.minimum(corners[kept] + widths[kept, None], corners[i] + widths[i])
        shared = (high - low).clip(0).prod(axis=1)
        if (shared <= MAX_OVERLAP * np.minimum(widths[kept], widths[i]) ** 2).all():
            kept.append(i)
    return kept


def _visible_boxes(owner, number):
    """(number, 4) int boxes around the pixels of each object 1 ... number."""
    boxes = np.empty((number, 4), np.int64)
    for i in range(number):
        seen = owner == i + 1
        for axis in (0, 1):  # 0: columns, x; 1: rows, y
            where = np.flatnonzero(seen.any(axis=axis))
            boxes[i, axis], boxes[i, axis + 2] = where[0], where[-1] + 1
    return boxes
