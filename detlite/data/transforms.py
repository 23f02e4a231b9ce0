"""Transforms of a record for the model: ``(image, target) -> (image, target)``.

The transforms of torchvision.transforms.v2 change image and boxes together and keep the rest of the target. To
configure one of them, register a subclass whose keyword-only parameters are its keys, as RandomHorizontalFlip does.
"""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detlite.errors import UserError, require
from detlite.registry import TRANSFORMS
from detlite.seeding import random_state, seeded


@TRANSFORMS.register()
class ResizeShortSide:
    """Scale an image to a given short side, or less if its long side is too long.

    Bilinear with antialiasing. Height and width are rounded to whole pixels, and boxes are scaled by the rounded sizes.
    The defaults are Fast R-CNN's (Girshick 2015, section 3).

    Args:
        size: length of the short side, in pixels; from a list, one is drawn per image.
        max_size: greatest length of the long side, in pixels.

    >>> image, target = ResizeShortSide(size=60, max_size=90)(torch.zeros(3, 30, 50, dtype=torch.uint8), {})
    >>> image.shape
    torch.Size([3, 54, 90])
    """

    def __init__(self, *, size: int | list[int] = 600, max_size: int = 1000):
        self.sizes = [size] if isinstance(size, int) else list(size)
        self.max_size = max_size
        fits = self.sizes and 1 <= min(self.sizes) <= max(self.sizes) <= max_size
        require(fits, "need 1 <= size <= max_size", size, max_size)

    def __call__(self, image: torch.Tensor, target: dict) -> tuple:
        """Scale an image (3, H, W) and its target."""
        # A single size is drawn as well, so that the draws of later transforms do not depend on the number of sizes.
        return self._scale(image, target, self.sizes[torch.randint(len(self.sizes), ())])

    def in_test(self, image: torch.Tensor, target: dict) -> tuple:
        """Scale an image and its target without a draw, if there is a single size."""
        if len(self.sizes) > 1:
            return self(image, target)
        return self._scale(image, target, self.sizes[0])

    def _scale(self, image, target, size):
        return v2.Resize(self.new_size(image.shape[-2:], size), antialias=True)(image, target)

    def new_size(self, image_size: tuple[int, int], size: int | list[int]) -> tuple[int, int]:
        """Return [height, width] after scaling an image to a short side of ``size``.

        >>> ResizeShortSide(size=60, max_size=90).new_size((30, 50), 60)
        [54, 90]
        """
        short, long = min(image_size), max(image_size)
        if size * long > self.max_size * short:
            return [max(1, round(side * self.max_size / long)) for side in image_size]
        return [round(side * size / short) for side in image_size]


@TRANSFORMS.register()
class TorchvisionResize(ResizeShortSide):
    """Scale an image to a short side exactly as torchvision's detectors do.

    Bilinear without antialiasing, on float pixels. Height and width are rounded down.

    Args:
        size: length of the short side, in pixels; from a list, one is drawn per image.
        max_size: greatest length of the long side, in pixels.
    """

    def __init__(self, *, size: int | list[int] = 800, max_size: int = 1333):
        super().__init__(size=size, max_size=max_size)

    def _scale(self, image, target, size):
        image = v2.functional.to_dtype(image, torch.float32, scale=True)
        return v2.Resize(self.new_size(image.shape[-2:], size), antialias=False)(image, target)

    def new_size(self, image_size, size):
        """Return [height, width] after scaling an image to a short side of ``size``."""
        scale = min(size / min(image_size), self.max_size / max(image_size))
        return [int(side * scale) for side in image_size]


@TRANSFORMS.register()
class Detectron2Resize(TorchvisionResize):
    """Scale an image to a short side exactly as detectron2 does.

    Bilinear by Pillow, to 8-bit pixels. Halves of height and width are rounded up.
    """

    def _scale(self, image, target, size):
        pixels = v2.functional.to_pil_image(v2.functional.to_dtype(image, torch.uint8, scale=True))
        resized, target = v2.Resize(self.new_size(image.shape[-2:], size))(pixels, target)
        return tv_tensors.Image(resized), target

    def new_size(self, image_size, size):
        """Return [height, width] after scaling an image to a short side of ``size``."""
        scale = size / min(image_size)
        limit = min(1, self.max_size / (scale * max(image_size)))
        return [max(1, int(side * scale * limit + 0.5)) for side in image_size]


@TRANSFORMS.register()
class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """Mirror image and boxes left to right, at random.

    Args:
        p: probability of mirroring.
    """

    def __init__(self, *, p: float = 0.5):
        require(0 <= p <= 1, "p: expected a probability from 0 to 1", p)
        super().__init__(p)


def build_transforms(nodes: list) -> v2.Compose:
    """Build one callable (image, target) -> (image, target) from config nodes."""
    transforms = [TRANSFORMS.build(node) for node in nodes]
    return v2.Compose([*transforms, drop_emptied_boxes])


def drop_emptied_boxes(image, target):
    """Drop the boxes that a crop left without an area, with their rows of all tensors of the target.

    A target's tensors with as many rows as there are boxes have a row per box.
    """
    boxes = target.get("boxes")
    if boxes is None:
        return image, target
    corners = boxes.as_subclass(torch.Tensor)
    keep = ((corners[:, 2:] - corners[:, :2]).abs() >= 1e-3).all(dim=1)  # an inverted box is a mistake, and stays
    if keep.all():
        return image, target
    kept = {}
    for key, value in target.items():
        is_per_box = isinstance(value, torch.Tensor) and value.shape[:1] == keep.shape
        kept[key] = tv_tensors.wrap(value[keep], like=value) if is_per_box else value
    return image, kept


def build_test_transforms(nodes: list) -> v2.Compose:
    """Build the transforms of TRANSFORMS.TEST. A UserError names one that draws random numbers."""
    composed = build_transforms(nodes)
    composed.transforms = [getattr(transform, "in_test", transform) for transform in composed.transforms]
    refuse_draws(composed.transforms, "TRANSFORMS.TEST")
    return composed


def refuse_draws(transforms: list, where: str) -> None:
    """Raise a UserError if one of several transforms draws random numbers for an example image."""
    image = tv_tensors.Image(torch.zeros(3, 480, 640, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes([[20.0, 40, 200, 300]], format="XYXY", canvas_size=(480, 640))
    target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64), "image_id": 0}
    with seeded(0):
        before = random_state()
        for index, transform in enumerate(transforms):
            image, target = transform(image, target)
            if random_state() != before:
                name = type(getattr(transform, "__self__", transform)).__name__
                problem = "draws random numbers, so an image would not always be detected alike"
                raise UserError(f"{where}.{index}: {name} {problem}; only TRANSFORMS.TRAIN may be random")
