"""Write a config for a user's data, each value with its reason."""

import math
import re
import textwrap
from collections import Counter
from pathlib import Path
from string import Template

import numpy as np

from detlite.agreement import agree_on_classes, require_model_classes
from detlite.checkpoint import read_weights
from detlite.config.load import load_config, load_config_text
from detlite.config.yaml import format_value, parse_yaml
from detlite.data import Faults, ResizeShortSide, TiledDataset, build_dataset, concatenate
from detlite.data.datasets.base import BAD_BOXES, REPEATED
from detlite.errors import UserError
from detlite.files import user_path
from detlite.preparation.anchor_recall import describe_recall, judge_anchors
from detlite.preparation.anchors import read_objects, resize
from detlite.preparation.choose_input import choose_anchors, choose_inputs
from detlite.preparation.find import find_data, value_of_tests

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
CANDIDATES = [("VGG", 9), ("FPN", 3), ("FPN", 9)]  # names in recipes.yaml, and anchors per cell
VGG_DEPTHS = {8: 11, 10: 13, 13: 16, 16: 19}  # by the number of convolutions
RECIPES = Path(__file__).with_name("recipes.yaml")
FEW_IMAGES, FEW_OBJECTS, PRESETS = 100, 10, (1000, 10000)  # fewer are noted; limits of Augmentation's presets


def new_config(folder, output, weights="", format=None, size=None, names=()):
    """Return the text of a config for the data in a folder, notes for the user, and a table of the inputs, as dicts.

    ``folder``, ``format`` and ``names`` are for :func:`~detlite.preparation.find.find_data`, ``weights`` for
    :func:`~detlite.checkpoint.read_weights`; empty is random. The text contains the name of the file ``output``. The
    network's input has the short side ``size``; None chooses it.
    """
    found = find_data(folder, format, names)
    datasets, skipped = _build([*found.train, *found.tests])
    train, tests = datasets[: len(found.train)], datasets[len(found.train) :]
    classes, objects = list(concatenate(train).classes), read_objects(train)
    if not len(objects.labels):
        raise UserError(f"{folder}: the images to train on have no objects (format: {found.format})")

    # The network's input: whole images, or tiles.
    template, start, own_size = _start_from(weights)
    image_sizes = np.concatenate([dataset.sizes for dataset in train])[:, ::-1]
    inputs = choose_inputs(objects, image_sizes, size or own_size)
    chosen, train_nodes = inputs[0], found.train
    resizes = [ResizeShortSide(size=chosen.size, max_size=2 * chosen.size)]
    if chosen.tile:
        tiling = {"NAME": "TiledDataset", "SIZE": chosen.tile, "OVERLAP": chosen.overlap}
        train_nodes, resizes = [{**tiling, "DATASET": node} for node in train_nodes], []
        train = [TiledDataset(dataset, size=chosen.tile, overlap=chosen.overlap) for dataset in train]

    # `detlite init` prints the notes, and the config has them as comments.
    counts = dict(zip(classes, np.bincount(objects.labels, minlength=len(classes)).tolist(), strict=True))
    notes = [*found.remarks, *skipped, *_notes_on_numbers(counts, len(image_sizes), weights)]
    head = f"Objects to train on: {', '.join(f'{name} {count:,}' for name, count in counts.items())}."
    values = {
        "output": str(output),
        "folder": format_value(f"output/{Path(output).stem}"),
        "format": found.format.upper(),
        "images": f"{len(image_sizes):,}",
        "test_images": f"{sum(map(len, tests)):,}",
        "notes": "\n".join(map(_comment, [head, *notes])),
        "train": "\n".join(f"    - {format_value(node)}" for node in train_nodes),
        "test": format_value(value_of_tests(found.tests)),
        **chosen._asdict(),
        "max_size": 2 * chosen.size,
        **_limits(datasets, train),
    }
    cfg, text = _compose(template, start, values, resize(read_objects(train), resizes), train)
    for test in tests:
        require_model_classes(agree_on_classes(cfg, classes, "DATASETS.TRAIN"), test)
    return text, notes, [item.row(objects, image_sizes) for item in inputs]


def _compose(template, start, values, objects, train):
    """Return the config and its text. The detector is the first of CANDIDATES whose anchors suit the objects.

    If none does, it is the one whose anchors reach most objects.
    ``values`` and ``start`` are the template's values for the data and the weights.
    """
    recipes = parse_yaml(RECIPES.read_text(encoding="utf-8"), RECIPES)
    recipe = recipes["pretrained" if start else "from scratch"] | start
    num_inputs, sizes = sum(map(len, train)), objects.boxes[:, 2:]
    shortest = np.quantile(sizes.min(axis=1), 0.01)  # 1 % of boxes have a shorter short side
    values = {**recipe, **_schedule(recipe, num_inputs), **values, "num_boxes": f"{len(sizes):,}"}
    values["min_size"] = max(1, min(16, math.floor(shortest / 2)))
    transforms = recipes["inputs"]["tiles" if values["tile"] else "whole images"]
    tried = []
    for name, num in CANDIDATES:
        has_small = name == "FPN" or values["tile"] > 0
        values["preset"] = "large" if has_small else ("small", "medium", "large")[np.searchsorted(PRESETS, num_inputs)]
        values["anchors"] = format_value(choose_anchors(sizes, num, is_pyramid=name == "FPN"))
        for key, part in [*recipes["detectors"][name].items(), ("transforms", transforms)]:
            values[key] = Template(part).safe_substitute(values)
        text = Template(template.read_text(encoding="utf-8")).safe_substitute(values)  # all but $recall

        # Load the text before it is written: an unusual folder name, for example, may make it invalid.
        cfg = load_config_text(re.sub(r"(?m)^_BASE_: .*$", "", text), values["output"])  # no key depends on the base
        if template == DETECTOR_TEMPLATE:
            return cfg, text
        rows, remedy = judge_anchors(cfg, objects, train[0].classes)
        text = text.replace("# $recall.", _comment(f"{describe_recall(rows)}.").replace("\n", "\n    "))
        if not remedy:
            return cfg, text
        tried.append((rows[0]["recall at 0.5"], cfg, text))
    return max(tried, key=lambda row: row[0])[1:]


def _limits(datasets, train):
    """Return the template's values for the most objects in an image of the data sets, and in an image to train on."""
    counts = []
    for dataset in [*train, *datasets]:
        ids = [row["image_id"] for row in dataset.coco()["annotations"] if not row.get("iscrowd")]
        counts.append(max(Counter(ids).values(), default=0))
    most, crowd = max(counts), max(counts[: len(train)])
    detections = 100 if most <= 66 else math.ceil(1.5 * most / 100) * 100
    return {"most": most, "detections": detections, "crowd": crowd, "proposals": max(300, 3 * crowd)}


def _build(nodes):
    """Build the data sets of nodes, and collect notes. Set BAD_BOXES or DUPLICATES in nodes that need it."""
    datasets, notes = [], []
    for node in nodes:
        faults = Faults(limit=1)
        dataset = build_dataset(node, faults)
        # The config can skip bad boxes. The user has to fix other errors, reported with one example per kind.
        errors = []
        for kind, fault in faults.items():
            if fault.is_error and kind in BAD_BOXES:
                node["BAD_BOXES"] = "skip"
                notes.append(f"{fault.count} {kind}, left out (BAD_BOXES): {fault.examples[0]}")
            elif fault.is_error:
                errors.append(f"{fault.examples[0]} ({fault.count} {kind})")
            elif kind == REPEATED:
                node["DUPLICATES"] = "drop"
                notes.append(f"{fault.count} {kind}, left out (DUPLICATES): {fault.examples[0]}")
        if errors:
            raise UserError("\n".join([*errors, "fix these first"]))
        datasets.append(build_dataset(node) if "DUPLICATES" in node else dataset)
    return datasets, list(dict.fromkeys(notes))


def _notes_on_numbers(counts, num_images, weights):
    """Return notes on few images, and on classes with few objects; ``counts`` are {class: objects}."""
    notes = []
    if num_images < FEW_IMAGES:
        more = "" if weights else ", as do pretrained weights (--weights)"
        notes.append(f"only {num_images} training images: more of them help most{more}")
    if rare := [f"{name} {count}" for name, count in counts.items() if count < FEW_OBJECTS]:
        notes.append(f"few objects to train on: {', '.join(rare)} (--classes chooses the classes to use)")
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


def _start_from(source):
    """Return the template for weights, its values that depend on them, and the size of the detector's input or None."""
    if not source:
        return TEMPLATE, {}, None
    weights = read_weights(source)
    path = user_path(source)
    values = {"weights": format_value(str(path.resolve()) if path.is_file() else source)}
    if not weights.layout.is_detector:
        return TEMPLATE, values | _read_vgg(weights), None

    # The config of the detector that the weights are for.
    known = [name for name, layer in DETECTORS.items() if layer in weights.state]
    if weights.source.startswith("torchvision/"):
        known = ["/".join(weights.source.split("/")[:2])]
    if not known:
        raise UserError(f"{weights.source}: not the weights of a known detector: {', '.join(DETECTORS)}")
    base = f"detlite:{known[0]}"
    scaling = load_config(base).TRANSFORMS.TEST[0]
    return DETECTOR_TEMPLATE, values | {"base": base, "resize": scaling.NAME}, scaling.SIZE


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
        expected = "a VGG's, such as torchvision/vgg16, or torchvision's or detectron2's Faster R-CNN's"
        raise UserError(f"{weights.source}: not the weights of a VGG; --weights takes {expected}")
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
