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
from detlite.config.load import load_config_text
from detlite.config.yaml import format_value, parse_yaml
from detlite.data import Faults, ResizeShortSide, build_dataset
from detlite.data.datasets.base import BAD_BOXES
from detlite.errors import UserError
from detlite.preparation.anchors import box_sizes, cluster, fit
from detlite.preparation.find import find_data

TEMPLATE = Path(__file__).with_name("template.yaml")
VGG_DEPTHS = {8: 11, 10: 13, 13: 16, 16: 19}  # by the number of convolutions
NUM_ANCHORS = 9  # the paper's
SMALL_SIDE = 32  # px of the network's input that nine of ten objects shall have: COCO calls smaller ones small
LEAST_SIZE, MOST_SIZE = 128, 600  # px of the short side; the paper's is 600
RECIPES = Path(__file__).with_name("recipes.yaml")
SIZE_CHOSEN = f"from {LEAST_SIZE} to {MOST_SIZE}, such that nine of ten objects measure {SMALL_SIDE} px or more"


def new_config(folder, output, weights="", format=None, size=None):
    """Return the text of a config for the data in a folder, and notes for its user.

    Args:
        folder: see :func:`detlite.preparation.find.find_data`.
        output: the file that the text will be written to; it is named in the text and in OUTPUT_DIR.
        weights: a VGG's, as for :func:`detlite.checkpoint.read_weights`; empty for none.
        format: coco, voc or yolo, for a folder that holds several; None takes the only one.
        size: the short side of the network's input, in pixels; None takes :func:`choose_size`'s.

    Raises:
        UserError: no data, data that cannot be read, a test split of other classes, or weights that are not a VGG's.
    """
    found = find_data(folder, format)
    datasets, skipped = _build(found)
    *train, test = datasets
    classes = list(train[0].classes)
    shares, labels = _object_sides(train)
    if not len(labels):
        raise UserError(f"{folder}: the images to train on have no objects (format: {found.format})")

    num_images = sum(map(len, train))
    recipes = parse_yaml(RECIPES.read_text(encoding="utf-8"), RECIPES)
    recipe = recipes["pretrained" if weights else "from scratch"]
    values = recipe | _schedule(recipe, num_images) | _choose_input(train, shares, size)
    if weights:
        values |= _read_vgg(weights)

    # `detlite init` prints the notes, and the config has them as comments.
    notes = [*found.remarks, *skipped, *_notes_on_classes(classes, shares, labels, values["size"])]
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    objects = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))
    head = [f"Objects to train on: {objects}.", *notes]

    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
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

    # An error in the text, such as one that the folder's name causes, is reported before the file is written.
    cfg = load_config_text(text, str(output))
    require_model_classes(agree_on_classes(cfg, classes, "DATASETS.TRAIN"), test)
    return text, notes


def _build(found):
    """Build the data sets, the test set last, and collect notes. Set BAD_BOXES: skip in nodes with bad boxes."""
    datasets, notes = [], []
    for node in [*found.train, found.test]:
        faults = Faults(limit=1)
        datasets.append(build_dataset(node, faults))
        # Bad boxes can be left out; any other error has to be fixed in the files. One example per kind is reported.
        errors = []
        for kind, fault in faults.items():
            if not fault.is_error:
                continue
            if kind in BAD_BOXES:
                node["BAD_BOXES"] = "skip"
                notes.append(f"{fault.count} {kind}, left out (BAD_BOXES): {fault.examples[0]}")
            else:
                errors.append(f"{fault.examples[0]} ({fault.count} {kind})")
        if errors:
            raise UserError("\n".join([*errors, "fix these first"]))
    return datasets, list(dict.fromkeys(notes))


def _object_sides(datasets):
    """Return each object's side, divided by the short side of its image, and its class index, from 0: (B,) arrays."""
    shares, labels = [], []
    for dataset in datasets:
        truth = dataset.coco()
        short_sides = {image["id"]: min(image["height"], image["width"]) for image in truth["images"]}
        index_of = dict(zip(dataset.category_ids, range(len(dataset.category_ids)), strict=True))
        for row in truth["annotations"]:
            if not row["iscrowd"]:
                side = math.sqrt(max(0, row["bbox"][2] * row["bbox"][3]))  # of a square with the object's area
                shares.append(side / short_sides[row["image_id"]])
                labels.append(index_of[row["category_id"]])
    return np.array(shares), np.array(labels, int)


def choose_size(shares):
    """Return the short side of the network's input at which nine of ten objects have sides of SMALL_SIDE.

    It is a multiple of 16, from LEAST_SIZE to MOST_SIZE. ``shares`` are as ``_object_sides`` returns them.
    """
    return int(np.clip(_next_multiple(SMALL_SIDE / max(np.quantile(shares, 0.1), 1e-6)), LEAST_SIZE, MOST_SIZE))


def _next_multiple(size):
    """Round up to a multiple of 16, the stride."""
    return math.ceil(size / 16) * 16


def _choose_input(datasets, shares, size):
    """Return the template's values for the size of the network's input, and for the anchors at this size."""
    reason = "as --size says" if size else SIZE_CHOSEN
    size = size or choose_size(shares)
    # MAX_SIZE is the long side of the most elongated image, but at most twice the short side.
    image_sizes = np.concatenate([dataset.sizes for dataset in datasets])
    ratio = (image_sizes.max(axis=1) / image_sizes.min(axis=1)).max()
    max_size = _next_multiple(size * min(ratio, 2))

    sizes = box_sizes(datasets, [ResizeShortSide(size=size, max_size=max_size)])
    num_anchors = min(NUM_ANCHORS, len(np.unique(sizes, axis=0)))
    anchors = cluster(sizes, num_anchors, seed=0).round(1).clip(min=0.1)
    overlap = fit(sizes, anchors)
    smallest = np.quantile(sizes.min(axis=1), 0.01)  # the short side of the smallest 1 % of boxes
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


def _notes_on_classes(classes, shares, labels, size):
    """Return notes on classes without objects, and on classes of objects that are small at an input size."""
    never, small, smallest = [], [], math.inf
    for index, name in enumerate(classes):
        of_class = labels == index
        if not of_class.any():
            never.append(name)
            continue
        median = size * np.median(shares[of_class])  # px
        smallest = min(smallest, median)
        if median < SMALL_SIDE:
            small.append(f"{name} (half are under {median:.0f} px)")

    notes = []
    if never:
        notes.append(f"no training image shows these classes, so the detector will not learn them: {', '.join(never)}")
    # More than twice the paper's size is not suggested.
    larger = _next_multiple(min(size * SMALL_SIDE / max(smallest, 1), 2 * MOST_SIZE))
    if small and larger > size:
        notes.append(
            f"small in the network's input, so many will be missed: {', '.join(small)}; "
            f"`detlite init --size {larger}` finds more, but a step takes {(larger / size) ** 2:.1f} times as long"
        )
    return notes


def _schedule(recipe, num_images):
    """Return the template's values for SOLVER, with enough epochs for the recipe's least steps."""
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


def _read_vgg(source):
    """Return the template's values for the VGG that weights belong to."""
    weights = read_weights(source)
    names = weights.layout.rename(set(weights.state))

    # Depth and width follow from the filters' shapes, (out, in, height, width).
    shapes = []
    for name, model_name in names.items():
        if re.search(r"(^|\.)features\.\d+\.weight$", model_name) and weights.state[name].ndim == 4:
            shapes.append(weights.state[name].shape)
    if len(shapes) not in VGG_DEPTHS:
        raise UserError(f"{source}: not the weights of a VGG; --weights takes a VGG's, such as torchvision/vgg16")
    first = next(shape for shape in shapes if shape[1] == 3)

    has_norm = any(name.endswith("running_mean") for name in names)
    path = Path(source).expanduser()
    return {
        "weights": format_value(str(path.resolve()) if path.is_file() else source),
        "depth": VGG_DEPTHS[len(shapes)],
        "norm": "BatchNorm" if has_norm else "none",
        "width": f"{first[0] / 64:g}",
    }


def _comment(text):
    """Wrap a text into lines of comments."""
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 120, initial_indent="# ", subsequent_indent="# ", **options)
