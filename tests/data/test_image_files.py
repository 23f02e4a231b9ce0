"""Images of every mode become the picture that they show."""

import numpy as np
import pytest
import torch
from PIL import Image

from detlite.data import read_image, rgb_tensor
from detlite.data.image_files import read_header

GRAY = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) + 30


@pytest.mark.parametrize(
    ("mode", "factor"), [("I", 1), ("I", 256), ("I", 257), ("I;16", 256), ("I;16B", 256), ("F", 1), ("F", 1 / 255)]
)
def test_pixels_of_more_than_8_bits_keep_their_brightness(mode, factor):
    dtype = {"I": np.int32, "I;16": np.uint16, "I;16B": ">u2", "F": np.float32}[mode]
    values = (GRAY.astype(np.float64) * factor).astype(dtype)
    image = Image.frombytes(mode, (16, 12), values.tobytes())
    assert torch.equal(rgb_tensor(image).as_subclass(torch.Tensor), torch.from_numpy(GRAY).expand(3, -1, -1))


def test_a_tiff_of_floats_is_read_with_its_brightness(tmp_path):
    Image.fromarray((GRAY / 255).astype(np.float32)).save(tmp_path / "a.tif")
    assert torch.equal(read_image(tmp_path / "a.tif")[0].as_subclass(torch.Tensor), torch.from_numpy(GRAY))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_the_size_in_the_header_is_that_of_the_upright_image(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(GRAY).convert("RGB").save(path, exif=exif)
    assert read_header(path)[0] == tuple(read_image(path).shape[-2:]) == (16, 12)
