"""What happens to a record before the model sees it: ``(image, target) -> (image, target)``.

torchvision.transforms.v2 does the work: its transforms move image and boxes together and leave the rest of the target
alone. To configure another one of them, register a subclass whose keyword-only parameters are its keys, as
:class:`RandomHorizontalFlip` is.
"""

import torch
from torchvision.transforms import v2

from detlite.registry import TRANSFORMS


@TRANSFORMS.register()
class ResizeShortSide:
    """Scale the image until its short side has the given length, or its long side the greatest allowed one.

    Bilinear with antialiasing. The new height and width are rounded to whole pixels; boxes are scaled by what came of
    it, in each direction. The defaults are Fast R-CNN's (Girshick 2015, section 3).

    Args:
        size: length of the short side, in pixels; of several, one is drawn for each image.
        max_size: the long side becomes no longer than this, in pixels.

    >>> image, target = ResizeShortSide(size=60, max_size=90)(torch.zeros(3, 30, 50, dtype=torch.uint8), {})
    >>> image.shape
    torch.Size([3, 54, 90])
    """

    def __init__(self, *, size: int | list[int] = 600, max_size: int = 1000):
        self.sizes = [size] if isinstance(size, int) else list(size)
        self.max_size = max_size
        if not self.sizes or not 1 <= min(self.sizes) <= max(self.sizes) <= max_size:
            raise ValueError(f"need 1 <= size <= max_size, got {size} and {max_size}")

    def __call__(self, image, target):
        """Scale an image (3, H, W) and its target."""
        size = self.sizes[torch.randint(len(self.sizes), ())]
        return v2.Resize(self.new_size(image.shape[-2:], size), antialias=True)(image, target)

    def new_size(self, image_size, size):
        """What becomes of an image's (height, width) where its short side is to be ``size``: [height, width].

        >>> ResizeShortSide(size=60, max_size=90).new_size((30, 50), 60)
        [54, 90]
        """
        short, long = min(image_size), max(image_size)
        if size * long > self.max_size * short:
            return [max(1, round(side * self.max_size / long)) for side in image_size]
        return [round(side * size / short) for side in image_size]


@TRANSFORMS.register()
class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """Mirror image and boxes left to right, sometimes.

    Args:
        p: the probability that it happens.
    """

    def __init__(self, *, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability, from 0 to 1, got {p}")
        super().__init__(p)


class Compose:
    """Transforms one after the other; unlike torchvision's, also none at all."""

    def __init__(self, transforms):
        self.transforms = list(transforms)

    def __call__(self, image, target):
        """Apply all of them, in their order."""
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target


def build_transforms(nodes):
    """One callable ``(image, target) -> (image, target)`` from a list of config nodes with a NAME and keys each."""
    return Compose(TRANSFORMS.build(node) for node in nodes)
