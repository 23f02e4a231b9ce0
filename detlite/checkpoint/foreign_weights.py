"""Map other libraries' names for the weights of a VGG or a Faster R-CNN to ours."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torchvision.models import get_model_weights

from detlite.checkpoint.pixel_statistics import CAFFE, IMAGENET, Pixels

# torchvision's COCO detectors have an output for each of COCO's ids 0 (background) to 90. Ten ids have no class.
_NAME_OF_ID = get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT.meta["categories"]
COCO_SPARE = _NAME_OF_ID.count("N/A")
COCO_CLASSES = [name for name in _NAME_OF_ID[1:] if name != "N/A"]
_UNUSED_LAST = sorted(range(len(_NAME_OF_ID)), key=lambda id: _NAME_OF_ID[id] == "N/A")


def _order_coco_outputs(state, classes):
    """Move the rows of COCO's unused ids to the end of a torchvision detector's predictor.

    torchvision's files do not name their classes. One with an output per id of COCO is trained on COCO.
    """
    count = len(_NAME_OF_ID)
    if classes is not None or len(state.get("roi_heads.box_predictor.cls_score.bias", ())) != count:
        return state, classes, 0
    ordered = dict(state)
    for name, value in state.items():
        if name.startswith("roi_heads.box_predictor.") and value.ndim and len(value) % count == 0:
            ordered[name] = value.unflatten(0, (count, -1))[_UNUSED_LAST].flatten(0, 1)  # 1 or 4 rows per id
    return ordered, COCO_CLASSES, COCO_SPARE


def _move_background_first(state, classes):
    """Move the background's row of a detectron2 detector's class layer, the last, before the classes' rows."""
    rows = {name: value for name, value in state.items() if name.startswith("roi_heads.box_predictor.cls_score.")}
    return state | {name: value.roll(1, dims=0) for name, value in rows.items() if value.ndim}, classes, 0


@dataclass(frozen=True)
class Layout:
    """A naming scheme for weights."""

    title: str  # for messages
    recognize: Callable  # (set of a file's names) -> whether they follow this layout
    # (names) -> {name: detlite's name}, complete, or relative to a module, such as "features.0.weight"
    rename: Callable
    pixels: Pixels | None = None  # for files without pixel statistics; None if they vary
    expected_prefix: str = ""  # of the model's parameter names that such a file should provide; others are optional
    is_detector: bool = False  # such a file should provide every part of the detector
    # (tensors, classes) -> the same with the predictor's rows in detlite's order, and the number of spare outputs
    order_outputs: Callable = lambda state, classes: (state, classes, 0)
    note: str = ""  # advice for the user


def _renamer(*rules):
    """Return a ``Layout.rename`` that applies (pattern, replacement) rules in order."""

    def rename(names):
        renamed = {}
        for name in names:
            renamed[name] = name
            for pattern, replacement in rules:
                renamed[name] = re.sub(pattern, replacement, renamed[name])
        return renamed

    return rename


def _rename_caffe(names):
    """Map "conv1_1.weight" or "conv1_1/W" to "features.0.weight", and other layers, such as "fc6", to the box head."""
    layers = {name.replace("/", ".").partition(".")[0] for name in names}
    convolutions = [layer for layer in layers if re.fullmatch(r"conv[1-5]_[1-4]", layer)]

    # conv3_2 is the second convolution of the third stage. In ``features``, a ReLU follows each convolution, and a
    # pooling layer ends each stage. So each convolution before takes two indices, and each stage before one more.
    indices = {}
    for count_before, layer in enumerate(sorted(convolutions)):
        stages_before = int(layer[4]) - 1
        indices[layer] = 2 * count_before + stages_before

    renamed = {}
    for name in names:
        layer, _, kind = name.replace("/", ".").partition(".")
        module = f"features.{indices[layer]}" if layer in indices else f"roi_heads.box_head.{layer}"
        kind = {"W": "weight", "b": "bias"}.get(kind, kind)
        renamed[name] = f"{module}.{kind}"
    return renamed


# Beginnings of names that only torchvision's detectors have, and only detectron2's.
_TORCHVISION_PARTS = ("backbone.fpn.", "rpn.head.cls_logits.", "roi_heads.box_predictor.")
_DETECTRON2_PARTS = ("backbone.fpn_lateral", "proposal_generator.", "roi_heads.res5.", "roi_heads.box_head.fc1.")
LAYOUTS = (
    Layout(
        "detectron2's Faster R-CNN",
        recognize=lambda names: any(name.startswith(_DETECTRON2_PARTS) for name in names),
        rename=_renamer(
            (r"^backbone(?:\.bottom_up)?\.stem\.", "body."),
            (r"^backbone(?:\.bottom_up)?\.res(\d)\.", lambda match: f"body.layer{int(match[1]) - 1}."),
            (r"^roi_heads\.res5\.", "roi_heads.box_head.layer4."),
            (r"\.conv(\d)\.norm\.", r".bn\1."),
            (r"\.shortcut\.norm\.", ".downsample.1."),
            (r"\.shortcut\.", ".downsample.0."),
            (r"^backbone\.fpn_lateral(\d)\.", lambda match: f"backbone.pyramid.inner_blocks.{int(match[1]) - 2}.0."),
            (r"^backbone\.fpn_output(\d)\.", lambda match: f"backbone.pyramid.layer_blocks.{int(match[1]) - 2}.0."),
            (r"^proposal_generator\.rpn_head\.(?:objectness_|anchor_)?", "rpn.head."),
            (r"^roi_heads\.box_head\.fc([12])\.", lambda match: f"roi_heads.box_head.fc{int(match[1]) + 5}."),
            (r"^roi_heads\.box_predictor\.cls_score\.", "roi_heads.predictor.logits."),
            (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_heads.predictor.deltas."),
        ),
        pixels=Pixels((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR"),
        is_detector=True,
        order_outputs=_move_background_first,
        note="detectron2's files do not name the classes: to detect with one, set MODEL.CLASSES in its order",
    ),
    Layout(
        "torchvision's FasterRCNN",
        recognize=lambda names: any(name.startswith(_TORCHVISION_PARTS) for name in names),
        rename=_renamer(
            (r"^backbone\.(?:body\.)?(\d+\.)", r"features.\1"),
            (r"^backbone\.body\.", "body."),
            (r"^backbone\.fpn\.(\w+\.\d+\.\d+\.)", r"backbone.pyramid.\1"),
            (r"^backbone\.fpn\.(\w+\.\d+)\.", r"backbone.pyramid.\1.0."),  # before torchvision 0.13
            (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
            (r"^rpn\.head\.conv\.(\d+)\.0\.", lambda match: f"rpn.head.more_convs.{int(match[1]) - 1}."),
            (r"^rpn\.head\.cls_logits\.", "rpn.head.logits."),
            (r"^rpn\.head\.bbox_pred\.", "rpn.head.deltas."),
            (r"^roi_heads\.box_head\.(\d+\.)", r"roi_heads.box_head.layers.\1"),
            (r"^roi_heads\.box_predictor\.cls_score\.", "roi_heads.predictor.logits."),
            (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_heads.predictor.deltas."),
        ),
        pixels=IMAGENET,
        is_detector=True,
        order_outputs=_order_coco_outputs,
        note="torchvision's detectors differ in many keys: `detlite configs` lists a config for each",
    ),
    Layout(
        "torchvision's VGG",
        recognize=lambda names: "features.0.weight" in names,
        rename=_renamer(
            (r"^classifier\.0\.", "roi_heads.box_head.fc6."),
            (r"^classifier\.3\.", "roi_heads.box_head.fc7."),
        ),
        expected_prefix="backbone.",
    ),
    Layout(
        "Caffe's VGG",
        recognize=lambda names: bool({"conv1_1.weight", "conv1_1/W"} & names),
        rename=_rename_caffe,
        pixels=CAFFE,
        expected_prefix="backbone.",
    ),
    Layout("detlite's own", recognize=lambda names: True, rename=_renamer()),  # the fallback
)


def find_layout(names):
    """Return the first layout that recognizes the names of a file's tensors."""
    return next(layout for layout in LAYOUTS if layout.recognize(set(names)))


def resolve_names(names, model_names):
    """Map a file's parameter names to the model's: {name: the model's name}.

    Names that the model lacks all get the same prefix, such as "backbone.": the one with which most exist in the model.

    >>> resolve_names(["features.0.weight", "fc.bias"], ["backbone.features.0.weight", "rpn.conv.bias"])
    {'features.0.weight': 'backbone.features.0.weight', 'fc.bias': 'backbone.fc.bias'}
    """
    model_names = set(model_names)
    relative_names = set(names) - model_names

    # Cut each name of the model at each dot. If the end is a relative name, the beginning gets a vote as the prefix.
    votes = Counter()
    for model_name in model_names:
        for dot in re.finditer(r"\.", model_name):
            beginning, end = model_name[: dot.end()], model_name[dot.end() :]
            if end in relative_names:
                votes[beginning] += 1
    prefix = max(votes, key=lambda beginning: (votes[beginning], beginning), default="")
    return {name: name if name in model_names else prefix + name for name in names}


def expected_prefixes(weights, resolved, model_names):
    """Return the prefixes of the model's parameter names that a file should provide.

    A foreign detector's file should provide all parts of the model. detlite's own should provide each part that it
    names, such as the backbone, completely. Other files, such as a classification net's, should provide the module of
    the model that they are found to be. ``resolved`` is the result of :func:`resolve_names`.
    """
    parts = {name.split(".")[0] for name in model_names}
    if weights.layout.is_detector:
        return tuple(f"{part}." for part in parts)
    if named := parts.intersection(name.split(".")[0] for name in weights.state):
        return tuple(f"{part}." for part in named)
    prefix = weights.layout.expected_prefix
    found = set()
    for name, model_name in resolved.items():
        if name != model_name and model_name in model_names and model_name.startswith(prefix):
            found.add(model_name.removesuffix(name))
    return tuple(found) or (prefix,)
