"""Run an exported detector without detlite: python examples/onnx_without_detlite.py model.onnx IMAGE."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
boxes, scores, labels, counts = session.run(None, {"images": np.asarray(image).transpose(2, 0, 1)[None]})
found = slice(counts[0])  # the rest is padding
for box, score, label in zip(boxes[0, found], scores[0, found], labels[0, found], strict=True):
    print(classes[label - 1], f"{score:.2f}", box.round(1).tolist())
