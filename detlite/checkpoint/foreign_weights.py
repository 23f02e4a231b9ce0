"""Map other libraries' names for the weights of a VGG or a Faster R-CNN to ours."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from detlite.checkpoint.pixel_statistics import CAFFE, IMAGENET, Pixels


@dataclass(frozen=True)
class Layout:
    """A naming scheme for weights.

    Args:
        title: the name of the layout, for messages.
        recognize: function from a file's set of names to whether they follow this layout.
        rename: function from names to {name: detlite's name}. The latter is a detector's parameter name, or relative to
            one of its modules, such as "features.0.weight".
        pixels: pixel statistics of such weights, for files that do not contain them; None if they vary.
        expected_prefix: prefix of the parameters of the model that such a file must provide; others are optional.
        note: further advice for the user.
    """

    title: str
    recognize: Callable
    rename: Callable
    pixels: Pixels | None = None
    expected_prefix: str = ""
    note: str = ""


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
    """Rename layers such as "conv3_2" to their indices in torchvision's ``features``."""
    layers = {name.replace("/", ".").partition(".")[0] for name in names}
    convolutions = filter(re.compile(r"conv[1-5]_[1-4]").fullmatch, layers)

    # conv3_2 is the second convolution of the third stage. A ReLU follows each convolution, and a pooling layer ends
    # each stage. Both have an index in ``features``.
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


LAYOUTS = (
    Layout(
        "torchvision's FasterRCNN",
        recognize=lambda names: "rpn.head.cls_logits.weight" in names,
        rename=_renamer(
            (r"^backbone\.(?:body\.)?(\d+\.)", r"features.\1"),
            (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
            (r"^rpn\.head\.cls_logits\.", "rpn.head.logits."),
            (r"^rpn\.head\.bbox_pred\.", "rpn.head.deltas."),
            (r"^roi_heads\.box_predictor\.cls_score\.", "roi_heads.predictor.logits."),
            (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_heads.predictor.deltas."),
        ),
        pixels=IMAGENET,
        note=(
            "torchvision's detector scores an anchor with one sigmoid, centers the first anchor on (0, 0) and pools "
            "with RoIAlign, unaligned: MODEL.RPN.HEAD.OBJECTNESS sigmoid, MODEL.RPN.ANCHOR_GENERATOR.OFFSET 0, "
            "MODEL.ROI_HEADS.POOLER.NAME RoIAlign, MODEL.ROI_HEADS.POOLER.ALIGNED false"
        ),
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

    A name of the file may be relative to a module of the model, such as "features.0.weight". The model may lack some of
    the names that it is mapped to.

    >>> resolve_names(["features.0.weight", "fc.bias"], ["backbone.features.0.weight", "rpn.conv.bias"])
    {'features.0.weight': 'backbone.features.0.weight', 'fc.bias': 'backbone.fc.bias'}
    """
    model_names = set(model_names)
    relative_names = set(names) - model_names

    # Each relative name that ends a name of the model votes for the beginning of the latter, such as "backbone.".
    votes = Counter()
    for model_name in model_names:
        for dot in re.finditer(r"\.", model_name):
            if model_name[dot.end() :] in relative_names:
                votes[model_name[: dot.end()]] += 1
    prefix = max(votes, key=lambda prefix: (votes[prefix], prefix), default="")
    return {name: name if name in model_names else prefix + name for name in names}
