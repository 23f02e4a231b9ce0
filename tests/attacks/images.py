"""Images in many formats, modes and sizes, cut or mutated, with odd names and odd options."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from corruptions import IMAGES
from detlite import Detector
from mutations import NAMES, mutate_bytes, put_odd_file
from verdict import Case

FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "EPS", "JPEG2000", "DDS"]
MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16"]
SIZES = [(64, 48), (64, 48), (1, 1), (1, 300), (300, 1), (2000, 3), (65, 63)]
OPTIONS = {
    "--score-threshold": ["0", "0", "0", "-1", "nan", "inf", "1e400", "x"],
    "--workers": ["0", "0", "0", "0", "1", "2", "-1", "x"],
    "--batch-size": ["1", "2", "0", "-1", "100"],
    "--precision": ["auto", "fp32", "bf16", "fp16", "x", ""],
    "--device": ["cpu", "cpu", "cpu", "cuda", "cuda:99", "meta", "x", ""],
    "--output": ["output", "output", ".", "pictures", "../elsewhere", "pictures/x.png", "/dev/full", "", "~", "a\nb"],
}


def make(good, draw):
    """Return a case that detects in spoiled images."""
    weights = str(good / "run/model_final.pth")
    if draw.random() < 0.3:
        value = draw.randrange(len(VALUES))

        def detect():
            detector = Detector.from_checkpoint(weights, device="cpu")
            print(detector(VALUES[value]()))

        return Case(f"image: value {value}", detect)
    Path("pictures").mkdir()
    for number in range(3):
        path = Path("pictures", _name(number, draw))
        path.write_bytes(_image(draw))
    kind = draw.choice(["format", "format", "corruption", "bytes", "odd file"])
    if kind == "corruption":
        kind = draw.choice(sorted(IMAGES))
        path.write_bytes(IMAGES[kind]((good / "yolo/images/picture0.png").read_bytes(), draw))
    elif kind == "bytes":
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    elif kind == "odd file":
        put_odd_file(path, draw)
    words = []
    for option in draw.sample(sorted(OPTIONS), 2):
        words += [option, draw.choice(OPTIONS[option])]
    places = draw.choice([["pictures"], ["pictures"], ["pictures/*"], [str(path)], ["."], ["pictures", "pictures/"]])
    words = ["--workers", "0", "--device", "cpu", "--score-threshold", "0", *words]
    return Case(f"image: {kind}", ["predict", "--weights", weights, *places, *words], (".", "..", "/"))


def _name(number, draw):
    suffix = draw.choice(
        [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".webp", ".png.jpg", ".PNG", "", ".eps", ".npy"]
    )
    odd = draw.choice(["x", "x", "", *NAMES]).replace("/", "_").replace("\0", "")
    name = os.fsdecode(os.fsencode(odd)[:200])
    return f"{name}{draw.choice(['', number])}{suffix}" if name.strip(".") else f"{number}{suffix}"


def _image(draw):
    """Return an image's bytes, in a mode that its format takes."""
    pixels = np.frombuffer(draw.randbytes(100), np.uint8).reshape(5, 20)
    image = Image.fromarray(pixels).resize(draw.choice(SIZES)).convert("RGB")
    options = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + draw.randbytes(1) + bytes(6)}
    for _ in range(20):
        try:
            file = io.BytesIO()
            converted = image.convert("L").convert(draw.choice(MODES))
            converted.save(file, draw.choice(FORMATS), **draw.choice([{}, options]))
            return file.getvalue()
        except Exception:  # the format has no such mode
            continue
    return b"no image"


def _truncated():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    return Image.open(io.BytesIO(file.getvalue()[:-300]))


# What a Python program may hand to a Detector.
VALUES = [
    *[lambda mode=mode: Image.new("L", (40, 30), 90).convert(mode) for mode in MODES],
    *[
        lambda kind=kind: np.ones((30, 40, 3), kind)
        for kind in (">f4", ">u2", "g", "O", "?", "c8", "i8", "f2", "M8[s]", "U3")
    ],
    *[
        lambda shape=shape: np.zeros(shape, np.uint8)
        for shape in ((0, 5, 3), (5, 0, 3), (5,), (1, 1, 1, 1, 1), (3, 9, 9), ())
    ],
    *[lambda value=value: np.full((30, 40, 3), value, np.float32) for value in (np.nan, np.inf, -1, 2, 255)],
    *[
        lambda value=value: value
        for value in (None, [], [None], "", b"", 5, {}, "nowhere.png", [[]], "/dev/zero", ".", object())
    ],
    *[
        lambda shape=shape: torch.rand(shape)
        for shape in ((3, 9, 9), (1, 9, 9), (9, 9), (3, 0, 9), (2, 3, 9, 9), (0, 3, 9, 9))
    ],
    lambda: torch.rand(3, 9, 9).to_sparse(),
    lambda: torch.rand(3, 9, 9, device="meta"),
    lambda: torch.rand(3, 9, 9, requires_grad=True),
    lambda: torch.rand(3, 9, 9).to(torch.complex64),
    lambda: torch.zeros(1).expand(3, 9, 9),
    lambda: torch.rand(3, 9, 9)[:, ::2],
    lambda: torch.full((3, 9, 9), float("nan")),
    lambda: np.ones((30, 40, 3), np.uint8)[::-1, ::-2],
    lambda: Image.frombytes("RGB", (0, 5), b""),
    lambda: (image for image in [None]),
    _truncated,
]
