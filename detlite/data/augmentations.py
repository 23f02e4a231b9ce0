"""Random transforms of torchvision.transforms.v2 as parts, and presets of them by the size of the data set."""

import inspect
import io
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype, to_pil_image

from detlite.errors import require
from detlite.parts import SlotList
from detlite.registry import TRANSFORMS
from detlite.signature import constructor_arguments

# Smaller images, and those whose long side is more short sides than this, stay unchanged: kernels and crops do not fit.
SMALLEST, MOST_NARROW = 16, 10


class Key(NamedTuple):
    """A config key of a transform. Its default also decides its type, and the length of a list."""

    default: object
    low: float
    high: float
    doc: str
    is_interval: bool = True  # whether the numbers of a list must ascend

    @property
    def annotation(self):
        """Return the type that values are converted to."""
        is_list = isinstance(self.default, list)
        return list[type(self.default[0])] if is_list else type(self.default)

    def check(self, name, value):
        """Raise a ValueError if a value is outside the range."""
        is_list = isinstance(value, list)
        numbers = value if is_list else [value]
        fits = all(self.low <= number <= self.high for number in numbers)
        rule = f"from {self.low} to {self.high}"
        if is_list:
            fits = fits and len(value) == len(self.default) and (not self.is_interval or value == sorted(value))
            rule = f"{len(self.default)} numbers {rule}{', the smaller one first' * self.is_interval}"
        require(fits, f"{name} must be {rule}", value)


def _p(default, event):
    return Key(default, 0, 1, f"probability of {event}.")


FILL = Key([0, 0, 0], 0, 255, "color (red, green, blue) of new pixels.", False)
PIXELS = {  # transforms that leave boxes unchanged
    "RandomPhotometricDistort": dict(
        doc="Change brightness, contrast, saturation and hue, and permute the color channels, each at random (SSD).",
        brightness=Key([0.875, 1.125], 0, 10, "range of the factor on brightness."),
        contrast=Key([0.5, 1.5], 0, 10, "range of the factor on contrast."),
        saturation=Key([0.5, 1.5], 0, 10, "range of the factor on saturation."),
        hue=Key([-0.05, 0.05], -0.5, 0.5, "range of the shift of hue, as a fraction of the color circle."),
        p=_p(0.5, "each of the changes"),
    ),
    "GaussianBlur": dict(
        doc="Blur every image.",
        kernel_size=Key(5, 1, 31, "side of the kernel in pixels, an odd number."),
        sigma=Key([0.1, 2.0], 0.01, 100, "range of the standard deviation in pixels."),
    ),
    "GaussianNoise": dict(
        doc="Add noise to every image.",
        sigma=Key(0.1, 0, 1, "standard deviation of the noise, as a fraction of white."),
    ),
    "JPEG": dict(
        doc="Compress every image as a JPEG file, and decompress it.",
        quality=Key([40, 95], 1, 100, "range of the quality; low numbers lose more."),
    ),
    "RandomGrayscale": dict(doc="Remove the color, at random.", p=_p(0.1, "removing it")),
    "RandomErasing": dict(
        doc="Erase a random rectangle (Zhong et al. 2020).",
        p=_p(0.5, "erasing"),
        scale=Key([0.02, 0.33], 0, 1, "range of the rectangle's area, as a fraction of the image's."),
        ratio=Key([0.3, 3.3], 0.01, 100, "range of the rectangle's height / width."),
        value=Key(0.0, 0, 255, "gray value of the rectangle."),
    ),
}
BOXES = {  # transforms that change boxes with the image
    "RandomIoUCrop": dict(
        doc="Crop a random part of the image. Objects with their center outside are dropped, but not all (SSD).",
        min_scale=Key(0.3, 0.1, 1, "smallest width and height of the crop, as fractions of the image's."),
        max_scale=Key(1.0, 0.1, 1, "largest width and height of the crop."),
        min_aspect_ratio=Key(0.5, 0.01, 100, "smallest width / height of the crop."),
        max_aspect_ratio=Key(2.0, 0.01, 100, "largest width / height of the crop."),
    ),
    "RandomZoomOut": dict(
        doc="Place the image at random on a larger canvas, which makes objects smaller (SSD).",
        fill=FILL,
        side_range=Key([1.0, 4.0], 1, 10, "range of the canvas's sides, relative to the image's."),
        p=_p(0.5, "zooming out"),
    ),
    "ScaleJitter": dict(
        doc="Scale the image by a random factor, without a crop.",
        target_size=Key([1024, 1024], 100, 10000, "(width, height) that the image fits in at scale 1.", False),
        scale_range=Key([0.1, 2.0], 0.1, 10, "range of the scale."),
    ),
    "RandomAffine": dict(
        doc="Rotate, shift, scale and shear the image on its canvas. A new box encloses the transformed box.",
        degrees=Key(0.0, 0, 180, "largest angle of rotation, in both directions."),
        translate=Key([0.0, 0.0], 0, 1, "largest shift (x, y), as fractions of the image's sides.", False),
        scale=Key([1.0, 1.0], 0.01, 10, "range of the scale."),
        shear=Key(0.0, 0, 80, "largest angle of the shear along x, in both directions."),
        fill=FILL,
    ),
    "RandomRotation": dict(
        doc="Rotate the image. A new box encloses the rotated box, so it is larger than its object.",
        degrees=Key(10.0, 0, 180, "largest angle, in both directions."),
        expand=Key(False, 0, 1, "whether the canvas grows to hold the whole image."),
        fill=FILL,
    ),
    "RandomVerticalFlip": dict(doc="Mirror image and boxes top to bottom, at random.", p=_p(0.5, "mirroring")),
}
LISTS = {  # transforms that hold others
    "RandomApply": dict(doc="Apply all transforms of a list in order, or none.", p=_p(0.5, "applying them")),
    "RandomChoice": dict(doc="Apply one transform of a list, drawn with equal probabilities."),
    "RandomOrder": dict(doc="Apply all transforms of a list, in a random order."),
}
FIXED = dict.fromkeys(["RandomAffine", "RandomRotation"], {"interpolation": v2.InterpolationMode.BILINEAR})


class _GaussianNoise(v2.GaussianNoise):
    """Noise for images of any type: torchvision's oldest supported version takes float images only."""

    def transform(self, image, params):
        noisy = super().transform(to_dtype(image, torch.float32, scale=True), params)
        return to_dtype(noisy, image.dtype, scale=True)


class _JPEG(v2.Transform):
    """torchvision's JPEG by Pillow: torchvision's own encoder is deprecated."""

    def __init__(self, quality):
        super().__init__()
        self.quality = quality

    def transform(self, image, params):
        file = io.BytesIO()
        low, high = self.quality
        to_pil_image(image).save(file, "JPEG", quality=int(torch.randint(low, high + 1, ())))
        return pil_to_tensor(Image.open(file)).as_subclass(type(image))


ADAPTED = {"GaussianNoise": _GaussianNoise, "JPEG": _JPEG}


class _Pixels:
    """Call torchvision's transform with the image alone."""

    def forward(self, image, target):
        return super().forward(image) if _is_large_enough(image) else image, target


class _Boxes:
    """Call torchvision's transform with the image and its target."""

    def forward(self, image, target):
        return super().forward(image, target) if _is_large_enough(image) else (image, target)


def _is_large_enough(image):
    short, long = sorted(image.shape[-2:])
    return short >= SMALLEST and long <= MOST_NARROW * short


class _List:
    """Build the transforms of a list, then torchvision's transform of them."""

    slots = {"TRANSFORMS": SlotList(TRANSFORMS)}

    @classmethod
    def from_config(cls, node):
        transforms = [TRANSFORMS.build(inner) for inner in node["TRANSFORMS"]]
        require(transforms, "TRANSFORMS must be one transform or more", [])
        return cls(transforms, **constructor_arguments(cls, node))


def _make_part(kind, name, doc, **keys):
    """Return a subclass of torchvision's transform whose keyword-only parameters are a row's keys."""
    base = ADAPTED.get(name) or getattr(v2, name)

    def __init__(self, *context, **given):
        values = {parameter: given.get(parameter, key.default) for parameter, key in keys.items()}
        for parameter, key in keys.items():
            key.check(parameter, values[parameter])
        base.__init__(self, *context, **values, **FIXED.get(name, {}))

    # Config keys are read from the signature, the annotations and the docstring.
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    if kind is _List:
        parameters.append(inspect.Parameter("transforms", inspect.Parameter.POSITIONAL_ONLY))
    for parameter, key in keys.items():
        parameters.append(inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, default=key.default))
        __init__.__annotations__[parameter] = key.annotation
    __init__.__signature__ = inspect.Signature(parameters)
    lines = [f"    {parameter}: {key.doc}" for parameter, key in keys.items()]
    return type(name, (kind, base), {"__init__": __init__, "__doc__": "\n".join([doc, "", "Args:", *lines])})


for _kind, _table in ((_Pixels, PIXELS), (_Boxes, BOXES), (_List, LISTS)):
    for _name, _row in _table.items():
        globals()[_name] = TRANSFORMS.register(_make_part(_kind, _name, **_row))  # pickle needs the class's name


PRESETS = {  # probability of the colors' changes, largest canvas, smallest crop, probability of one of these two
    "small": (0.5, 2.0, 0.4, 0.7),
    "medium": (0.3, 1.5, 0.6, 0.5),
    "large": (0.0, 1.25, 0.8, 0.3),
}


@TRANSFORMS.register()
class Augmentation(v2.Compose):
    """Change colors, zoom out or crop, and mirror left to right, as strongly as a data set's size asks for.

    It comes before ResizeShortSide, so that a crop makes objects larger.

    Args:
        preset: small for about a thousand images or fewer, medium for up to ten thousand, large for more.
    """

    def __init__(self, *, preset: Literal["small", "medium", "large"] = "medium"):
        distortion, canvas, crop, scaling = PRESETS[preset]
        mean_color = [124, 116, 104]  # ImageNet's
        zoom_out = {"NAME": "RandomZoomOut", "SIDE_RANGE": [1.0, canvas], "FILL": mean_color, "P": 1.0}
        scales = {"NAME": "RandomChoice", "TRANSFORMS": [zoom_out, {"NAME": "RandomIoUCrop", "MIN_SCALE": crop}]}
        nodes = [
            {"NAME": "RandomPhotometricDistort", "P": distortion},
            {"NAME": "RandomApply", "TRANSFORMS": [scales], "P": scaling},
            {"NAME": "RandomHorizontalFlip"},
        ]
        super().__init__([TRANSFORMS.build(node) for node in nodes])
