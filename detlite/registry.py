"""Every slot of the detector: the registry of its parts, and their contract.

"Built with" lists a part's positional arguments; its keyword-only arguments are its config keys.

Shape shorthand: N images, M objects, R boxes, S sampled boxes, P positive boxes, A anchors per cell, K classes,
C channels or columns. Boxes are float32 (x1, y1, x2, y2) in absolute pixels, no "+1" anywhere; sizes are
(height, width). Labels: 0 is background, 1 ... K are the classes.
"""

from detlite.parts import Registry

BACKBONES = Registry(
    "BACKBONE",
    """Built with no arguments. ``(images (N, 3, H, W)) -> {level: (N, C, H / stride, W / stride)}``, coarsest level
    last. Attributes ``channels`` and ``strides``: dicts by level name, in the same order.""",
    channels=...,
    strides=...,
)
ANCHOR_GENERATORS = Registry(
    "ANCHOR_GENERATOR",
    """Built with ``strides``, one per level. ``(feature_sizes [(h, w)], device) -> [(h * w * A, 4)]``: one tensor per
    level, row by row, the A anchors of a cell together. Attribute ``num_anchors``: a list with the A of each level.""",
    num_anchors=...,
)
RPN_HEADS = Registry(
    "RPN_HEAD",
    """Built with ``in_channels, num_anchors`` (the same A for all levels). ``(features [(N, C, h, w)]) -> (logits,
    deltas)``: two lists with one tensor per level, (N, h * w * A, 1 or 2) and (N, h * w * A, 4), in the anchors' order.
    If logits have 2 columns, column 1 is "object".""",
)
MATCHERS = Registry(
    "MATCHER",
    """Built with no arguments. ``(boxes (R, 4), gt_boxes (M, 4)) -> (matches (R,) int64, labels (R,) int64)``.
    ``matches`` are indices of the boxes' objects, 0 if M = 0; ``labels`` are 1 positive, 0 negative, -1 ignored. May
    have a third parameter, ``boxes_per_level``: list of ints that sum to R. RoI heads pass proposals as one level.
    Without it, may have ``match_batch(boxes (N, R, 4), gt_boxes (N, M, 4), is_box (N, R), is_object (N, M)) -> (matches
    (N, R), labels (N, R))``, with the same result for all images at once. GPUs call it instead. Boxes and objects whose
    mask is False are padding: they do not count, and the results of such boxes are not read.""",
)
SAMPLERS = Registry(
    "SAMPLER",
    """Built with no arguments. ``(labels (R,), generator) -> (positive, negative)``: int64 indices into ``labels``, of
    boxes labeled 1 and of boxes labeled 0. ``generator`` is a CPU torch.Generator, or None for torch's default one. May
    have a third parameter, ``losses``: a function that returns the detached loss of each box (R,). RoI heads then run
    all proposals, without gradient. Without it, may have ``sample_batch(labels [(R_i,)], generators) -> [(positive,
    negative)]``, with the same result for all images at once. GPUs call it instead.""",
)
BOX_CODERS = Registry(
    "BOX_CODER",
    """Built with no arguments. ``encode(boxes (R, 4), gt_boxes (R, 4)) -> deltas (R, 4)`` and its inverse
    ``decode(boxes (R, 4), deltas (R, 4)) -> (R, 4)``. For any deltas, it is finite with x1 <= x2 and y1 <= y2.""",
)
BOX_LOSSES = Registry(
    "BOX_LOSS",
    """Built with no arguments. ``(predicted (P, 4), target (P, 4)) -> (P,)``: summed over the four numbers, not over
    boxes. Attribute ``space``: "deltas" for a loss of coded boxes, "boxes" for a loss of boxes in pixels.""",
    space=("deltas", "boxes"),
)
CLASS_LOSSES = Registry(
    "CLASS_LOSS",
    """Built with no arguments. ``(logits (R, C), labels (R,) int64) -> (R,)``. If C = 1, the loss is binary and labels
    are 0 or 1. The sum is divided by the number of sampled boxes, or of positive boxes if the optional attribute
    ``normalize_by`` is "positive" instead of "sampled".""",
    normalize_by=("sampled", "positive", None),
)
NMS = Registry(
    "NMS",
    """Built with no arguments. ``(boxes (R, 4), scores (R,), groups (R,) int64, limit) -> (indices (S,) int64, scores
    (S,))``: at most ``limit`` boxes, best first, and their scores, which may be lower than the given ones. The best box
    comes first, with its given score. ``groups`` are the boxes' classes, or in the RPN their feature levels. Scores are
    probabilities, but logits in the RPN, unless the optional attribute ``needs_probabilities`` is True.""",
    needs_probabilities=(True, False, None),
)
ROI_POOLERS = Registry(
    "ROI_POOLER",
    """Built with ``strides``, one per level. ``(features [(N, C, h, w)], boxes [(R_i, 4)]) -> (S, C, P, P)``: the boxes
    of image 0, then of image 1, and so on. Attribute ``resolution``: P, the cells along a side. In an exported graph,
    boxes are one tensor (S, 5) with the image index in column 0, as in ``torchvision.ops.roi_align``.""",
    resolution=...,
)
BOX_HEADS = Registry(
    "BOX_HEAD",
    """Built with ``in_channels, resolution``. ``(pooled (S, C, P, P)) -> (S, D)``. Attribute ``out_features``: D.""",
    out_features=...,
)
ROI_HEADS = Registry(
    "ROI_HEADS",
    """Built with ``channels, strides`` (lists, one entry per level) and ``num_classes`` (K). ``(features
    [(N, C, h, w)], proposals [(R_i, 4)], image_sizes [(h, w)], targets or None, generators) -> (detections, losses)``.
    With targets: no detections, and a dict of losses. Without: one dict of "boxes", "scores", "labels" per image, as
    from torchvision's detectors, and no losses.""",
)
META_ARCHITECTURES = Registry(
    "META_ARCHITECTURE",
    """Built with ``num_classes``. Called like torchvision's detectors: ``(images [(3, H, W)], targets [dict] or
    None)`` returns a dict of losses in training, and in evaluation a list of {"boxes", "scores", "labels"} in pixels of
    the given images. A module inside may have ``statistics``: {name: (sum, count)} of its last training pass,
    detached; logs show sum / count.""",
)
DATASETS = Registry(
    "DATASET",
    """Built with no arguments; a data set whose first parameter is ``report`` may be passed a function that collects
    faults (detlite.data.faults). ``len(dataset)`` images; ``dataset[i] -> (image (3, H, W) uint8 RGB, target)``, or an
    ImageError if the image cannot be used. The target has "boxes" (M, 4), a tv_tensors.BoundingBoxes; "labels" (M,)
    int64; "image_id", an int; and maybe "ignored" (I, 4), boxes of regions that are neither objects nor background.
    Attributes ``classes`` (names; label k is ``classes[k - 1]``), ``sizes`` ((len, 2) array of (height, width), known
    without reading the images) and ``category_ids`` (the COCO category id of each class).
    ``coco()`` returns the ground truth as a COCO dict. May have ``image_file(i)``: the path of an image.""",
    classes=...,
    sizes=...,
    category_ids=...,
)
IMAGE_SAMPLERS = Registry(
    "IMAGE_SAMPLER",
    """Built with ``labels`` (a sequence of N arrays (M,) int64, the labels of each training image's objects) and
    ``dataset_numbers`` ((N,) int64, the entry of DATASETS.TRAIN that each image is from). ``(generator) -> (N,)
    int64``: the image indices of one epoch, in order; an index may occur several times, or not at all. ``generator`` is
    a numpy.random.Generator, seeded by SEED and epoch, from which all random numbers are drawn.""",
)
TRANSFORMS = Registry(
    "TRANSFORM",
    """Built with no arguments. ``(image, target) -> (image, target)``: a torchvision.transforms.v2 transform, or any
    callable like one. Boxes are a tv_tensors.BoundingBoxes, which torchvision's transforms move with the image.
    Boxes that are left without an area are dropped after the last transform. In test it must not draw random numbers.
    May have ``in_test(image, target)``, which is then called instead.""",
)
EVALUATORS = Registry(
    "EVALUATOR",
    """Built with ``dataset``. ``reset()``; ``process(targets, detections)``, once per batch, with boxes in pixels of
    the image files; ``evaluate() -> {"bbox": {"AP": ...}}``, fractions, or None if undefined; ``summary()``
    returns the same as text. May have ``predictions()``, ``load(predictions)`` and ``tables()``, as
    detlite.evaluation.evaluator.Evaluator has, and ``needs_proposals``.""",
)
OPTIMIZERS = Registry(
    "OPTIMIZER",
    """Built with ``model``. A torch.optim.Optimizer that holds each trainable parameter of the model once. Each group
    has "initial_lr", which the schedule multiplies.""",
)
LR_SCHEDULERS = Registry(
    "LR_SCHEDULER",
    """Built with ``max_iter``. ``(step) -> factor`` of the learning rate at that step, 0 <= step < max_iter.""",
)
HOOKS = Registry(
    "HOOK",
    """Built with ``trainer``, before OUTPUT_DIR (``trainer.folder``) is opened. Has at least one of ``before_train()``,
    ``before_step()``, ``after_step()``, ``after_train()``; ``after_failure(error)``, for a step that failed and changed
    no weights; ``record(line)``, with a dict that becomes one line of metrics.jsonl. May have ``state_dict()`` and
    ``load_state_dict(state)``, which checkpoints store so that a resumed run continues exactly: tensors, numbers,
    strings, lists and dicts.""",
)


def registries() -> dict[str, Registry]:
    """Return the registry of each slot by the slot's name, in the order of this file."""
    return {registry.slot: registry for registry in globals().values() if isinstance(registry, Registry)}
