"""Weights from a file, an address or a name into a model, whatever naming and pixels they came with."""

from dataclasses import dataclass

import torch

from detlite.checkpoint.files import load_checkpoint
from detlite.checkpoint.foreign_weights import Layout, find_layout, resolve_names
from detlite.checkpoint.load_report import LoadReport, module_of
from detlite.checkpoint.pixel_statistics import Pixels, convert_first_layer, pixels_of, recognize_caffe
from detlite.checkpoint.sources import find_weights
from detlite.config import load_config_text
from detlite.errors import UserError


@dataclass(frozen=True)
class Weights:
    """Weights that were read, and what travels with them.

    Args:
        source: what the user called them.
        state: {name, as in the file: tensor}.
        layout: how they are named.
        pixels: what they take; None if neither the file nor its layout tells.
        classes: the names of the classes that they tell apart, or None.
        config: the resolved config that they were trained with, as YAML, or None.
    """

    source: str
    state: dict
    layout: Layout
    pixels: Pixels | None = None
    classes: list | None = None
    config: str | None = None

    def load_config(self, opts=(), imports=()):
        """The config that they were trained with, with changes; arguments as for ``detlite.config.load_config``.

        Raises:
            UserError: there is none in the file, or it needs modules, which are code, and ``imports`` is empty.
        """
        if self.config is None:
            raise UserError(f"{self.source} carries no config, as detlite's own checkpoints do; give --config-file")
        return load_config_text(self.config, f"config in {self.source}", opts, imports)


def read_weights(source):
    """Weights, read but not yet in a model.

    Args:
        source: a .pth, .pt, .npz or .safetensors file, an https address, or a name such as ``torchvision/vgg16``; see
            :func:`~detlite.checkpoint.sources.find_weights`. :class:`Weights` are given back as they are.

    Raises:
        UserError: they cannot be found, fetched or read, or the file holds no weights.
    """
    if isinstance(source, Weights):
        return source
    path, known_pixels = find_weights(source)
    return weights_in(load_checkpoint(path), path, str(source), known_pixels)


def weights_in(content, path, source=None, known_pixels=None):
    """The :class:`Weights` in what :func:`~detlite.checkpoint.files.load_checkpoint` read.

    Args:
        content: what the file holds.
        path: the file, for messages.
        source: what the user calls it; None takes the path.
        known_pixels: the :class:`Pixels` that they are known to take, where the file does not tell.

    Raises:
        UserError: they are no weights.
    """
    metadata = content if isinstance(content, dict) else {}
    state = next((metadata[key] for key in ("model", "state_dict") if isinstance(metadata.get(key), dict)), metadata)
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    state = {name: value for name, value in state.items() if name not in ("pixel_mean", "pixel_std")}
    if not state:
        raise UserError(f"{path}: holds no weights: expected names with tensors, or these under the key model")
    if all(name.startswith("module.") for name in state):  # as DataParallel names them
        state = {name.removeprefix("module."): value for name, value in state.items()}
    layout = find_layout(state)
    renamed = {own: state[name] for name, own in layout.rename(state).items()}
    first = renamed.get("features.0.weight", renamed.get("backbone.features.0.weight"))
    try:
        pixels = pixels_of(metadata) or known_pixels or recognize_caffe(first) or layout.pixels
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    classes, config = metadata.get("classes"), metadata.get("config")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise UserError(f"{path}: its entry classes is no list of names, but {classes!r}")
    return Weights(source or str(path), state, layout, pixels, classes, config if isinstance(config, str) else None)


@torch.no_grad()
def load_weights(model, source, *, complete=False, min_match=0.9):
    """Copy weights into a model, by name and shape.

    What the file lacks or holds in another shape keeps the values that the model was built with; so do layers that
    depend on the classes (in modules named ``predictor``) if their number differs. If the weights' pixels are known,
    and the model takes others, its first convolution is converted.

    Args:
        model: a detector.
        source: see :func:`read_weights`.
        complete: whether every weight of the model must be among them.
        min_match: least share of the parameters that must be: of those modules of the model that the file is for,
            without layers that depend on the classes; all of the file's modules for a detector, the backbone for a
            classification net. 0 takes whatever fits.

    Returns:
        :class:`~detlite.checkpoint.load_report.LoadReport`; its text is a table.

    Raises:
        UserError: the weights cannot be read, nothing among them fits the model, or less than asked for does.
    """
    weights = read_weights(source)
    own = model.state_dict()
    renamed = weights.layout.rename(weights.state)
    places = resolve_names(renamed.values(), own)
    places = {name: places[alias] for name, alias in renamed.items()}
    report = LoadReport(_heading(weights))
    fitting = {}
    for name, value in weights.state.items():
        target = places[name]
        if target not in own:
            if not name.endswith("num_batches_tracked"):
                report.ignored[name] = (value.numel(), "the model has no such part")
            continue
        problem = _misfit(target, value, own[target])
        if problem:
            report.reinitialized[target] = (own[target].numel(), problem)
        else:
            fitting[target] = value
    report.loaded = {name: own[name].numel() for name in fitting}
    for name, value in own.items():
        if name not in fitting and not name.endswith("num_batches_tracked"):
            report.reinitialized.setdefault(name, (value.numel(), "not in the file"))
    report.matched = _matched(report, weights.layout.expected_prefix, set(places.values()))

    problem = None
    if not fitting:
        problem = "nothing among them fits the model"
    elif complete and report.reinitialized:
        problem = "they are not this model's, or not all of them"
    elif report.matched < min_match:
        problem = (
            f"only {report.matched:.1%} of the parameters of the parts that they are for fit the model; at least "
            f"{min_match:.0%} must (MODEL.MIN_WEIGHTS_MATCH; 0 takes what fits)"
        )
    if problem:
        raise UserError(f"{weights.source}: {problem}{_norm_hint(weights.state, own)}\n{report}")
    _convert_pixels(fitting, weights, model)
    model.load_state_dict(fitting, strict=False)
    return report


def _misfit(name, value, own):
    """Why a tensor of the file cannot be the model's; None if it can."""
    if value.shape != own.shape:
        shapes = f"{tuple(value.shape)} in the file, {tuple(own.shape)} in the model"
        by_classes = _depends_on_classes(name) and value.shape[1:] == own.shape[1:]
        return f"{'another number of classes' if by_classes else 'another shape'}: {shapes}"
    if value.is_floating_point() != own.is_floating_point():
        return f"{value.dtype} in the file, {own.dtype} in the model"
    if not value.isfinite().all():
        return "not finite in the file"
    return None


def _depends_on_classes(name):
    return "predictor" in name.split(".")


def _matched(report, expected_prefix, targets):
    """The share of the expected parameters that were loaded, over the modules that the file has names for."""
    expected = {module_of(name) for name in targets if name.startswith(expected_prefix)}

    def total(names):
        return sum(names[name] for name in names if module_of(name) in expected and not _depends_on_classes(name))

    loaded = total(report.loaded)
    missed = total({name: count for name, (count, _) in report.reinitialized.items()})
    return loaded / (loaded + missed) if loaded + missed else 1.0


def _norm_hint(state, own):
    """The likeliest mistake among VGGs."""
    in_file, in_model = (any(name.endswith("running_mean") for name in names) for names in (state, own))
    if in_file == in_model:
        return ""
    with_it, without = ("the file", "the model") if in_file else ("the model", "the file")
    return f"; {with_it} has BatchNorm, {without} has not: see MODEL.BACKBONE.NORM"


def _convert_pixels(fitting, weights, model):
    """Convert the first convolution among ``fitting`` to the pixels that the model is handed, if they differ."""
    if weights.pixels is None or not hasattr(model, "pixel_mean"):
        return
    wanted = Pixels(
        tuple(model.pixel_mean.flatten().tolist()), tuple(model.pixel_std.flatten().tolist()), model.channel_order
    )
    first = next(name for name, value in model.state_dict().items() if value.dim() == 4)
    if wanted.agrees(weights.pixels) or first not in fitting:
        return
    bias = first.removesuffix("weight") + "bias"
    try:
        converted = convert_first_layer(fitting[first], fitting.get(bias), weights.pixels, wanted)
    except ValueError as error:
        raise UserError(
            f"{weights.source} was trained with {weights.pixels}; the model takes {wanted}: {error}"
        ) from None
    fitting.update({name: value for name, value in zip((first, bias), converted, strict=True) if value is not None})


def _heading(weights):
    text = f"{weights.source}: {weights.layout.title} weights, pixels {weights.pixels or 'unknown'}"
    if weights.classes:
        text += f", classes {', '.join(weights.classes)}"
    return text + (f"\n{weights.layout.note}" if weights.layout.note else "")
