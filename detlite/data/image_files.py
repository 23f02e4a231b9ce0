"""Reading of image files."""

import os

import numpy as np
from PIL import Image, ImageOps
from torchvision import tv_tensors

from detlite.data.faults import ImageError
from detlite.files import open_file

EXIF_ORIENTATION = 0x0112
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")  # Pillow starts programs for others, such as EPS
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path: str | os.PathLike) -> tv_tensors.Image:
    """Read an image as (3, H, W) uint8 RGB, upright by its EXIF data.

    Gray and alpha become RGB. Pillow reads, because torchvision.io's decoders are deprecated from torchvision 0.29 on.

    Raises:
        ImageError: the file is missing, or cannot be decoded completely.
    """
    try:
        with open_file(path) as file, Image.open(file, formats=FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return rgb_tensor(image)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image file", "missing images") from None
    except Exception as error:  # broken files raise anything from SyntaxError to struct.error
        raise ImageError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error


def rgb_tensor(image: Image.Image) -> tv_tensors.Image:
    """Convert a PIL image of any mode to (3, H, W) uint8 RGB.

    Raises:
        ValueError: the pixels of mode I are not 0-255 or 0-65535, or of mode F not 0-1 or 0-255.
    """
    if image.mode.startswith(("I", "F")):  # Pillow would clip these modes to 0-255
        image = Image.fromarray(_to_bytes(np.asarray(image), image.mode))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return tv_tensors.Image(image)


def _to_bytes(values, mode):
    """Convert pixels of mode I;16, I or F to 0-255. In modes I and F, the largest pixel tells the range."""
    if mode.startswith("I;16"):
        return (values >> 8).astype(np.uint8)
    is_float, low, high = mode == "F", values.min(), values.max()
    limits = (1, 255) if is_float else (255, 65535)
    if not 0 <= low <= high <= limits[1]:
        expected = " or ".join(f"0 to {limit}" for limit in limits)
        raise ValueError(f"its pixels, of mode {mode}, are from {low:g} to {high:g}; expected {expected}")
    if is_float:
        return (values * 255 if high <= 1 else values).round().astype(np.uint8)
    return (values if high <= 255 else values >> 8).astype(np.uint8)


def read_header(path):
    """Return an upright image's (height, width), and its file's EXIF orientation, 1 (upright as stored) to 8.

    Only the header is read, not the pixels. An ImageError says that it cannot be.
    """
    try:
        with open_file(path) as file, Image.open(file, formats=FORMATS) as image:
            # As stored: newer versions of Pillow turn the size of a TIFF file.
            width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error
    if orientation in (5, 6, 7, 8):  # turned by 90 degrees
        height, width = width, height
    return (height, width), orientation


def read_size(path):
    """Read the upright image's (height, width), or return None if that fails."""
    try:
        return read_header(path)[0]
    except ImageError:
        return None
