"""Export a detector whose large layers compute in 8-bit integers: ``detlite export --int8``."""

import logging
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

from detlite.checkpoint import read_weights
from detlite.data import build_train_datasets
from detlite.engine.test import test
from detlite.files import flatten, user_path
from detlite.prediction.export import check_path, export
from detlite.writing import open_to_write

logger = logging.getLogger("detlite")

LAYERS = ("Conv", "Gemm", "MatMul")  # ONNX operators


def export_int8(cfg, weights, path, num_images=64):
    """Write a detector as an ONNX file that computes in 8-bit integers, and log how much AP it loses.

    The ranges of values are those in ``num_images`` training images. The float and the int8 file are tested on
    DATASETS.TEST before the int8 file is written. See :func:`~detlite.prediction.export.export` for the rest.
    """
    path = user_path(path)
    check_path(path, [".onnx"], ["onnx", "onnxscript", "onnxruntime"])
    dataset = build_train_datasets(cfg.DATASETS.TRAIN)
    indices = range(0, len(dataset), -(-len(dataset) // num_images))  # evenly spaced
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("float.onnx", "int8.onnx")]
        export(cfg, weights, files[0])
        quantize(*files, (dataset[index][0] for index in indices))

        # The results of a test are next to its weights, in the temporary folder.
        results = []
        for exported in map(read_weights, files):
            own_cfg = exported.load_config(["EVALUATION.PICTURES", 0], cfg.IMPORTS)
            results.append(flatten(test(own_cfg, exported)))
        for name, before in results[0].items():
            after = results[1].get(name, float("nan"))
            logger.info("%-24s float %.4f   int8 %.4f   difference %+.4f", name, before, after, after - before)
        with open_to_write(path) as file:
            file.write(files[1].read_bytes())
    logger.info("wrote %s, in 8-bit integers, after %d training images", path, len(indices))


def quantize(source, target, images):
    """Write a detector's ONNX file as one that computes in 8-bit integers, with a scale per output channel.

    The layers of the backbone, and others with a ReLU, get 8-bit inputs and weights. The layers that give scores and
    boxes stay in float. ``images``, (3, H, W) uint8, give the ranges of the inputs.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    model = onnx.load(source)
    activated = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    in_float = []
    for node in model.graph.node:
        if node.op_type in LAYERS and ".backbone." not in node.input[1] and node.output[0] not in activated:
            in_float.append(node.name)
    feed = ({"images": image[None].numpy()} for image in images)
    reader = SimpleNamespace(get_next=lambda: next(feed, None))
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # BatchNorm is fused already
    options = {"op_types_to_quantize": [*LAYERS, "MaxPool", "Relu"], "nodes_to_exclude": in_float, "per_channel": True}
    options["activation_type"] = QuantType.QUInt8  # with signed inputs, onnxruntime runs the last int8 layers in float
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the outputs of a layer may all be 0
        quantize_static(model, target, reader, **options)
