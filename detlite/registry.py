"""Every slot of the detector: the registry of the parts that fit it, and what they are handed, called with and return.

Shape shorthand: N images, M objects, R boxes, S sampled boxes, P positive boxes, A anchors per cell, K classes,
C channels or columns. Boxes are float32 (x1, y1, x2, y2) in absolute pixels, no "+1" anywhere; sizes are
(height, width). Labels: 0 is background, 1 ... K the classes.
"""

from detlite.parts import Registry

BACKBONES = Registry(
    "BACKBONE",
    """Built with nothing. ``(images (N, 3, H, W)) -> {name: (N, C, H / stride, W / stride)}``, coarsest level last.
    Attributes ``channels`` and ``strides``, each a dict by level name in the same order.""",
    channels=...,
    strides=...,
)
ANCHOR_GENERATORS = Registry(
    "ANCHOR_GENERATOR",
    """Built with ``strides``, one a level. ``(feature_sizes [(h, w)], device) -> [(h * w * A, 4)]``, one tensor a
    level, row by row of the feature map, a cell's A anchors together. Attribute ``num_anchors``: A of each level, a
    list.""",
    num_anchors=...,
)
RPN_HEADS = Registry(
    "RPN_HEAD",
    """Built with ``in_channels, num_anchors`` (one A for all levels). ``(features [(N, C, h, w)]) -> (logits,
    deltas)``: two lists over levels of (N, h * w * A, 1 or 2) and (N, h * w * A, 4), in the anchors' order. With 2
    columns, column 1 is "object".""",
)
MATCHERS = Registry(
    "MATCHER",
    """Built with nothing. ``(boxes (R, 4), gt_boxes (M, 4)) -> (matches (R,) int64, labels (R,) int64)``: the index of
    each box's object (0 where M = 0), and 1 positive, 0 negative, -1 ignored. May take a third parameter,
    ``boxes_per_level``, a list of ints that sum to R; RoI heads give their proposals as one level.""",
)
SAMPLERS = Registry(
    "SAMPLER",
    """Built with nothing. ``(labels (R,), generator) -> (positive, negative)``: int64 indices into ``labels``, from
    those that are 1 and those that are 0. ``generator`` is a CPU torch.Generator, or None for torch's own. May take
    a third parameter, ``losses``, a function that gives the detached loss of each box (R,); RoI heads then run all
    proposals, without gradient.""",
)
BOX_CODERS = Registry(
    "BOX_CODER",
    """Built with nothing. ``encode(boxes (R, 4), gt_boxes (R, 4)) -> deltas (R, 4)`` and its inverse ``decode(boxes
    (R, 4), deltas (R, 4)) -> (R, 4)``: finite and with x1 <= x2, y1 <= y2, whatever the deltas.""",
)
BOX_LOSSES = Registry(
    "BOX_LOSS",
    """Built with nothing. ``(predicted (P, 4), target (P, 4)) -> (P,)``, summed over the four numbers, not over boxes.
    Attribute ``space``: "deltas" if it compares coded boxes, "boxes" if it compares boxes in pixels.""",
    space=("deltas", "boxes"),
)
CLASS_LOSSES = Registry(
    "CLASS_LOSS",
    """Built with nothing. ``(logits (R, C), labels (R,) int64) -> (R,)``. C = 1 is binary: labels are then 0 and 1.
    Divided by the number of sampled boxes, or, with the attribute ``normalize_by = "positive"``, of positive ones.""",
    normalize_by=("sampled", "positive", None),
)
ROI_POOLERS = Registry(
    "ROI_POOLER",
    """Built with ``strides``, one a level. ``(features [(N, C, h, w)], boxes [(R_i, 4)]) -> (S, C, P, P)``, images'
    boxes one after the other. Attribute ``resolution``: P. In an exported graph the boxes are one tensor (S, 5), each
    with its image's index before it, as ``torchvision.ops.roi_align`` takes them.""",
    resolution=...,
)
BOX_HEADS = Registry(
    "BOX_HEAD",
    """Built with ``in_channels, resolution``. ``(pooled (S, C, P, P)) -> (S, D)``. Attribute ``out_features``: D.""",
    out_features=...,
)
ROI_HEADS = Registry(
    "ROI_HEADS",
    """Built with ``channels, strides`` (lists over levels) and ``num_classes`` (K). ``(features [(N, C, h, w)],
    proposals [(R_i, 4)], image_sizes [(h, w)], targets or None, generators) -> (detections, losses)``: in training
    no detections and a dict of losses, otherwise torchvision's dicts of "boxes", "scores", "labels" and no losses.""",
)
META_ARCHITECTURES = Registry(
    "META_ARCHITECTURE",
    """Built with ``num_classes``. torchvision's face: ``(images [(3, H, W)], targets [dict] or None)`` gives a dict of
    losses in training and a list of {"boxes", "scores", "labels"} in evaluation, in the given images' pixels. A module
    in it may have ``statistics``, {name: (sum, count)} of its last training pass, detached; logs show sum / count.""",
)
DATASETS = Registry(
    "DATASET",
    """Built with nothing; one whose first parameter is called ``report`` may be handed a function that is told of
    faults (detlite.data.faults). ``len(dataset)``; ``dataset[i] -> (image (3, H, W) uint8 RGB, target)`` with target
    "boxes" (M, 4), a tv_tensors.BoundingBoxes, "labels" (M,) int64 and "image_id" int; raises an ImageError for an
    image that cannot be used. Attributes ``classes`` (names; label k is ``classes[k - 1]``) and ``sizes`` ((len, 2)
    array of (height, width), known without reading the images). ``coco()`` gives its ground truth as a COCO dict, and
    ``category_ids`` the COCO category id of each class. May have ``image_file(i)``, the path of an image.""",
    classes=...,
    sizes=...,
    category_ids=...,
)
TRANSFORMS = Registry(
    "TRANSFORM",
    """Built with nothing. ``(image, target) -> (image, target)``: a torchvision.transforms.v2 transform or any
    callable like one; boxes are a tv_tensors.BoundingBoxes that torchvision's own transforms move along.""",
)
EVALUATORS = Registry(
    "EVALUATOR",
    """Built with ``dataset``. ``reset()``; ``process(targets, detections)`` for each batch, boxes in the file's
    pixels; ``evaluate() -> {"bbox": {"AP": ...}}``, fractions, None where undefined; ``summary()``: the same as
    text. May have ``predictions()``, ``load(predictions)`` and ``tables()``, as detlite.evaluation.evaluator.Evaluator
    has, and ``needs_proposals``.""",
)
OPTIMIZERS = Registry(
    "OPTIMIZER",
    """Built with ``model``. A torch.optim.Optimizer over its trainable parameters, each once; each group has
    "initial_lr", which the schedule's factor is of.""",
)
LR_SCHEDULERS = Registry(
    "LR_SCHEDULER",
    """Built with ``max_iter``. ``(step) -> factor`` of the optimizer's learning rate at that step, 0 <= step <
    max_iter.""",
)
HOOKS = Registry(
    "HOOK",
    """Built with ``trainer``, before ``trainer.folder``, OUTPUT_DIR, is opened. Any of ``before_train()``,
    ``before_step()``, ``after_step()``, ``after_train()``; ``after_failure(error)``, of a step that was not taken;
    ``record(line)``, a dict that metrics.jsonl gets as a line; ``state_dict()`` and ``load_state_dict(state)``, of
    tensors, numbers, strings, lists and dicts, which checkpoints carry, so that a resumed run goes on exactly.""",
)


def registries():
    """Every slot's registry by the slot's name, in the order of this file."""
    return {registry.slot: registry for registry in globals().values() if isinstance(registry, Registry)}
