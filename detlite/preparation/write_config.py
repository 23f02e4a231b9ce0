"""Write a config for a user's data, each value with its reason.

Letters: N images to train on, B boxes in them. Sizes are (width, height).
"""

import math
import re
import textwrap
from pathlib import Path
from string import Template

import numpy as np

from detlite.agreement import agree_on_classes, require_model_classes
from detlite.checkpoint import read_weights
from detlite.config.load import load_config, load_config_text
from detlite.config.yaml import format_value, parse_yaml
from detlite.data import Faults, ResizeShortSide, build_dataset
from detlite.data.datasets.base import BAD_BOXES
from detlite.errors import UserError
from detlite.files import user_path
from detlite.preparation.anchors import box_sizes, cluster, fit, read_objects
from detlite.preparation.find import find_data

TEMPLATE = Path(__file__).with_name("template.yaml")
DETECTOR_TEMPLATE = Path(__file__).with_name("detector.yaml")
# A layer that only the detector of this config has; the first found counts.
DETECTORS = {
    "torchvision/fasterrcnn_resnet50_fpn_v2": "rpn.head.conv.1.0.weight",
    "torchvision/fasterrcnn_mobilenet_v3_large_fpn": "backbone.body.16.0.weight",
    "torchvision/fasterrcnn_resnet50_fpn": "backbone.body.layer4.2.conv3.weight",
    "detectron2/faster_rcnn_r50_fpn": "backbone.fpn_lateral2.weight",
    "detectron2/faster_rcnn_r50_c4": "roi_heads.res5.0.conv1.weight",
}
VGG_DEPTHS = {8: 11, 10: 13, 13: 16, 16: 19}  # by the number of convolutions
NUM_ANCHORS = 9  # the paper's
SMALL_SIDE = 32  # px of the network's input; COCO calls smaller objects small
LEAST_SIZE, MOST_SIZE = 128, 600  # range of the input's short side, px; the paper's is 600
RECIPES = Path(__file__).with_name("recipes.yaml")
SIZE_CHOSEN = f"from {LEAST_SIZE} to {MOST_SIZE}, such that nine of ten objects measure {SMALL_SIDE} px or more"


def new_config(folder, output, weights="", format=None, size=None):
    """Return the text of a config for the data in a folder, and notes for the user.

    Args:
        folder, format: see :func:`detlite.preparation.find.find_data`.
        output: the file that the text will be written to. The text contains its name, also in OUTPUT_DIR.
        weights: of a VGG, or of a Faster R-CNN of torchvision or detectron2, see
            :func:`detlite.checkpoint.read_weights`; empty for random weights.
        size: the short side of the network's input, in pixels. None: see :func:`choose_size`.
    """
    found = find_data(folder, format)
    datasets, skipped = _build(found)
    *train, test = datasets
    classes = list(train[0].classes)
    boxes, image_sizes, labels = read_objects(train)
    if not len(labels):
        raise UserError(f"{folder}: the images to train on have no objects (format: {found.format})")

    relative_sides = np.sqrt(boxes[:, 2:].prod(axis=1).clip(min=0)) / image_sizes.min(axis=1)
    num_images = sum(map(len, train))
    recipes = parse_yaml(RECIPES.read_text(encoding="utf-8"), RECIPES)
    recipe = recipes["pretrained" if weights else "from scratch"]
    template, start, size = _start_from(weights, size)
    values = recipe | _schedule(recipe, num_images) | _choose_input(train, relative_sides, size) | start

    # `detlite init` prints the notes, and the config has them as comments.
    notes = [*found.remarks, *skipped, *_notes_on_classes(classes, relative_sides, labels, values["size"])]
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    objects = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))
    head = [f"Objects to train on: {objects}.", *notes]

    text = Template(template.read_text(encoding="utf-8")).substitute(
        values,
        output=output,
        name=Path(output).stem,
        format=found.format.upper(),
        images=f"{num_images:,}",
        test_images=f"{len(test):,}",
        notes="\n".join(map(_comment, head)),
        train="\n".join(f"    - {format_value(node)}" for node in found.train),
        test=format_value(found.test),
    )

    # Load the text before it is written: an unusual folder name, for example, may make it invalid.
    cfg = load_config_text(re.sub(r"(?m)^_BASE_: .*$", "", text), str(output))  # no key depends on the base
    require_model_classes(agree_on_classes(cfg, classes, "DATASETS.TRAIN"), test)
    return text, notes


def _build(found):
    """Build the data sets, the test set last, and collect notes. Set BAD_BOXES: skip in nodes with bad boxes."""
    datasets, notes = [], []
    for node in [*found.train, found.test]:
        faults = Faults(limit=1)
        datasets.append(build_dataset(node, faults))
        # The config can skip bad boxes. The user has to fix other errors, reported with one example per kind.
        errors = []
        for kind, fault in faults.items():
            if fault.is_error and kind in BAD_BOXES:
                node["BAD_BOXES"] = "skip"
                notes.append(f"{fault.count} {kind}, left out (BAD_BOXES): {fault.examples[0]}")
            elif fault.is_error:
                errors.append(f"{fault.examples[0]} ({fault.count} {kind})")
        if errors:
            raise UserError("\n".join([*errors, "fix these first"]))
    return datasets, list(dict.fromkeys(notes))


def choose_size(relative_sides):
    """Return the short side of the network's input at which nine of ten objects have sides of at least SMALL_SIDE.

    It is a multiple of 16, from LEAST_SIZE to MOST_SIZE. ``relative_sides`` (B,) are the sides of squares with the
    boxes' areas, as fractions of the images' short sides.
    """
    small = max(np.quantile(relative_sides, 0.1), 1e-6)  # nine of ten objects are at least this large
    return int(np.clip(_next_multiple(SMALL_SIDE / small), LEAST_SIZE, MOST_SIZE))


def _next_multiple(size):
    """Round up to a multiple of 16, the stride."""
    return math.ceil(size / 16) * 16


def _choose_input(datasets, relative_sides, size):
    """Return the template's values for the size of the network's input, and for the anchors at this size."""
    reason = "as --size says" if size else SIZE_CHOSEN
    size = size or choose_size(relative_sides)
    # MAX_SIZE, the limit of the long side, fits the most elongated image, up to twice the short side.
    image_sizes = np.concatenate([dataset.sizes for dataset in datasets])
    ratio = (image_sizes.max(axis=1) / image_sizes.min(axis=1)).max()
    max_size = _next_multiple(size * min(ratio, 2))

    sizes = box_sizes(datasets, [ResizeShortSide(size=size, max_size=max_size)])
    num_anchors = min(NUM_ANCHORS, len(np.unique(sizes, axis=0)))
    anchors = cluster(sizes, num_anchors, seed=0).round(1).clip(min=0.1)
    overlap = fit(sizes, anchors)
    smallest = np.quantile(sizes.min(axis=1), 0.01)  # 1 % of boxes have a shorter short side
    return {
        "size": size,
        "max_size": max_size,
        "size_reason": reason,
        "min_size": max(1, min(16, math.floor(smallest / 2))),
        "num_boxes": f"{len(sizes):,}",
        "anchors": format_value(anchors.tolist()),
        "mean_iou": f"{overlap['mean IoU']:.2f}",
        "recall": f"{overlap['recall at 0.5']:.1%}",
    }


def _notes_on_classes(classes, relative_sides, labels, size):
    """Return notes on classes without objects, and on classes whose objects are small at an input size."""
    never, small, smallest = [], [], math.inf
    for index, name in enumerate(classes):
        of_class = labels == index
        if not of_class.any():
            never.append(name)
            continue
        median = size * np.median(relative_sides[of_class])  # px
        smallest = min(smallest, median)
        if median < SMALL_SIDE:
            small.append(f"{name} (half are under {median:.0f} px)")

    notes = []
    if never:
        notes.append(f"no training image shows these classes, so the detector will not learn them: {', '.join(never)}")
    # Suggest the size at which the smallest class's median is SMALL_SIDE, but at most twice the paper's size.
    larger = _next_multiple(min(size * SMALL_SIDE / max(smallest, 1), 2 * MOST_SIZE))
    if small and larger > size:
        notes.append(
            f"small in the network's input, so many will be missed: {', '.join(small)}; "
            f"`detlite init --size {larger}` finds more, but a step takes {(larger / size) ** 2:.1f} times as long"
        )
    return notes


def _schedule(recipe, num_images):
    """Return the template's values for SOLVER, with enough epochs for the recipe's minimum of steps."""
    batch_size = min(recipe["batch"], num_images)
    epochs = max(recipe["least_epochs"], math.ceil(recipe["least_steps"] * batch_size / num_images))
    steps = math.ceil(epochs * num_images / batch_size)
    return {
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": f"{steps:,}",
        "least_steps": f"{recipe['least_steps']:,}",
        "warmup_iters": min(recipe["least_steps"], steps) // 10,
        "period": math.ceil(steps / 4),
        "log_period": max(1, min(20, steps // 10)),
    }


def _start_from(source, size):
    """Return the template for weights, its values that depend on them, and the input's size or None."""
    if not source:
        return TEMPLATE, {}, size
    weights = read_weights(source)
    path = user_path(source)
    values = {"weights": format_value(str(path.resolve()) if path.is_file() else source)}
    if not weights.layout.is_detector:
        return TEMPLATE, values | _read_vgg(weights), size
    base = _find_detector(weights)
    resize = load_config(base).TRANSFORMS.TEST[0]
    return DETECTOR_TEMPLATE, values | {"base": base, "resize": resize.NAME}, size or resize.SIZE


def _find_detector(weights):
    """Return the name of the config of the detector that weights are for."""
    known = [name for name, layer in DETECTORS.items() if layer in weights.state]
    if weights.source.startswith("torchvision/"):
        known = ["/".join(weights.source.split("/")[:2])]
    if not known:
        raise UserError(f"{weights.source}: not the weights of a known detector: {', '.join(DETECTORS)}")
    return f"detlite:{known[0]}"


def _read_vgg(weights):
    """Return the template's values for the VGG that the weights fit."""
    names = weights.layout.rename(set(weights.state))

    # Depth and width follow from the filters' shapes, (out, in, height, width).
    shapes = []
    for name, model_name in names.items():
        if re.search(r"(^|\.)features\.\d+\.weight$", model_name) and weights.state[name].ndim == 4:
            shapes.append(weights.state[name].shape)
    first = next((shape for shape in shapes if shape[1] == 3), None)  # the filters on RGB
    if first is None or len(shapes) not in VGG_DEPTHS:
        raise UserError(
            f"{weights.source}: not the weights of a VGG; --weights takes a VGG's, such as torchvision/vgg16, or "
            "torchvision's or detectron2's Faster R-CNN's"
        )
    has_norm = any(name.endswith("running_mean") for name in names)
    return {
        "depth": VGG_DEPTHS[len(shapes)],
        "norm": "BatchNorm" if has_norm else "none",
        "width": f"{first[0] / 64:g}",
    }


def _comment(text):
    """Wrap a text into lines of comments."""
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 120, initial_indent="# ", subsequent_indent="# ", **options)
