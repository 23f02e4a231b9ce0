"""How others name the weights of a VGG or a Faster R-CNN, and what ours are called."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from detlite.checkpoint.pixel_statistics import CAFFE, IMAGENET, Pixels


@dataclass(frozen=True)
class Layout:
    """One way of naming weights.

    Args:
        title: what users call it.
        recognize: set of names -> whether they are of this layout.
        rename: set of names -> {name: ours}, ours being the detector's or, as "features.0.weight", one of its modules'.
        pixels: those that such weights take unless the file says otherwise; None if that differs from file to file.
        expected_prefix: beginning of those of our names that such a file is expected to fill; the rest is welcome.
        note: what else a user must know.
    """

    title: str
    recognize: Callable
    rename: Callable
    pixels: Pixels | None = None
    expected_prefix: str = ""
    note: str = ""


def _substitute(*rules):
    """A ``rename`` that applies regular expressions, one after the other, to each name."""

    def rename(names):
        renamed = {}
        for name in names:
            own = name
            for pattern, replacement in rules:
                own = re.sub(pattern, replacement, own)
            renamed[name] = own
        return renamed

    return rename


def _from_caffe(names):
    """conv3_2 is the second convolution of the third stage; in ``features``, ReLU and pooling count too."""
    layers = {name.replace("/", ".").partition(".")[0] for name in names}
    convolutions = sorted(layer for layer in layers if re.fullmatch(r"conv[1-5]_[1-4]", layer))
    places = {name: 2 * before + int(name[4]) - 1 for before, name in enumerate(convolutions)}
    renamed = {}
    for name in names:
        layer, _, kind = name.replace("/", ".").partition(".")
        kind = {"W": "weight", "b": "bias"}.get(kind, kind)
        if layer in places:
            renamed[name] = f"features.{places[layer]}.{kind}"
        else:
            renamed[name] = f"roi_heads.box_head.{layer}.{kind}"
    return renamed


LAYOUTS = (
    Layout(
        "torchvision's FasterRCNN",
        recognize=lambda names: "rpn.head.cls_logits.weight" in names,
        rename=_substitute(
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
        rename=_substitute(
            (r"^classifier\.0\.", "roi_heads.box_head.fc6."),
            (r"^classifier\.3\.", "roi_heads.box_head.fc7."),
        ),
        expected_prefix="backbone.",
    ),
    Layout(
        "Caffe's VGG",
        recognize=lambda names: bool({"conv1_1.weight", "conv1_1/W"} & names),
        rename=_from_caffe,
        pixels=CAFFE,
        expected_prefix="backbone.",
    ),
    Layout("detlite's own", recognize=lambda names: True, rename=_substitute()),
)


def find_layout(names):
    """The first layout that recognizes the names of a file's tensors; detlite's own if none else does."""
    return next(layout for layout in LAYOUTS if layout.recognize(set(names)))


def resolve_names(names, own):
    """Where the model has what a file calls so.

    Args:
        names: the model's names, or those of one of its modules, such as "features.0.weight".
        own: the model's names.

    Returns:
        {name: the model's name}; names that the model lacks may be among the latter.

    >>> resolve_names(["features.0.weight", "fc.bias"], ["backbone.features.0.weight", "rpn.conv.bias"])
    {'features.0.weight': 'backbone.features.0.weight', 'fc.bias': 'backbone.fc.bias'}
    """
    own = set(own)
    endings = {name for name in names if name not in own}
    votes = Counter()
    for known in own:
        modules = known.split(".")
        for depth in range(1, len(modules)):
            if ".".join(modules[depth:]) in endings:
                votes[".".join(modules[:depth]) + "."] += 1
    prefix = max(votes, key=lambda prefix: (votes[prefix], prefix)) if votes else ""
    return {name: name if name in own else prefix + name for name in names}
