"""Checks of RoI heads and of whole detectors: what trains has losses and gradients, what detects gives detections."""

import torch

from detlite.registry import META_ARCHITECTURES, ROI_HEADS
from detlite.testing.contract import IMAGE_SIZE, Case, ContractError, boxes_near_objects, noise, objects
from detlite.testing.networks import device_of, parameters_of, run_seeded, set_mode


def check_roi_heads(heads, channels, strides, num_classes):
    """Whether RoI heads keep the contract of ``ROI_HEADS``.

    Args:
        heads: built with these numbers.
        channels: of each feature level.
        strides: of each feature level.
        num_classes: K.

    Raises:
        ContractError: they do not.
    """
    device = device_of(heads)
    sizes = [IMAGE_SIZE, (80, 64)]
    levels = list(zip(channels, strides, strict=True))
    features = [noise(2, c, *(-(-side // s) for side in IMAGE_SIZE), device=device) for c, s in levels]
    labels = torch.arange(3, device=device) % num_classes + 1
    some = {"boxes": objects(device), "labels": labels}
    empty = {"boxes": objects(device)[:0], "labels": labels[:0]}
    boxes = boxes_near_objects(device, count=300)
    for clause, proposals, targets in (
        ("objects in the first of two images", [boxes, boxes[:5]], [some, empty]),
        ("no objects", [boxes, boxes[:5]], [empty, empty]),
        ("no proposals", [boxes[:0], boxes[:0]], [some, empty]),
        ("no proposals and no objects", [boxes[:0], boxes[:0]], [empty, empty]),
    ):
        set_mode(heads, training=True)
        features = [level.detach().requires_grad_() for level in features]
        case = Case(
            ROI_HEADS, heads, clause, features=features, proposals=proposals, image_sizes=sizes, targets=targets
        )

        def run(*given):
            return heads(*given, [torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)])

        detections, losses = result = case.items(run_seeded(case, run), ["detections", "losses"])
        case.require(not len(detections), "no detections in training", detections)
        case.repeats(tuple(result), tuple(run_seeded(case, run)), "the same for the same seeds")
        check_losses(case, losses)
        if proposals[0].numel() and targets[0] is some:
            named = [(f"features {number}", level) for number, level in enumerate(features[:1])]
            case.gradients(sum(losses.values()), [*parameters_of(heads), *named])
        else:
            sum(losses.values()).backward()  # must not fail, as a batch of such images would
        set_mode(heads, training=False)  # without dropout all draws are the sampler's
        losses = case.run(run)
        torch.rand(1)
        case.repeats(losses, case.run(run), "draws from the generators alone, not from torch's own")
    for clause, proposals in (("detecting", [boxes, boxes[:1]]), ("detecting without proposals", [boxes[:0]] * 2)):
        case = Case(ROI_HEADS, heads, clause, features=features, proposals=proposals, image_sizes=sizes)
        with torch.no_grad():
            detections, losses = result = case.items(case.run(), ["detections", "losses"])
            case.repeats(tuple(result), tuple(case.run()))
        case.require(losses == {}, "no losses without targets", losses)
        check_detections(case, detections, sizes, num_classes)


def check_meta_architecture(model, num_classes):
    """Whether a detector keeps the contract of ``META_ARCHITECTURES``.

    Args:
        model: built with this number.
        num_classes: K.

    Raises:
        ContractError: it does not.
    """
    images, targets = detection_batch(num_classes, device_of(model))
    empty = {"boxes": targets[0]["boxes"][:0], "labels": targets[0]["labels"][:0], "seed": 3}
    for clause, given in (("objects in the first of two images", targets), ("no objects", [empty, empty])):
        case = Case(META_ARCHITECTURES, model, clause, images=images, targets=given)
        set_mode(model, training=True)
        losses = run_seeded(case)
        check_losses(case, losses)
        case.repeats(losses, run_seeded(case), "the same for the same seeds")
        with case.watch():
            sum(losses.values()).backward()
    check_gradients(model, num_classes)
    set_mode(model, training=False)
    with torch.no_grad():
        case = Case(META_ARCHITECTURES, model, "two images of different sizes", images=images)
        detections = case.run()
        check_detections(case, detections, [image.shape[-2:] for image in images], num_classes)
        case.repeats(list(detections), list(case.run()))
        case = Case(META_ARCHITECTURES, model, "uint8 images as float ones", images=images)
        as_float = case.run(lambda images: model([image.float() / 255 for image in images]))
        for ours, theirs in zip(detections, as_float, strict=True):
            case.close(ours["scores"], theirs["scores"], "the same scores")
        check_detections(Case(META_ARCHITECTURES, model, "one image"), model(images[:1]), [IMAGE_SIZE], num_classes)
        case = Case(META_ARCHITECTURES, model, "no images", images=[])
        case.require(case.run() == [], "[]", "something else")


def check_gradients(model, num_classes, batches=4):
    """Whether training a detector gives every parameter that is not frozen a gradient, in one of some batches.

    In one batch alone a cascade's last stage may have no positive region, or L1's signs may cancel.

    Raises:
        ContractError: of the last batch.
    """
    set_mode(model, training=True)
    for seed in range(batches):
        images, targets = detection_batch(num_classes, device_of(model), seed)
        case = Case(META_ARCHITECTURES, model, f"training on batch {seed}", images=images, targets=targets)
        losses = model(images, targets)
        check_losses(case, losses)
        try:
            case.gradients(sum(losses.values()), parameters_of(model))  # the batches' gradients add up
            break
        except ContractError:
            if seed == batches - 1:
                raise


def detection_batch(num_classes, device="cpu", seed=0):
    """Two uint8 images of different sizes, and targets with seeds: three objects in the first, none in the second."""
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator).to(device)
        for size in (IMAGE_SIZE, (80, 64))
    ]
    labels = torch.arange(3, device=device) % num_classes + 1
    first = {"boxes": objects(device), "labels": labels, "seed": 2 * seed + 1}
    return images, [first, {"boxes": objects(device)[:0], "labels": labels[:0], "seed": 2 * seed + 2}]


def check_losses(case, losses):
    """A dict of finite scalars, at least one of which has a gradient."""
    case.require(isinstance(losses, dict) and losses, "a dict of losses", losses)
    for name, loss in losses.items():
        case.tensor(name, loss, ())
    case.require(any(loss.requires_grad for loss in losses.values()), "losses with a gradient", losses)


def check_detections(case, detections, image_sizes, num_classes):
    """For each image a dict of boxes inside it, scores, best first, and labels from 1 on."""
    case.items(detections, [f"image {number}" for number in range(len(image_sizes))])
    for number, (detection, (height, width)) in enumerate(zip(detections, image_sizes, strict=True)):
        keys = {"boxes", "scores", "labels"}
        case.require(isinstance(detection, dict) and keys <= set(detection), f"a dict of {sorted(keys)}", detection)
        scores, where = detection["scores"], f"of image {number}"
        count = len(scores)
        case.tensor(f"scores {where}", scores, (count,))
        boxes = case.tensor(f"boxes {where}", detection["boxes"], (count, 4))
        labels = case.tensor(f"labels {where}", detection["labels"], (count,), torch.int64)
        case.require(bool(((scores >= 0) & (scores <= 1)).all()), f"scores {where} from 0 to 1", scores)
        case.require(bool((scores.diff() <= 0).all()), f"{where} the best first", scores)
        case.require(bool(((labels >= 1) & (labels <= num_classes)).all()), f"labels in 1 ... {num_classes}", labels)
        inside = (boxes >= 0).all() and (boxes <= boxes.new_tensor([width, height] * 2)).all()
        case.require(bool(inside), f"boxes inside image {number} of {(height, width)}", boxes)
        case.require(bool((boxes[:, 2:] > boxes[:, :2]).all()), f"boxes {where}: x1 < x2, y1 < y2", boxes)
