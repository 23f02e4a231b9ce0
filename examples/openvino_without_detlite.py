"""Run an exported detector by OpenVINO: python examples/openvino_without_detlite.py model.onnx IMAGE."""

import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

core = openvino.Core()
# On processors with bf16 instructions, OpenVINO would otherwise compute in bf16.
model = core.compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
boxes, scores, labels, counts = model(np.asarray(image).transpose(2, 0, 1)[None]).values()
found = slice(counts[0])  # the rest is padding
for box, score, label in zip(boxes[0, found], scores[0, found], labels[0, found], strict=True):
    print(int(label), f"{score:.2f}", box.round(1).tolist())
