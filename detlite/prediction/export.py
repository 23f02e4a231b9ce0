"""A trained detector as a file that runs without detlite: what ``tools/export.py`` does."""

import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch
from torch.export import Dim

from detlite.agreement import build_trained
from detlite.checkpoint import read_weights
from detlite.errors import UserError
from detlite.prediction.export_graph import BatchDetector

logger = logging.getLogger("detlite")

OUTPUTS = ("boxes", "scores", "labels", "counts")


def export(cfg, weights, path):
    """Write a detector as one graph, from uint8 images to detections after NMS, for any number and size of images.

    The graph is :class:`~detlite.prediction.export_graph.BatchDetector`'s; the names of the classes go with it. It does
    not resize: images are given as the transforms for testing leave them.

    Args:
        cfg: what :func:`detlite.config.load_config` returned; the graph computes on the CPU, in float32.
        weights: trained weights, see :func:`detlite.checkpoint.read_weights`.
        path: the file to write: .onnx, or .pt2, which ``torch.export.load`` reads after ``import torchvision``.

    Raises:
        UserError: another ending of the path, weights that do not fit, a detector that cannot be exported, packages
            that are missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    is_onnx = Path(path).suffix == ".onnx"
    if not is_onnx and Path(path).suffix != ".pt2":
        raise UserError(f"{path}: expected a name that ends in .onnx or .pt2 (torch.export)")
    if is_onnx and missing:
        raise UserError(f"exporting to ONNX needs {' and '.join(missing)}: pip install detlite[export]")
    if not Path(path).absolute().parent.is_dir():  # told before the graph is made, which takes longest
        raise UserError(f"cannot write {path}: there is no folder {Path(path).parent}")
    cfg, model = build_trained(cfg, read_weights(weights))
    if model.precision != "fp32":
        raise UserError(f"MODEL.PRECISION is {model.precision}; export computes in fp32: set it so")
    graph = BatchDetector(model.cpu())
    stride = max(model.backbone.strides.values())
    sides = {2: Dim("height", min=stride + 1), 3: Dim("width", min=stride + 1)}  # one cell is a case of its own
    shapes = ({0: Dim("batch"), **sides},)
    example = (
        torch.zeros(3, 3, 5 * stride + 3, 7 * stride + 5, dtype=torch.uint8),
    )  # no number that stands for itself
    classes = json.dumps(list(cfg.MODEL.CLASSES))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and torchvision's about each other
        program = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
        try:
            if not is_onnx:
                torch.export.save(program, path, extra_files={"classes.json": classes})
            else:
                onnx = torch.onnx.export(
                    program,
                    dynamo=True,
                    dynamic_shapes=shapes,
                    input_names=["images"],
                    output_names=list(OUTPUTS),
                    custom_translation_table={torch.ops.torchvision.roi_pool.default: _max_roi_pool},
                    verbose=False,
                )
                onnx.model.metadata_props["classes"] = classes
                onnx.save(path, external_data=False)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
    logger.info("images (N, 3, H, W) uint8, RGB, sides from %d px on -> %s: %s", stride + 1, ", ".join(OUTPUTS), path)


def _max_roi_pool(features, rois, spatial_scale, pooled_height, pooled_width):
    """torchvision.ops.roi_pool in ONNX's words; onnxscript's own takes other arguments than the operator's."""
    from onnxscript import opset18

    pooled = opset18.MaxRoiPool(features, rois, pooled_shape=(pooled_height, pooled_width), spatial_scale=spatial_scale)
    return pooled, pooled  # the second, where each maximum was, is for gradients
