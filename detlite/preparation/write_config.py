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
from detlite.config.yaml import format_value
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
RECIPES = {  # values of the template
    "pretrained": {
        "batch": 2,
        "batch_reason": "the paper's",
        "least_steps": 500,
        "least_epochs": 8,
        "warmup": 50,
        "lr": 0.0075,
        "lr_from": "finetune_coco",
        "fc_dim": 1024,
        "conv_dim": 512,
        "conv_dim_reason": "the paper's",
        "freeze_at": 2,
        "weights_reason": "from `detlite init --weights`",
        "backbone_reason": "The architecture of the weights. The first two stages stay frozen: edges and textures suit "
        "any images. The pixels' mean, standard deviation and channel order come with the weights.",
    },
    "from scratch": {
        "batch": 8,
        "batch_reason": "BatchNorm needs several images",
        "least_steps": 1000,
        "least_epochs": 12,
        "warmup": 100,
        "lr": 0.02,
        "lr_from": "quickstart",
        "fc_dim": 256,
        "conv_dim": 128,
        "conv_dim_reason": "a quarter of the paper's, like the backbone",
        "freeze_at": 0,
        "weights": "''",
        "weights_reason": "none: training starts from random weights",
        "depth": 16,
        "norm": "BatchNorm",
        "width": 0.25,
        "backbone_reason": "A quarter of VGG16's width, and BatchNorm, without which it hardly trains from scratch. "
        "Pretrained weights (`detlite init --weights torchvision/vgg16`) learn more from few images, in slower steps.",
    },
}
SIZE_CHOSEN = (
    f"The short side, from {LEAST_SIZE} to {MOST_SIZE}, at which nine of ten objects measure {SMALL_SIDE} px or more: "
    "COCO calls others small, and detectors miss them most. Larger sides take longer (`detlite init --size`). The "
    "anchors above are for this size."
)
SIZE_GIVEN = "The short side is as --size says. The anchors above are for this size."


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
        raise UserError(f"{folder}: {found.format}'s files, but the images to train on have no object")

    num_images = sum(map(len, train))
    recipe = RECIPES["pretrained" if weights else "from scratch"]
    values = recipe | _schedule(recipe, num_images) | _choose_input(train, shares, size)
    if weights:
        values |= _read_vgg(weights)

    # `detlite init` prints the notes, and the config has them as comments.
    notes = [*found.remarks, *skipped, *_notes_on_classes(classes, shares, labels, values["size"])]
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    objects = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))
    head = [f"Objects to train on: {objects}.", *notes]

    for reason in ("backbone_reason", "size_reason"):
        values[reason] = _comment(values[reason], indent="  ")
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
    """Build the data sets, the test set last, and collect notes. Where boxes are bad, set BAD_BOXES: skip in the node.

    Raises:
        UserError: a data set has other faults; the message has the first fault of each kind.
    """
    datasets, notes = [], []
    for node in [*found.train, found.test]:
        faults = Faults(limit=1)
        datasets.append(build_dataset(node, faults))
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
    """Return the relative side and the class index, from 0, of each object: two (B,) arrays.

    The relative side is the square root of the object's area, divided by the short side of its image.
    """
    shares, labels = [], []
    for dataset in datasets:
        truth = dataset.coco()
        short_sides = {image["id"]: min(image["height"], image["width"]) for image in truth["images"]}
        index_of = {category_id: index for index, category_id in enumerate(dataset.category_ids)}
        for row in truth["annotations"]:
            if not row["iscrowd"]:
                side = math.sqrt(max(0, row["bbox"][2] * row["bbox"][3]))
                shares.append(side / short_sides[row["image_id"]])
                labels.append(index_of[row["category_id"]])
    return np.array(shares), np.array(labels, int)


def choose_size(shares):
    """Return the short side of the network's input at which nine of ten objects have sides of SMALL_SIDE.

    Args:
        shares: (B,) sides of the objects, each divided by the short side of its image.

    Returns:
        a multiple of 16, the stride, from LEAST_SIZE to MOST_SIZE.
    """
    return int(np.clip(_next_multiple(SMALL_SIDE / max(np.quantile(shares, 0.1), 1e-6)), LEAST_SIZE, MOST_SIZE))


def _next_multiple(size):
    """Round up to a multiple of 16, the stride."""
    return math.ceil(size / 16) * 16


def _max_size(datasets, size):
    """Return MAX_SIZE for a short side: the long side of the most elongated image, at most twice the short side."""
    sizes = np.concatenate([dataset.sizes for dataset in datasets])
    return _next_multiple(size * min((sizes.max(axis=1) / sizes.min(axis=1)).max(), 2))


def _min_size(sizes):
    """Return MIN_SIZE: half the short side of the smallest 1 % of boxes, from 1 to 16."""
    return max(1, min(16, math.floor(np.quantile(sizes.min(axis=1), 0.01) / 2)))


def _choose_input(datasets, shares, size):
    """Return the template's values for the size of the network's input, and for the anchors at this size."""
    reason = SIZE_GIVEN if size else SIZE_CHOSEN
    size = size or choose_size(shares)
    max_size = _max_size(datasets, size)
    sizes = box_sizes(datasets, [ResizeShortSide(size=size, max_size=max_size)])

    num_anchors = min(NUM_ANCHORS, len(np.unique(sizes, axis=0)))
    anchors = cluster(sizes, num_anchors, seed=0).round(1).clip(min=0.1)
    overlap = fit(sizes, anchors)
    return {
        "size": size,
        "max_size": max_size,
        "size_reason": reason,
        "min_size": _min_size(sizes),
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
        notes.append(f"the images to train on hold no {' and no '.join(never)}: the detector will not learn it")
    # More than twice the paper's size is not suggested.
    larger = _next_multiple(min(size * SMALL_SIDE / max(smallest, 1), 2 * MOST_SIZE))
    if small and larger > size:
        notes.append(
            f"small in the network's input, so that many will be missed: {', '.join(small)}; "
            f"`detlite init --size {larger}` finds more, and a step takes {(larger / size) ** 2:.1f} times as long"
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
        "warmup_iters": min(recipe["warmup"], steps // 10),
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


def _comment(text, indent=""):
    """Wrap a text into lines of comments."""
    start = f"{indent}# "
    return textwrap.fill(
        text, 120, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
    )
