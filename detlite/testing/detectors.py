"""Check RoI heads and whole detectors, in training and when they detect."""

import torch

from detlite.contracts import check_detections, check_losses
from detlite.modeling.precision import allowing_tf32
from detlite.registry import META_ARCHITECTURES, ROI_HEADS
from detlite.testing.contract import IMAGE_SIZE, Case, ContractError, boxes_near_objects, objects
from detlite.testing.networks import SEED, device_of, features_of_levels, parameters_of, set_mode

SIZES = [IMAGE_SIZE, (80, 64)]  # (height, width) of the two images of a batch


@allowing_tf32(False)
def check_roi_heads(heads: object, channels: list[int], strides: list[int], num_classes: int) -> None:
    """Raise a ContractError unless a part keeps the contract of ``ROI_HEADS``.

    They are built with ``channels`` and ``strides``, one number per feature level, and ``num_classes``, K.
    """
    device = device_of(heads)
    features = features_of_levels(channels, strides, device)
    _, (some, empty) = detection_batch(num_classes, device)
    boxes = boxes_near_objects(device, count=300)

    # Each image may lack objects, proposals or both.
    for clause, proposals, targets in (
        ("objects in the first of two images", [boxes, boxes[:5]], [some, empty]),
        ("no objects", [boxes, boxes[:5]], [empty, empty]),
        ("no proposals", [boxes[:0], boxes[:0]], [some, empty]),
        ("no proposals and no objects", [boxes[:0], boxes[:0]], [empty, empty]),
    ):
        given = {"features": features, "proposals": proposals, "image_sizes": SIZES, "targets": targets}
        _check_training(Case(ROI_HEADS, heads, clause, **given))

    # Without targets the heads detect.
    set_mode(heads, training=False)
    for clause, proposals in (("detecting", [boxes, boxes[:1]]), ("detecting without proposals", [boxes[:0]] * 2)):
        case = Case(ROI_HEADS, heads, clause, features=features, proposals=proposals, image_sizes=SIZES)
        case.context = channels, strides, num_classes
        with torch.no_grad():
            _, losses = case.checked()
        case.require(losses == {}, "no losses without targets", losses)


def _check_training(case):
    """Check RoI heads' losses, their gradients, and where random draws come from."""
    heads = case.part
    for level in case.given["features"]:
        level.grad = None

    def run(*given):
        return heads(*given, [torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)])

    set_mode(heads, training=True)
    detections, losses = case.checked(function=run, seed=SEED)
    case.require(not len(detections), "no detections in training", detections)
    if len(case.given["proposals"][0]) and len(case.given["targets"][0]["boxes"]):
        named = [*parameters_of(heads), ("features 0", case.given["features"][0])]
        case.gradients(sum(losses.values()), named)
    else:
        sum(losses.values()).backward()  # must not fail, as such images may come in a training

    # Without dropout, only the sampler draws.
    set_mode(heads, training=False)
    losses = case.run(run)
    torch.rand(1)
    case.repeats(losses, case.run(run), "draws from the given generators only, not from torch's global one")


@allowing_tf32(False)
def check_meta_architecture(model: object, num_classes: int) -> None:
    """Raise a ContractError unless a part keeps ``META_ARCHITECTURES``' contract.

    It is built with ``num_classes``, K.
    """
    # In training the losses are scalars, also for images without objects.
    images, targets = detection_batch(num_classes, device_of(model))
    for clause, given in (("objects in the first of two images", targets), ("no objects", [targets[1]] * 2)):
        case = Case(META_ARCHITECTURES, model, clause, images=images, targets=given)
        set_mode(model, training=True)
        losses = case.checked(seed=SEED)
        with case.watch():
            sum(losses.values()).backward()
    check_gradients(model, num_classes)

    # Detections are the same for uint8 and float images.
    set_mode(model, training=False)
    with torch.no_grad():
        case = Case(META_ARCHITECTURES, model, "two images of different sizes", images=images)
        case.context = (num_classes,)
        detections = case.checked()
        case = Case(META_ARCHITECTURES, model, "uint8 images converted to float in 0 ... 1", images=images)
        from_float = case.run(lambda images: model([image.float() / 255 for image in images]))
        for ours, theirs in zip(detections, from_float, strict=True):
            case.close(ours["scores"], theirs["scores"], "the same scores")
        check_detections(Case(META_ARCHITECTURES, model, "one image"), model(images[:1]), SIZES[:1], num_classes)
        case = Case(META_ARCHITECTURES, model, "no images", images=[])
        case.require(case.run() == [], "[]", "something else")


def check_gradients(model, num_classes, batches=4):
    """Raise a ContractError unless training gives each unfrozen parameter a gradient.

    One of several batches must do so. In a single one a cascade's last stage may have no positive region, or the signs
    of L1 may cancel.
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
    """Return two uint8 images, and targets with three objects in the first one."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for size in SIZES:
        images.append(torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator).to(device))
    labels = torch.arange(3, device=device) % num_classes + 1
    first = {"boxes": objects(device), "labels": labels, "seed": 2 * seed + 1}
    return images, [first, {"boxes": objects(device)[:0], "labels": labels[:0], "seed": 2 * seed + 2}]
