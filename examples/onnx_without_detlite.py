"""Run an exported detector without detlite: python examples/onnx_without_detlite.py model.onnx IMAGE."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
classes, resize = json.loads(metadata["classes"]), json.loads(metadata["resize"])

# Resize the image as in training: a given short side, or less if the long side would be too long.
original = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
image = original
if resize:
    short, long = sorted(original.size)
    wanted, side = resize["size"], short
    if wanted * long > resize["max_size"] * short:
        wanted, side = resize["max_size"], long
    image = original.resize([max(1, round(length * wanted / side)) for length in original.size], Image.BILINEAR)

boxes, scores, labels, counts = session.run(None, {"images": np.asarray(image).transpose(2, 0, 1)[None]})
boxes *= np.tile(np.divide(original.size, image.size), 2)  # back to the pixels of the file
found = slice(counts[0])  # the rest is padding
for box, score, label in zip(boxes[0, found], scores[0, found], labels[0, found], strict=True):
    print(classes[label - 1], f"{score:.2f}", box.round(1).tolist())
