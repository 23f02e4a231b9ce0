"""Write a trained detector as a file that runs without detlite: what ``tools/export.py`` does."""

import importlib.util
import json
import logging
import warnings

import torch
from torch.export import Dim

from detlite.agreement import build_trained
from detlite.checkpoint import read_weights
from detlite.config import override
from detlite.data import ResizeShortSide, build_test_transforms
from detlite.errors import UserError
from detlite.files import user_path
from detlite.prediction.export_graph import BatchDetector
from detlite.writing import claim, open_to_write

logger = logging.getLogger("detlite")

OUTPUTS = ("boxes", "scores", "labels", "counts")


def export(cfg, weights, path):
    """Write a detector as one graph, from uint8 images to detections after NMS.

    The graph is a :class:`~detlite.prediction.export_graph.BatchDetector`. It takes any number of images of one
    size, and resizes them as TRANSFORMS.TEST says. It computes on the CPU, in float32. The file also has an entry
    "classes", the names, as JSON, and an ONNX file has "config", the YAML text.

    Args:
        cfg, weights: a config, and trained weights, see :func:`detlite.checkpoint.read_weights`.
        path: the file to write, with the suffix .onnx or .pt2. ``torch.export.load`` reads a .pt2, after ``import
            torchvision``.

    Raises:
        UserError: the path has another suffix, a package is missing, the weights do not fit, or the detector or
            TRANSFORMS.TEST cannot be exported.
    """
    path = user_path(path)
    check_path(path, [".onnx", ".pt2"], ["onnx", "onnxscript"])
    resize = _resize(cfg.TRANSFORMS.TEST)
    # The graph runs on the CPU, in fp32. The settings auto and tf32 permit it, fp16 and bf16 do not.
    cfg = override(cfg, {"MODEL.DEVICE": "cpu"}, "export")
    if cfg.MODEL.get("PRECISION") in ("auto", "tf32"):
        cfg = override(cfg, {"MODEL.PRECISION": "fp32"}, "export")
    cfg, model = build_trained(cfg, read_weights(weights))
    if model.precision != "fp32":
        raise UserError(f"MODEL.PRECISION is {model.precision}; for an export, add MODEL.PRECISION fp32")

    detector = BatchDetector(model, resize)
    min_side = 2 if resize else detector.min_side  # torch.export treats sizes of 0 and 1 as constants
    axes = {0: Dim("batch"), 2: Dim("height", min=min_side), 3: Dim("width", min=min_side)}
    shapes = (axes,)  # of the graph's only argument
    # The example's height and width differ from all other sizes, so torch.export does not take them for constants.
    example = torch.zeros(3, 3, 5 * detector.min_side + 3, 7 * detector.min_side + 5, dtype=torch.uint8)

    metadata = {"classes": json.dumps(list(cfg.MODEL.CLASSES)), "config": cfg.dump()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and torchvision warn about each other
        try:
            program = torch.export.export(detector, (example,), dynamic_shapes=shapes, strict=False)
            content = _onnx_file(program, shapes, metadata) if path.suffix == ".onnx" else None
        except RuntimeError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].partition("\x1b")[0]  # without colors
            remedy = "Use a newer torch, other parts, or TRANSFORMS.TEST [] and images that are resized before the file"
            raise UserError(f"torch {torch.__version__} cannot export this detector: {reason} {remedy}") from error
        with open_to_write(path) as file:
            if content:
                file.write(content)
            else:
                torch.export.save(program, file, extra_files={"classes.json": metadata["classes"]})
    text = "wrote %s: from images (N, 3, H, W) uint8 RGB, both sides at least %d px, to %s"
    logger.info(text, path, min_side, ", ".join(OUTPUTS))


def check_path(path, suffixes, packages):
    """Check that a file with one of the suffixes can be written; .onnx needs the packages. Making the graph is slow."""
    if path.suffix not in suffixes:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise UserError(f"export to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    claim(path)


def _resize(nodes):
    """Return the only transform of TRANSFORMS.TEST, or None if it is empty."""
    build_test_transforms(nodes)  # refuses random ones
    if not nodes:
        return None
    names = [node.NAME for node in nodes]
    if names != ["ResizeShortSide"]:
        problem = f"TRANSFORMS.TEST has {', '.join(names)}; an exported file can contain one ResizeShortSide or none"
        raise UserError(f"{problem}. Set TRANSFORMS.TEST to [], and apply the transforms before the file")
    return ResizeShortSide(size=nodes[0].SIZE, max_size=nodes[0].MAX_SIZE)


def _onnx_file(program, shapes, metadata):
    """Return the bytes of the ONNX file of a torch program, with its metadata."""
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["images"],
        output_names=list(OUTPUTS),
        custom_translation_table={torch.ops.torchvision.roi_pool.default: _max_roi_pool},
        verbose=False,
    )
    onnx.model.metadata_props.update(metadata)
    return onnx.model_proto.SerializeToString()


def _max_roi_pool(features, rois, spatial_scale, pooled_height, pooled_width):
    """Translate torchvision.ops.roi_pool to ONNX. onnxscript's translation has a different signature."""
    from onnxscript import opset18

    pooled = opset18.MaxRoiPool(features, rois, pooled_shape=(pooled_height, pooled_width), spatial_scale=spatial_scale)
    return pooled, pooled  # torchvision's second output is for gradients only
