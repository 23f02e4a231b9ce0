"""Reading of image files."""

import numpy as np
from PIL import Image, ImageOps
from torchvision import tv_tensors

from detlite.data.faults import ImageError
from detlite.files import open_file

EXIF_ORIENTATION = 0x0112
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path):
    """The image in a file: (3, H, W) uint8 RGB, turned upright as its EXIF data says; gray and alpha become RGB.

    Pillow reads it, because torchvision.io's decoders are deprecated from torchvision 0.29 on.

    Raises:
        ImageError: no such file, or none that can be decoded whole.
    """
    try:
        with open_file(path) as file, Image.open(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return rgb_tensor(image)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image file", "missing images") from None
    except Exception as error:  # a decoder at odds with a broken file raises anything from SyntaxError to struct.error
        raise ImageError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error


def rgb_tensor(image):
    """A PIL image of any mode as (3, H, W) uint8 RGB."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return tv_tensors.Image(image if image.mode == "RGB" else image.convert("RGB"))


def read_header(path):
    """What an image file's header says, without decoding it.

    Returns:
        (height, width) of the upright image, and its EXIF orientation, 1 (as stored) to 8.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with open_file(path) as file, Image.open(file) as image:
            width, height = image.size
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # see above
        raise ImageError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error
    return ((width, height) if orientation in (5, 6, 7, 8) else (height, width)), orientation
