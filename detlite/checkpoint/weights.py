"""Load weights into a model: from any source, with any parameter names and pixel statistics."""

import logging
from collections import Counter
from dataclasses import dataclass

import torch

from detlite.checkpoint.files import load_checkpoint
from detlite.checkpoint.foreign_weights import Layout, expected_prefixes, find_layout, resolve_names
from detlite.checkpoint.load_report import LoadReport, module_of
from detlite.checkpoint.pixel_statistics import Pixels, convert_first_layer, pixels_of, recognize_caffe
from detlite.checkpoint.sources import find_weights
from detlite.config import load_config_text
from detlite.console import one_line
from detlite.errors import UserError, prefix_errors, shortened
from detlite.files import user_path

logger = logging.getLogger("detlite")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16)
DTYPES += (torch.int8, torch.uint8, torch.bool)
BATCH_COUNTER = "num_batches_tracked"  # end of a name; not every BatchNorm has this counter


@dataclass(frozen=True)
class Weights:
    """Weights that were read, and the metadata stored with them."""

    source: str  # the file, address or name that the user gave
    state: dict  # {name, as in the file: tensor}
    layout: Layout  # the naming scheme
    pixels: Pixels | None = None  # None if neither the file nor its layout has them
    classes: list | None = None  # the class names
    config: str | None = None  # the complete config that the weights were trained with, as YAML
    spare_outputs: int = 0  # outputs for no class, after those for the classes
    session: object | None = None  # onnxruntime's, of a file of ``detlite export``; ``state`` is then empty

    def load_config(self, opts=(), imports=()):
        """Return the config that the weights were trained with, after the changes in ``opts``.

        OUTPUT_DIR is the folder of the weights' file, or ``output`` for other sources: the stored one may be anywhere.

        Raises:
            UserError: the file has no config, or its config has IMPORTS that the arguments do not replace.
        """
        if self.config is None:
            raise UserError(f"{self.source} contains no config; give one with --config-file")
        path = user_path(self.source)
        folder = str(path.parent)
        if not path.is_file() or not folder.isprintable():
            folder = "output"
        return load_config_text(self.config, f"config in {self.source}", ["OUTPUT_DIR", folder, *opts], imports)


def read_weights(source):
    """Read weights without loading them into a model.

    Args:
        source: a .pth, .pt, .npz, .safetensors or (to detect) .onnx file, an https address, or a name such as
            ``torchvision/vgg16``; see :func:`~detlite.checkpoint.sources.find_weights`. :class:`Weights` are returned.

    Raises:
        UserError: they cannot be found, fetched or read, or the file holds no weights.
    """
    if isinstance(source, Weights):
        return source
    path, known_pixels = find_weights(source)
    try:
        content = load_checkpoint(path)
    except UserError as error:
        if path == user_path(source):
            raise
        logger.warning("%s; it is fetched again", error)
        find_weights(source, fetch_again=True)
        content = load_checkpoint(path)
    return weights_in(content, path, str(source), known_pixels)


def weights_in(content, path, source=None, known_pixels=None):
    """Return the :class:`Weights` in what :func:`~detlite.checkpoint.files.load_checkpoint` returned for a path.

    ``source`` is the user's name for the file; default: the path. ``known_pixels`` are the :class:`Pixels` of weights
    whose file does not contain them. A content of another kind is a UserError.
    """
    metadata = content if isinstance(content, dict) else {}
    state = _find_tensors(metadata, path)
    session = metadata.get("session") if str(path).endswith(".onnx") else None
    if not state and session is None:
        raise UserError(f"{path}: holds no weights: expected {{name: tensor}}, or {{'model': {{name: tensor}}}}")

    # Pixel statistics: the file's own come first, the layout's last.
    layout = find_layout(state)
    renamed = {model_name: state[name] for name, model_name in layout.rename(state).items()}
    first_filters = renamed.get("features.0.weight", renamed.get("backbone.features.0.weight"))
    with prefix_errors(f"{path}: "):
        pixels = pixels_of(metadata) or known_pixels or recognize_caffe(first_filters) or layout.pixels

    classes = metadata.get("classes")
    is_list_of_names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if classes is not None and not is_list_of_names:
        raise UserError(f"{path}: its entry classes must be a list of names, got {classes!r}")
    config = metadata.get("config")
    if not isinstance(config, str):
        config = None

    state, classes, spare_outputs = layout.order_outputs(state, classes)
    return Weights(source or str(path), state, layout, pixels, classes, config, spare_outputs, session)


def _find_tensors(content, path):
    """Return the weights in a file's content, {name: tensor}, which may be empty."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {}
    for name, value in content.items():
        if isinstance(value, torch.Tensor) and isinstance(name, str) and name not in ("pixel_mean", "pixel_std"):
            if value.dtype not in DTYPES or value.is_nested or value.layout != torch.strided or value.is_meta:
                kind = f"{value.dtype}, {value.layout}, on {value.device}"
                raise UserError(f"{path}: {shortened(name)} is a tensor of a kind that is not read: {kind}")
            tensors[name] = value
    if all(name.startswith("module.") for name in tensors):  # the prefix of DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


@torch.no_grad()
def load_weights(model, source, *, complete=False, min_match=0.9):
    """Copy weights into a model, by name and shape, and return the :class:`LoadReport`, whose text is a table.

    A parameter that the file lacks, or has with another shape, keeps its value. This includes layers that depend on the
    number of classes (in modules named ``predictor``). If the weights' pixel statistics are known and differ from the
    model's, the first convolution is converted.

    Args:
        model, source: a detector, and its weights, see :func:`read_weights`.
        complete: whether the weights must contain every parameter of the model.
        min_match: minimum fraction of parameters that must be loaded. Counted over the model's parameters that such a
            file should provide (for a classifier, the backbone), without class-dependent layers. 0 accepts any match.

    Raises:
        UserError: the weights cannot be read, or too few of them fit the model. The model is then unchanged.
    """
    weights = read_weights(source)
    state = model.state_dict()
    fitting, report = _match(weights, state)
    problem = ""
    if weights.session:
        raise UserError(f"{weights.source}: an exported detector has no weights to load; use the file it was made from")
    misfits = [f"{part} {matched:.1%}" for part, matched in report.matched_parts.items() if matched < min_match]
    if not report.loaded:
        problem = "none of its parameters fits the model"
    elif complete and report.reinitialized:
        problem = "some of the model's parameters are missing"
    elif report.matched < min_match or misfits:
        problem = f"only {report.matched:.1%} of the parameters that such weights should provide fit the model"
        if misfits:
            problem += f" ({', '.join(misfits)})"
        problem += f"; at least {min_match:.0%} must (MODEL.MIN_WEIGHTS_MATCH; 0 accepts any match)"
    if problem:
        raise UserError(f"{weights.source}: {problem}{_norm_hint(weights.state, state)}\n{report}")
    _convert_pixels(fitting, weights, model)
    model.load_state_dict(fitting, strict=False)
    return report


def _match(weights, state):
    """Return the tensors that fit, {the model's name: tensor}, and the LoadReport."""
    renamed = weights.layout.rename(weights.state)
    model_names = resolve_names(renamed.values(), state)

    # The tensors of the file: fitting, of the wrong shape or type, or unknown to the model.
    heading = f"{weights.source}: {weights.layout.title} weights, pixels {weights.pixels or 'not in the file'}"
    if weights.classes:
        heading += f", classes {', '.join(weights.classes)}"
    report = LoadReport(f"{one_line(heading)}\n{weights.layout.note}".rstrip())
    fitting = {}
    for name, value in weights.state.items():
        target = model_names[renamed[name]]
        if target in state:
            if problem := _misfit(target, value, state[target]):
                report.reinitialized[target] = (state[target].numel(), problem)
            else:
                fitting[target] = value
                report.loaded[target] = value.numel()
        elif not name.endswith(BATCH_COUNTER):
            report.ignored[name] = (value.numel(), "the model has no such part")

    # The tensors of the model that are missing in the file.
    for name, value in state.items():
        if name not in fitting and not name.endswith(BATCH_COUNTER):
            report.reinitialized.setdefault(name, (value.numel(), "not in the file"))

    # Compare the parameters that the file should provide with those that it does.
    expected = expected_prefixes(weights, model_names, state)
    loaded, total = Counter(), Counter()  # parameters by part
    for name in state:
        if name.startswith(expected) and not _depends_on_classes(name):
            count, _ = report.reinitialized.get(name, (0, ""))
            loaded[module_of(name)] += report.loaded.get(name, 0)
            total[module_of(name)] += report.loaded.get(name, 0) + count
    report.matched = loaded.total() / total.total() if total.total() else 1.0
    if weights.layout.is_detector:
        report.matched_parts = {part: loaded[part] / count for part, count in total.items() if count}
    return fitting, report


def _misfit(name, value, expected):
    """Return the reason why a tensor of the file does not fit the model's, or None."""
    if value.shape != expected.shape:
        shapes = f"{tuple(value.shape)} in the file, {tuple(expected.shape)} in the model"
        if _depends_on_classes(name) and value.shape[1:] == expected.shape[1:]:
            return f"different number of classes: {shapes}"
        return f"different shape: {shapes}"
    if value.is_floating_point() != expected.is_floating_point():
        return f"{value.dtype} in the file, {expected.dtype} in the model"
    if not value.isfinite().all():
        return "not finite in the file"
    return None


def _depends_on_classes(name):
    return "predictor" in name.split(".")


def _norm_hint(file_names, model_names):
    """Return a hint if only the file or only the model has BatchNorm."""
    in_file = any(name.endswith("running_mean") for name in file_names)
    in_model = any(name.endswith("running_mean") for name in model_names)
    if in_file == in_model:
        return ""
    owner, other = ("file", "model") if in_file else ("model", "file")
    return f". The {owner} has BatchNorm, the {other} does not: set MODEL.BACKBONE.NORM"


def _convert_pixels(fitting, weights, model):
    """Convert the first convolution in ``fitting`` to the model's pixel statistics."""
    if weights.pixels is None or not hasattr(model, "pixel_mean"):
        return
    mean, std = model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()
    wanted = Pixels(tuple(mean), tuple(std), model.channel_order)
    first = next(name for name, value in model.state_dict().items() if value.dim() == 4)  # the first convolution
    if wanted.agrees(weights.pixels) or first not in fitting:
        return

    bias_name = first.removesuffix("weight") + "bias"
    with prefix_errors(f"{weights.source}: "):
        fitting[first], bias = convert_first_layer(fitting[first], fitting.get(bias_name), weights.pixels, wanted)
    if bias is not None:
        fitting[bias_name] = bias
