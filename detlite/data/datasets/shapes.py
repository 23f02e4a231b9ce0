"""A generated data set, which needs no files and depends only on its seed."""

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from detlite.data.datasets.ground_truth import coco_ground_truth
from detlite.errors import require
from detlite.registry import DATASETS
from detlite.seeding import derive_seed

MAX_OVERLAP = 0.2  # fraction of the smaller of two objects' squares


@DATASETS.register()
class ShapesDataset:
    """Filled circles, squares and triangles on noisy backgrounds.

    Objects are 1/8 to 15/32 of the image wide (16 to 60 px of 128) and may overlap a little. Boxes are tight around an
    object's visible pixels: x2 and y2 are one past the last. Image ``index`` depends only on ``seed`` and ``index``;
    give training and test different seeds.

    Args:
        num_images: number of images in an epoch or an evaluation. Any larger index gives an image as well.
        image_size: height and width of the images, in pixels.
        max_objects: greatest number of objects per image; the least is 1.
        seed: seed of the images; different seeds give unrelated images.
    """

    classes = ["circle", "square", "triangle"]
    category_ids = [1, 2, 3]

    def __init__(self, *, num_images: int = 1000, image_size: int = 128, max_objects: int = 5, seed: int = 0):
        is_possible = 1 <= num_images <= 10**7 and 32 <= image_size <= 10**4 and 1 <= max_objects <= 100 and seed >= 0
        rule = "need 1 <= num_images <= 10,000,000, 32 <= image_size <= 10,000, 1 <= max_objects <= 100 and seed >= 0"
        require(is_possible, rule, num_images, image_size, max_objects, seed)
        self.image_size = image_size
        self.max_objects = max_objects
        self.seed = seed
        self.sizes = np.full((num_images, 2), image_size)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> map:
        """Yield the first ``num_images`` records."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> tuple:
        """Return image ``index``, 0 or larger, and its target."""
        owner, boxes, labels, generator = self._draw(index)

        # Colors (max_objects + 1, 3): the background's, and each object's at some distance from it, modulo 256.
        contrast = generator.integers(80, 177, (self.max_objects + 1, 3))
        contrast[0] = 0
        colors = (generator.integers(0, 256, 3) + contrast) % 256

        # Pixels (3, H, W): the color of each pixel's object, and noise.
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
        """Return each pixel's object (H, W), boxes (M, 4), labels (M,) and the generator."""
        if index < 0:
            raise IndexError(f"index must be at least 0, got {index}")
        generator = np.random.default_rng(derive_seed(self.seed, int(index)))
        size = self.image_size
        count = generator.integers(1, self.max_objects + 1)
        widths = generator.uniform(size / 8, size * 15 / 32, count)
        corners = generator.uniform(size=(count, 2)) * (size - widths[:, None])
        labels = generator.integers(1, len(self.classes) + 1, count)

        # Fill each object's window, where u and v are pixel centers as fractions of its width, from its corner.
        apart = _far_apart(corners, widths)
        owner = np.zeros((size, size), np.uint8)  # 0 is the background
        for number, i in enumerate(apart, start=1):
            (x, y), width = corners[i], widths[i]
            window = owner[int(y) : int(y + width) + 1, int(x) : int(x + width) + 1]
            u = (np.arange(window.shape[1]) + 0.5 + int(x) - x) / width
            v = (np.arange(window.shape[0])[:, None] + 0.5 + int(y) - y) / width
            window[_covers(self.classes[labels[i] - 1], u, v)] = number

        # A box ends one past the last visible pixel.
        masks = torch.from_numpy(owner == np.arange(1, len(apart) + 1)[:, None, None])
        boxes = masks_to_boxes(masks).long().numpy()
        boxes[:, 2:] += 1
        return owner, boxes, labels[apart], generator

    def coco(self) -> dict:
        """Return the ground truth as a COCO dict, whose image ids are the indices."""
        boxes, labels, box_image_ids = [], [], []
        for index in range(len(self)):
            _, image_boxes, image_labels, _ = self._draw(index)
            boxes += image_boxes.tolist()
            labels += image_labels.tolist()
            box_image_ids += [index] * len(image_boxes)
        boxes = np.array(boxes, float)
        boxes[:, 2:] -= boxes[:, :2]

        ids = range(len(self))
        names = [f"shapes-{self.seed}-{index}" for index in ids]
        objects = (np.array(box_image_ids), boxes, np.array(labels))
        return coco_ground_truth(self.classes, self.category_ids, ids, names, self.sizes, *objects)


def _covers(shape, u, v):
    """Return which points of the unit square, u to the right, v down, are in a shape."""
    if shape == "circle":
        return (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
    if shape == "square":
        return (abs(u - 0.5) <= 0.5) & (abs(v - 0.5) <= 0.5)
    return (abs(u - 0.5) <= v / 2) & (v <= 1)


def _far_apart(corners, widths):
    """Return the indices of squares that do not overlap earlier ones too much."""
    kept = []
    for i in range(len(widths)):
        low = np.maximum(corners[kept], corners[i])
        high = np.minimum(corners[kept] + widths[kept, None], corners[i] + widths[i])
        shared = (high - low).clip(0).prod(axis=1)
        if (shared <= MAX_OVERLAP * np.minimum(widths[kept], widths[i]) ** 2).all():
            kept.append(i)
    return kept
