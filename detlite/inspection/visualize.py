"""Pictures of what happens to an image inside a detector, as ``detlite visualize`` writes them.

A view is a function ``(scene) -> PIL image``. The views of the detector's stages are in
:mod:`detlite.inspection.stages`.
"""

import logging
import math

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
from detlite.files import user_path
from detlite.inspection import stages
from detlite.inspection.stages import Scene
from detlite.modeling import build_model
from detlite.seeding import derive_seed
from detlite.writing import claim, write_picture

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
FOUND = (230, 230, 230)  # objects that are not missed
FIRST_IMAGES = 4


def visualize(cfg, what, *, weights=None, indices=(), split=None, folder="output/visualize", score_threshold=0.5):
    """Write one PNG per image that shows a view of it.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        what: one of VIEWS.
        weights: trained weights, as for :func:`detlite.checkpoint.read_weights`; None leaves the detector untrained.
        indices: images of the data set, from 0; none takes the first few.
        split: "train" or "test", for the data set and its transforms; None takes the view's usual one.
        folder: for the pictures.
        score_threshold: lowest score of the detections shown.

    Returns:
        the paths of the pictures.

    Raises:
        UserError: a missing image, a view of parts that the detector lacks, or weights that are missing or do not fit.
    """
    view, usual_split, needs_weights = VIEWS[what]
    if needs_weights and weights is None:
        raise UserError(f"{what}: an untrained detector has none to show; give --weights")
    if math.isnan(score_threshold):
        raise UserError("score_threshold must be a number, such as 0.5; got nan")
    split = split or usual_split
    if weights:
        weights = read_weights(weights)

    # Settle the classes between config, data and weights, as a training does.
    if split == "test":
        dataset = build_dataset(cfg.DATASETS.TEST)
    else:
        dataset = build_train_datasets(cfg.DATASETS.TRAIN)
    cfg = agree_on_classes(cfg, dataset.classes, f"DATASETS.{split.upper()}")
    if weights:
        cfg, model = build_trained(cfg, weights)
    else:
        torch.manual_seed(cfg.SEED)
        model = build_model(cfg)
    model.eval()
    transforms = build_transforms(cfg.TRANSFORMS[split.upper()])

    # Check all indices and names before the first picture.
    indices = indices or range(min(FIRST_IMAGES, len(dataset)))
    for index in indices:
        if not 0 <= index < len(dataset):
            raise UserError(f"there is no image {index}: DATASETS.{split.upper()} has {len(dataset)}, from 0 on")
    paths = [user_path(folder) / f"{what}-{split}-{index}.png" for index in indices]
    claim(*paths)

    # Draw one image at a time.
    for index, path in zip(indices, paths, strict=True):
        images = _read(dataset, transforms, index, cfg.SEED if split == "train" else 0)
        scene = Scene(cfg, model, weights is not None, split, *images, score_threshold)
        with torch.inference_mode():
            write_picture(view(scene), path)
        logger.info("picture: %s", path)
    return paths


def _read(dataset, transforms, index, seed):
    """Return an image with its target, and both transformed as in the first epoch of a training."""
    original, truth = dataset[index]
    image_seed = derive_seed(seed, 0, index)
    with seeded(image_seed):
        image, target = transforms(original, truth)
    target = _plain_target(target) | {"seed": image_seed}
    return plain_tensor(original), _plain_target(truth), plain_tensor(image), target


def _plain_target(target):
    return {name: plain_tensor(value) for name, value in target.items()}


def inputs(scene):
    """Draw the image as in its file, and as the network receives it."""
    model, split = scene.model, scene.split.upper()
    file = Panel(scene.original, f"the file's image, {_size(scene.original)}", short_side=360)
    file.boxes(scene.truth["boxes"], colors_of(scene.truth["labels"]), scene.names_of(scene.truth))

    # The normalized and padded image, turned back into RGB.
    batch = model.preprocess([scene.image])[0].cpu()
    pixels = batch * model.pixel_std.cpu() + model.pixel_mean.cpu()
    if model.channel_order == "BGR":
        pixels = pixels.flip(0)
    pixels = pixels.round().clamp(0, 255).byte()
    gt_boxes = scene.target["boxes"]
    given = Panel(pixels, f"the network's input, {_size(pixels)}", short_side=360)
    given.boxes(gt_boxes, colors_of(scene.target["labels"]), scene.names_of(scene.target))

    # The caption explains both panels.
    steps = ", ".join(node["NAME"] for node in scene.cfg.TRANSFORMS[split]) or "none"
    objects = "No objects."
    if len(gt_boxes):
        sides = gt_boxes[:, 2:] - gt_boxes[:, :2]
        objects = f"{len(gt_boxes)} objects, sides from {sides.min():.0f} to {sides.max():.0f} px."
    caption = (
        f"TRANSFORMS.{split} ({steps}) give an image of {_size(scene.image)}. The model pads it on the right and "
        f"below to multiples of its largest stride, {max(model.backbone.strides.values())}. Alone in its batch it "
        f"becomes {_size(pixels)}; a batch takes the size of its largest image. The padding is 0 after normalization, "
        f"the color of the mean.\nThe network sees ({model.channel_order} - {_rounded(model.pixel_mean)}) / "
        f"{_rounded(model.pixel_std)}, turned back into colors here.\n{objects}"
    )
    return sheet([file, given], [], caption)


def detections(scene):
    """Draw ground truth next to detections, in the file's pixels."""
    found = _detect(scene)
    classes = scene.cfg.MODEL.CLASSES
    panel = Panel(scene.original, _found_heading(scene, found), short_side=360)
    draw_on(panel, found, classes)
    caption = f"Detections that score at least {scene.score_threshold:g}, the best on top, in the file's pixels."
    heads = scene.cfg.MODEL.get("ROI_HEADS")
    if heads:
        caption += f" They survived {heads.NMS.NAME}; at most {heads.DETECTIONS_PER_IMAGE} do."
    labels = sorted({*scene.truth["labels"].tolist(), *found["labels"].tolist()})
    legend = [(color_of(label), classes[label - 1]) for label in labels]
    return sheet([_truth_panel(scene, colors_of(scene.truth["labels"])), panel], legend, caption)


def mistakes(scene):
    """Draw ground truth next to detections, which are colored by their mistake."""
    # One image with index 0, and none of its objects is ignored.
    found = _detect(scene)
    scores, labels = found["scores"].double().numpy(), found["labels"].numpy()
    true_labels = scene.truth["labels"].numpy()
    objects = Objects(0 * true_labels, true_labels, _xywh(scene.truth), true_labels < 0)
    kinds, _, missed = kinds_of_mistakes(objects, Detections(0 * labels, labels, _xywh(found), scores))

    # Ground truth, with missed objects in color; detections on the right, mistakes on top.
    colors = [MISTAKE_COLORS["missed"] if is_missed else FOUND for is_missed in missed]
    left = _truth_panel(scene, colors)
    right = Panel(scene.original, _found_heading(scene, found), short_side=360)
    order = sorted(range(len(kinds)), key=lambda index: (kinds[index] != "right", -index))
    colors, names = [], []
    for index in order:
        colors.append(MISTAKE_COLORS[kinds[index]])
        names.append(f"{scene.cfg.MODEL.CLASSES[labels[index] - 1]} {scores[index]:.2f}")
    right.boxes(found["boxes"][order], colors, names)

    legend = []
    for kind, meaning in KINDS.items():
        if kind in kinds:
            legend.append((MISTAKE_COLORS[kind], f"{kind} ({kinds.count(kind)}): {meaning}"))
    missed_text = f"missed ({int(missed.sum())}): objects that no detection matches or nearly matches"
    legend.append((MISTAKE_COLORS["missed"], missed_text))
    caption = (
        f"Detections that score at least {scene.score_threshold:g}, best first, each take the object of their class "
        "that they overlap most, if the IoU is at least 0.5 and no better detection has taken it. All others are "
        "wrong. A box that overlaps its object less, but at least 0.1, is a localization mistake (the kinds are "
        "TIDE's, Bolya et al. 2020). A higher threshold misses more objects, a lower one finds more background."
    )
    return sheet([left, right], legend, caption)


def _xywh(target):
    return box_convert(target["boxes"].double(), "xyxy", "xywh").numpy()


def _detect(scene):
    """Return the image's detections that score enough, in the file's pixels."""
    (found,) = scene.model([scene.image])
    found = to_original_size(found, scene.image_size, scene.original.shape[-2:])
    keep = found["scores"] >= scene.score_threshold
    return {name: values[keep] for name, values in found.items()}


def _truth_panel(scene, colors):
    panel = Panel(scene.original, f"ground truth: {len(scene.truth['labels'])} objects", short_side=360)
    panel.boxes(scene.truth["boxes"], colors, scene.names_of(scene.truth))
    return panel


def _found_heading(scene, found):
    return f"{len(found['scores'])} detections, score at least {scene.score_threshold:g}"


def _size(image):
    return "{} x {} (height x width)".format(*image.shape[-2:])


def _rounded(values):
    return [round(value, 1) for value in values.flatten().tolist()]


VIEWS = {  # name: (function, usual split, whether weights are needed)
    "inputs": (inputs, "train", False),
    "anchors": (stages.anchors, "train", False),
    "matches": (stages.matches, "train", False),
    "proposals": (stages.proposals, "test", True),
    "detections": (detections, "test", True),
    "mistakes": (mistakes, "test", True),
}
