"""A config for somebody's data, each value with its reason.

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

VGG_DEPTHS = {8: 11, 10: 13, 13: 16, 16: 19}  # by the number of convolutions
NUM_ANCHORS = 9  # the paper's
SMALL_SIDE = 32  # px of the network's input that nine of ten objects shall have: COCO calls smaller ones small
LEAST_SIZE, MOST_SIZE = 128, 600  # px of the short side; the paper's is 600
PRETRAINED = {
    "batch": 2,
    "batch_reason": "the paper's",
    "least_steps": 500,
    "least_epochs": 8,
    "warmup": 50,
    "lr": 0.0075,
    "lr_from": "finetune_coco",
    "fc_dim": 1024,
    "head": "",
}
FROM_SCRATCH = {
    "batch": 8,
    "batch_reason": "BatchNorm needs several",
    "least_steps": 1000,
    "least_epochs": 12,
    "warmup": 100,
    "lr": 0.02,
    "lr_from": "quickstart",
    "fc_dim": 256,
    "head": "    HEAD: {CONV_DIM: 128}  # a quarter of the paper's, as the backbone's\n",
}
SCRATCH_BACKBONE = """\
  # From scratch: a quarter of VGG16's width, and BatchNorm, without which it hardly trains. Pretrained weights, as of
  # `detlite init --weights torchvision/vgg16`, learn more from few images, and their steps take longer.
  BACKBONE: {NAME: VGG, DEPTH: 16, NORM: BatchNorm, WIDTH: 0.25, FREEZE_AT: 0}"""
TRAINED_BACKBONE = """\
  WEIGHTS: $source
  # As the weights are, the first two stages kept so: edges and textures serve any images. The pixels' mean, std and
  # order of channels come with the weights.
  BACKBONE: {NAME: VGG, DEPTH: $depth, NORM: $norm, WIDTH: $width, FREEZE_AT: 2}"""
SIZE_CHOSEN = f"""\
  # The short side, from {LEAST_SIZE} to {MOST_SIZE}, at which nine of ten objects measure {SMALL_SIDE} px or more:
  # COCO calls others small, and they are missed most. A larger side takes longer (`detlite init --size`). The anchors
  # above are for this size."""
SIZE_GIVEN = "  # The short side is as --size says. The anchors above are for it."
TEMPLATE = """\
# Command:  detlite train --config-file $output
#
# Made by `detlite init` from $format files: $images images to train on, $test_images to test on.
$notes
# What is not here is as in the default tree; `detlite explain --config-file $output` shows all there is.
OUTPUT_DIR: output/$name
MODEL:
  # CLASSES are not set: training takes the data's.
$backbone
  RPN:
    # k-means over the $num_boxes boxes, (width, height) in the network's input. A box's best overlap (IoU) with one is
    # $mean_iou on average, and at least 0.5 for $recall of the boxes.
    ANCHOR_GENERATOR: {NAME: ListAnchorGenerator, ANCHORS: $anchors}
$head    INSIDE_ONLY: false  # anchors that stick out train, too: in small images many objects lie at the border
    MIN_SIZE: $min_size  # half the short side of the smallest objects, at most the paper's 16
  ROI_HEADS:
    POOLER: {NAME: RoIAlign, RESOLUTION: 7}  # later ports' choice: RoIPool rounds boxes to 16 px
    BOX_HEAD: {FC_DIM: $fc_dim, DROPOUT: 0}  # narrower than the paper's 4096, which is for more images
    BOX_LOSS: {BETA: 0.1111111}  # torchvision's: in few steps, it makes boxes more precise than the paper's 1
    NMS_IOU: 0.5  # objects of a class may overlap; in VOC, which the paper's 0.3 is for, they rarely do
DATASETS:  # absolute paths: the config works from any folder
  TRAIN:
$train
  TEST: $test
TRANSFORMS:
$size_reason
  TRAIN: [{NAME: ResizeShortSide, SIZE: $size, MAX_SIZE: $max_size}, {NAME: RandomHorizontalFlip}]
  TEST: [{NAME: ResizeShortSide, SIZE: $size, MAX_SIZE: $max_size}]
SOLVER:
  BATCH_SIZE: $batch_size  # $batch_reason
  EPOCHS: $epochs  # $steps steps: no less than $least_epochs epochs, nor than $fewest_steps steps
  REFERENCE_BATCH_SIZE: $batch  # that LR is for: with another BATCH_SIZE the rate changes with it
  OPTIMIZER: {NAME: SGD, LR: $lr, WEIGHT_DECAY: 0.0005, BIAS_LR_FACTOR: 1}  # as in detlite's $lr_from.yaml
  LR_SCHEDULER: {NAME: CosineLR, WARMUP_ITERS: $warmup_iters}  # ends at 0, however many steps there are
  CLIP_GRADIENT_NORM: 10  # so that no single image spoils the weights
  CHECKPOINT_PERIOD: $period  # four in a run; --resume goes on from the last
  LOG_PERIOD: $log_period
"""


def new_config(folder, output, weights="", format=None, size=None):
    """The text of a config for the data in a folder.

    Args:
        folder: see :func:`detlite.preparation.find.find_data`.
        output: the file that the text is to stand in: for its head, and for OUTPUT_DIR.
        weights: a VGG's, as for :func:`detlite.checkpoint.read_weights`; empty for none.
        format: coco, voc or yolo, where the folder holds several; None takes the one there is.
        size: the short side of the network's input, in pixels; None takes :func:`choose_size`'s.

    Returns:
        the text, and a list of what its user should know.

    Raises:
        UserError: no data, data that cannot be read, a test split of other classes, or weights that are no VGG's.
    """
    found = find_data(folder, format)
    datasets, skips = _build(found)
    train, test = datasets[:-1], datasets[-1]
    shares, labels = _shares(train)
    classes = list(train[0].classes)
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.sum():
        raise UserError(f"{folder}: {found.format}'s files, but the images to train on have no object")
    given, size = size, size or choose_size(shares)
    max_size = _max_size(train, size)
    sizes = box_sizes(train, [ResizeShortSide(size=size, max_size=max_size)])
    number = min(NUM_ANCHORS, len(np.unique(sizes, axis=0)))
    anchors = cluster(sizes, number, 0).round(1).clip(min=0.1)
    overlap = fit(sizes, anchors)
    images = sum(map(len, train))
    plan = PRETRAINED if weights else FROM_SCRATCH
    batch_size = min(plan["batch"], images)
    epochs = max(plan["least_epochs"], math.ceil(plan["least_steps"] * batch_size / images))
    steps = math.ceil(epochs * images / batch_size)
    described = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts.tolist(), strict=True))
    notes = [*found.remarks, *skips]
    never = [name for name, count in zip(classes, counts, strict=True) if not count]
    if never:
        notes.append(f"the images to train on hold no {' and no '.join(never)}: the detector will not learn it")
    medians = {name: size * np.median(shares[labels == k]) for k, name in enumerate(classes) if counts[k]}
    small = [f"{name} (half are under {side:.0f} px)" for name, side in medians.items() if side < SMALL_SIDE]
    larger = _multiple(min(size * SMALL_SIDE / max(min(medians.values()), 1), 2 * MOST_SIZE))
    if small and larger > size:
        notes.append(
            f"small in the network's input, so that many will be missed: {', '.join(small)}; "
            f"`detlite init --size {larger}` finds more, and a step takes {(larger / size) ** 2:.1f} times as long"
        )
    text = Template(TEMPLATE).substitute(
        plan,
        output=output,
        format=found.format.upper(),
        images=f"{images:,}",
        test_images=f"{len(test):,}",
        notes="\n".join(_comment(note) for note in (f"Objects to train on: {described}.", *notes)),
        name=Path(output).stem,
        backbone=_backbone(weights),
        num_boxes=f"{len(sizes):,}",
        mean_iou=f"{overlap['mean IoU']:.2f}",
        recall=f"{overlap['recall at 0.5']:.1%}",
        anchors=format_value(anchors.tolist()),
        min_size=_min_size(sizes),
        train="\n".join(f"    - {format_value(node)}" for node in found.train),
        test=format_value(found.test),
        size_reason=SIZE_GIVEN if given else SIZE_CHOSEN,
        size=size,
        max_size=max_size,
        batch_size=batch_size,
        epochs=epochs,
        steps=f"{steps:,}",
        fewest_steps=f"{plan['least_steps']:,}",
        warmup_iters=min(plan["warmup"], steps // 10),
        period=math.ceil(steps / 4),
        log_period=max(1, min(20, steps // 10)),
    )
    cfg = load_config_text(text, str(output))  # what is wrong with it, such as the folder's odd name, is told here
    require_model_classes(agree_on_classes(cfg, classes, "DATASETS.TRAIN"), test)
    return text, notes


def choose_size(shares):
    """The short side of the network's input at which nine of ten objects have sides of SMALL_SIDE.

    Args:
        shares: (B,) the sides of the objects, as shares of the short sides of their images.

    Returns:
        a multiple of 16, the stride, from LEAST_SIZE to MOST_SIZE.
    """
    return int(np.clip(_multiple(SMALL_SIDE / max(np.quantile(shares, 0.1), 1e-6)), LEAST_SIZE, MOST_SIZE))


def _multiple(size):
    """The next multiple of 16, the stride."""
    return math.ceil(size / 16) * 16


def _max_size(datasets, size):
    """The long side at a short side: that of the longest image, or twice, so that longer ones become smaller."""
    sizes = np.concatenate([dataset.sizes for dataset in datasets])
    return _multiple(size * min((sizes.max(axis=1) / sizes.min(axis=1)).max(), 2))


def _shares(datasets):
    """Each object's side, the square root of its area, as a share of its image's short side; and its class's index."""
    shares, labels = [], []
    for dataset in datasets:
        truth = dataset.coco()
        short_of = {image["id"]: min(image["height"], image["width"]) for image in truth["images"]}
        index_of = {category_id: index for index, category_id in enumerate(dataset.category_ids)}
        for row in truth["annotations"]:
            if not row["iscrowd"]:
                shares.append(math.sqrt(max(0, row["bbox"][2] * row["bbox"][3])) / short_of[row["image_id"]])
                labels.append(index_of[row["category_id"]])
    return np.array(shares), np.array(labels)


def _build(found):
    """The data sets of found nodes, that to test on last; bad boxes are left out, by the nodes too. And remarks on it.

    Raises:
        UserError: something else is wrong in them, of each kind the first.
    """
    datasets, remarks = [], []
    for node in [*found.train, found.test]:
        faults = Faults(limit=1)
        datasets.append(build_dataset(node, faults))
        errors = {kind: fault for kind, fault in faults.items() if fault.is_error}
        bad = {kind: errors.pop(kind) for kind in BAD_BOXES if kind in errors}
        if errors:
            raise UserError(
                "\n".join(f"{fault.examples[0]} ({fault.count} {kind})" for kind, fault in errors.items())
                + "\nmend these first"
            )
        if bad:
            node["BAD_BOXES"] = "skip"
            remarks += [
                f"{fault.count} {kind}, left out (BAD_BOXES): {fault.examples[0]}" for kind, fault in bad.items()
            ]
    return datasets, list(dict.fromkeys(remarks))


def _min_size(sizes):
    """MIN_SIZE for boxes of such sizes: below the hundredth part that is smallest."""
    return max(1, min(16, math.floor(np.quantile(sizes.min(axis=1), 0.01) / 2)))


def _backbone(source):
    """The lines of MODEL that say where it starts from."""
    if not source:
        return SCRATCH_BACKBONE
    weights = read_weights(source)
    names = weights.layout.rename(set(weights.state))
    filters = [
        weights.state[name].shape
        for name, ours in names.items()
        if re.search(r"(^|\.)features\.\d+\.weight$", ours) and weights.state[name].ndim == 4
    ]
    if len(filters) not in VGG_DEPTHS:
        raise UserError(f"{source}: --weights takes a VGG's, such as torchvision/vgg16; this is none")
    path = Path(source).expanduser()
    return Template(TRAINED_BACKBONE).substitute(
        source=format_value(str(path.resolve()) if path.is_file() else source),
        depth=VGG_DEPTHS[len(filters)],
        norm="BatchNorm" if any(name.endswith("running_mean") for name in names) else "none",
        width=f"{next(shape[0] for shape in filters if shape[1] == 3) / 64:g}",
    )


def _comment(text):
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False))
