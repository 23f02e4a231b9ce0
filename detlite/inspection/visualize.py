"""Pictures of what happens to an image inside a detector, as ``detlite visualize`` writes them.

A view is a function ``(scene) -> PIL image``. The views of the detector's stages are in
:mod:`detlite.inspection.stages`.
"""

import logging
import math

import numpy as np
import torch
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import to_dtype

from detlite.agreement import agree_on_classes, build_trained
from detlite.checkpoint import read_weights
from detlite.data import build_dataset, build_transforms, concatenate
from detlite.data.records import Records
from detlite.drawing import Panel, colors_of, draw_detections, sheet, stack
from detlite.errors import UserError
from detlite.evaluation.evaluator import Detections, Objects
from detlite.evaluation.inference import to_original_size
from detlite.evaluation.mistakes import KINDS, kinds_of_mistakes
from detlite.files import user_path
from detlite.inspection import stages
from detlite.inspection.stages import Scene
from detlite.modeling import build_model
from detlite.writing import claim, write_picture

logger = logging.getLogger("detlite")

FIRST_IMAGES = 4
DRAWS, ROW = 10, 5  # random draws of a training image, and how many of them are in a row


def visualize(cfg, what, *, weights=None, indices=(), split=None, folder="output/visualize", score_threshold=0.5):
    """Write one PNG per image to ``folder`` that shows a view of it, and return the paths.

    Args:
        cfg, what: the config, and one of VIEWS.
        weights: trained weights, as for :func:`detlite.checkpoint.read_weights`; None leaves the detector untrained.
        indices: images of the data set, from 0; none takes the first few.
        split: "train" or "test", for the data set and its transforms; None takes the view's usual one.
        score_threshold: lowest score of the detections shown.
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
    key, nodes = f"DATASETS.{split.upper()}", cfg.DATASETS[split.upper()]
    nodes = nodes if isinstance(nodes, list) else [nodes]
    dataset = concatenate([build_dataset(node) for node in nodes], key)
    cfg = agree_on_classes(cfg, dataset.classes, key)
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
            raise UserError(f"there is no image {index}: {key} has {len(dataset)}, from 0 on")
    paths = [user_path(folder) / f"{what}-{split}-{index}.png" for index in indices]
    claim(*paths)

    # Draw one image at a time, transformed as in the first epoch of a training.
    records = Records(dataset, transforms, cfg.SEED, bad_image="error", replace=False)
    for index, path in zip(indices, paths, strict=True):
        draws = []
        for epoch in range(DRAWS if what == "inputs" and split == "train" else 1):
            record = records[epoch, index]
            if isinstance(record, UserError):
                raise record
            draws.append(record[0])
        scene = Scene(cfg, model, weights is not None, split, *dataset[index], *draws[0], score_threshold, draws)
        with torch.inference_mode():
            write_picture(view(scene), path)
        logger.info("picture: %s", path)
    return paths


def inputs(scene):
    """Draw the image as in its file and as the network receives it, and a training image in ten epochs."""
    model, split = scene.model, scene.split.upper()
    file = Panel(scene.original, f"the file's image, {_size(scene.original)}", short_side=360)
    file.boxes(scene.truth["boxes"], colors_of(scene.truth["labels"]), scene.names_of(scene.truth))

    # The normalized and padded image, turned back into RGB.
    batch = model.preprocess([scene.image])[0].cpu()
    pixels = batch * model.pixel_std.cpu() + model.pixel_mean.cpu()
    if model.channel_order == "BGR":
        pixels = pixels.flip(0)
    pixels = pixels.round().clamp(0, 255).byte()
    given = Panel(pixels, f"the network's input, {_size(pixels)}", short_side=360)
    given.boxes(scene.target["boxes"], colors_of(scene.target["labels"]), scene.names_of(scene.target))

    names = ", ".join(node["NAME"] for node in scene.cfg.TRANSFORMS[split]) or "none"
    caption = (
        f"TRANSFORMS.{split} ({names}) give an image of {_size(scene.image)}. The model pads it to multiples of "
        f"{model.padding_multiple}, with the color of the mean."
    )
    pictures = [sheet([file, given], [], caption)]

    # Random transforms give another image in each epoch.
    panels = []
    for epoch, (image, target) in enumerate(scene.draws, start=1):
        panel = Panel(to_dtype(image, torch.uint8, scale=True), f"epoch {epoch}, {_size(image)}", short_side=150)
        panel.boxes(target["boxes"], colors_of(target["labels"]))
        panels.append(panel)
    if len(panels) > 1:
        pictures += [sheet(panels[start : start + ROW]) for start in range(0, len(panels), ROW)]
    return stack(pictures)


def detections(scene, name_mistakes=False):
    """Draw ground truth next to detections, in the file's pixels; if asked, with the kinds of mistakes as names."""
    (found,) = scene.model([scene.image])
    found = to_original_size(found, scene.image_size, scene.original.shape[-2:])
    truth, classes, threshold = scene.truth, scene.cfg.MODEL.CLASSES, scene.score_threshold
    if name_mistakes:
        found = {name: values[found["scores"] >= threshold] for name, values in found.items()}
        truth, found, classes = _name_mistakes(truth, found, classes)
    return draw_detections(scene.original, truth, found, classes, threshold)


def _name_mistakes(truth, found, classes):
    """Return the three with a class per kind of mistake of each class, such as "cat, duplicate"."""
    # The arrays of one image, number 0. A region to ignore is one of each class.
    regions = truth.get("ignored", torch.zeros(0, 4)).repeat_interleave(len(classes), dim=0)
    true_labels = torch.cat([truth["labels"], torch.arange(len(regions)) % len(classes) + 1]).numpy()
    true_boxes = box_convert(torch.cat([truth["boxes"], regions]).double(), "xyxy", "xywh").numpy()
    labels, boxes = found["labels"].numpy(), box_convert(found["boxes"].double(), "xyxy", "xywh").numpy()
    objects = Objects(0 * true_labels, true_labels, true_boxes, np.arange(len(true_labels)) >= len(truth["labels"]))
    kinds, _, missed = kinds_of_mistakes(objects, Detections(0 * labels, labels, boxes, found["scores"].numpy()))

    names = [*KINDS, "missed", "found"]
    true_kinds = np.where(missed[: len(truth["labels"])], names.index("missed"), names.index("found"))
    kinds = np.array([names.index(kind) for kind in kinds], int)
    truth = truth | {"labels": truth["labels"] + torch.from_numpy(true_kinds) * len(classes)}
    found = found | {"labels": found["labels"] + torch.from_numpy(kinds) * len(classes)}
    return truth, found, [f"{name}, {kind}" for kind in names for name in classes]


def _size(image):
    return "{} x {} (height x width)".format(*image.shape[-2:])


VIEWS = {  # name: (function, usual split, whether weights are needed)
    "inputs": (inputs, "train", False),
    "anchors": (stages.anchors, "train", False),
    "matches": (stages.matches, "train", False),
    "proposals": (stages.proposals, "test", True),
    "detections": (detections, "test", True),
    "mistakes": (lambda scene: detections(scene, name_mistakes=True), "test", True),
}
