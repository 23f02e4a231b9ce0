"""Pictures of what happens to an image inside a detector: what ``tools/visualize.py`` does.

Each kind is a function ``(scene) -> PIL image``; those of the detector's own stages are in
:mod:`detlite.inspection.stages`.
"""

import logging
from pathlib import Path

import torch
from torchvision.ops import box_convert

from detlite.agreement import agree_on_classes, build_trained
from detlite.checkpoint import read_weights
from detlite.data import build_dataset, build_train_datasets, build_transforms, plain_tensor, seeded
from detlite.drawing import Panel, color_of, colors_of, draw_on, sheet
from detlite.errors import UserError
from detlite.evaluation.evaluator import Detections, Objects
from detlite.evaluation.inference import to_original_size
from detlite.evaluation.mistakes import KINDS, kinds_of_mistakes
from detlite.inspection import stages
from detlite.inspection.scene import Scene, object_names
from detlite.modeling import build_model
from detlite.seeding import derive_seed

logger = logging.getLogger("detlite")

MISTAKE_COLORS = {
    "right": (90, 220, 90),
    "localization": (255, 165, 40),
    "class": (240, 90, 240),
    "both": (255, 120, 150),
    "duplicate": (240, 240, 60),
    "background": (255, 70, 60),
    "ignored": (190, 190, 190),
    "missed": (80, 190, 255),
}
FIRST_IMAGES = 4


def visualize(cfg, what, *, weights=None, indices=(), split=None, folder="output/visualize", score_threshold=0.5):
    """Write a PNG of each image that shows one thing about it.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        what: one of VIEWS.
        weights: trained weights, see :func:`detlite.checkpoint.read_weights`; None leaves the detector untrained.
        indices: places in the data set; none are the first few.
        split: "train" or "test", the data set and transforms that are used; None is what fits the view.
        folder: where the pictures go.
        score_threshold: detections that score less are not shown.

    Returns:
        the paths of the pictures.

    Raises:
        UserError: no such image; a view that the detector has no parts for; weights that are needed or do not fit.
    """
    view, usual_split, needs_weights = VIEWS[what]
    if needs_weights and weights is None:
        raise UserError(f"{what}: an untrained detector has none to show; give --weights")
    split = split or usual_split
    weights = read_weights(weights) if weights else None
    dataset = build_dataset(cfg.DATASETS.TEST) if split == "test" else build_train_datasets(cfg.DATASETS.TRAIN)
    cfg = agree_on_classes(cfg, dataset.classes, f"DATASETS.{split.upper()}")
    if weights:
        cfg, model = build_trained(cfg, weights)
    else:
        torch.manual_seed(cfg.SEED)
        model = build_model(cfg)
    transforms = build_transforms(cfg.TRANSFORMS[split.upper()])
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    paths = []
    for index in indices or range(min(FIRST_IMAGES, len(dataset))):
        if not 0 <= index < len(dataset):
            raise UserError(f"there is no image {index}: DATASETS.{split.upper()} has {len(dataset)}, from 0 on")
        original, truth = dataset[index]
        seed = derive_seed(cfg.SEED if split == "train" else 0, 0, index)  # as in the training's first epoch
        with seeded(seed):
            image, target = transforms(original, truth)
        scene = Scene(
            cfg,
            model.eval(),
            weights is not None,
            split,
            plain_tensor(original),
            _plain_target(truth),
            plain_tensor(image),
            _plain_target(target) | {"seed": seed},
            score_threshold,
        )
        paths.append(Path(folder) / f"{what}-{split}-{index}.png")
        with torch.inference_mode():
            view(scene).save(paths[-1])
        logger.info("%s", paths[-1])
    return paths


def _plain_target(target):
    return {name: plain_tensor(value) for name, value in target.items()}


def inputs(scene):
    """The image as it is in its file, and as the network is given it."""
    model, image = scene.model, scene.image
    file = Panel(scene.original, f"the file's image, {_size(scene.original)}", short_side=360)
    file.boxes(scene.truth["boxes"], colors_of(scene.truth["labels"]), object_names(scene, scene.truth))
    batch = model.preprocess([image])[0].cpu()
    pixels = batch * model.pixel_std.cpu() + model.pixel_mean.cpu()
    pixels = (pixels.flip(0) if model.channel_order == "BGR" else pixels).round().clamp(0, 255).byte()
    given = Panel(pixels, f"what the network is given, {_size(pixels)}", short_side=360)
    given.boxes(scene.target["boxes"], colors_of(scene.target["labels"]), object_names(scene, scene.target))
    sides = (scene.target["boxes"][:, 2:] - scene.target["boxes"][:, :2]).flatten().tolist()
    mean, std = (
        [round(value, 1) for value in values.flatten().tolist()] for values in (model.pixel_mean, model.pixel_std)
    )
    steps = ", ".join(node["NAME"] for node in scene.cfg.TRANSFORMS[scene.split.upper()]) or "none"
    caption = (
        f"TRANSFORMS.{scene.split.upper()} ({steps}) give an image of {_size(image)}; the model pads it to the right "
        f"and below to multiples of its largest stride, {max(model.backbone.strides.values())}. Alone in its batch it "
        f"becomes {_size(pixels)}; a batch takes its largest image's size. The padding is 0 after normalization: the "
        f"mean's color.\nThe network sees ({model.channel_order} - {mean}) / {std}, turned back into colors here.\n"
        + (
            f"{len(sides) // 2} objects, sides from {min(sides):.0f} to {max(sides):.0f} px."
            if sides
            else "No objects."
        )
    )
    return sheet([file, given], [], caption)


def detections(scene):
    """Ground truth beside detections, in the file's pixels."""
    found = _detect(scene)
    left, right = _truth_panel(scene), Panel(scene.original, _found_heading(scene, found), short_side=360)
    draw_on(right, found, scene.cfg.MODEL.CLASSES)
    heads = scene.cfg.MODEL.get("ROI_HEADS")
    kept = (
        f" What is left after NMS for each class at IoU {heads.NMS_IOU:g}, at most {heads.DETECTIONS_PER_IMAGE}."
        if heads
        else ""
    )
    caption = f"Detections that score at least {scene.score_threshold:g}, the best on top, in the file's pixels.{kept}"
    used = sorted({*scene.truth["labels"].tolist(), *found["labels"].tolist()})
    return sheet([left, right], [(color_of(k), scene.cfg.MODEL.CLASSES[k - 1]) for k in used], caption)


def mistakes(scene):
    """Ground truth beside detections in the colors of what is wrong with them."""
    found = _detect(scene)
    boxes, truth = (
        box_convert(boxes.double(), "xyxy", "xywh").numpy() for boxes in (found["boxes"], scene.truth["boxes"])
    )
    zeros, labels = torch.zeros(len(truth), dtype=torch.int64).numpy(), scene.truth["labels"].numpy()
    objects = Objects(zeros, labels, truth, zeros > 0)
    ours = Detections(found["labels"].numpy() * 0, found["labels"].numpy(), boxes, found["scores"].double().numpy())
    kinds, _, missed = kinds_of_mistakes(objects, ours)
    left = _truth_panel(scene, [MISTAKE_COLORS["missed"] if gone else (230, 230, 230) for gone in missed])
    right = Panel(scene.original, _found_heading(scene, found), short_side=360)
    order = sorted(range(len(kinds)), key=lambda place: (kinds[place] != "right", -place))  # mistakes on top
    classes = scene.cfg.MODEL.CLASSES
    names = [f"{classes[found['labels'][place] - 1]} {found['scores'][place]:.2f}" for place in order]
    right.boxes(found["boxes"][order], [MISTAKE_COLORS[kinds[place]] for place in order], names)
    legend = [
        (MISTAKE_COLORS[kind], f"{kind} ({kinds.count(kind)}): {meaning}")
        for kind, meaning in KINDS.items()
        if kind in kinds
    ]
    legend += [
        (MISTAKE_COLORS["missed"], f"missed ({int(missed.sum())}): objects that no detection finds or nearly finds")
    ]
    caption = (
        f"Detections that score at least {scene.score_threshold:g}, best first, each take the object of their class "
        "that they overlap most, if the IoU is at least 0.5 and no better one has it; others are wrong. A box that "
        "overlaps its object less, but at least 0.1, is a mistake of localization (the kinds are TIDE's, Bolya et al. "
        "2020). A threshold higher or lower trades missed objects for background."
    )
    return sheet([left, right], legend, caption)


def _detect(scene):
    (found,) = scene.model([scene.image])
    found = to_original_size(found, scene.image.shape[-2:], scene.original.shape[-2:])
    keep = found["scores"] >= scene.score_threshold
    return {name: values[keep] for name, values in found.items()}


def _truth_panel(scene, colors=None):
    panel = Panel(scene.original, f"ground truth: {len(scene.truth['labels'])} objects", short_side=360)
    colors = colors_of(scene.truth["labels"]) if colors is None else colors
    panel.boxes(scene.truth["boxes"], colors, object_names(scene, scene.truth))
    return panel


def _found_heading(scene, found):
    return f"{len(found['scores'])} detections, score at least {scene.score_threshold:g}"


def _size(image):
    return "{} x {} (height x width)".format(*image.shape[-2:])


VIEWS = {  # name: (function, usual split, whether weights are needed)
    "inputs": (inputs, "train", False),
    "anchors": (stages.anchors, "train", False),
    "matches": (stages.matches, "train", False),
    "proposals": (stages.proposals, "test", True),
    "detections": (detections, "test", True),
    "mistakes": (mistakes, "test", True),
}
