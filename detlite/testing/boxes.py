"""Check the parts that work on boxes: from anchor generators to losses."""

import torch

from detlite import contracts
from detlite.modeling.precision import allowing_tf32
from detlite.ops.batches import pad_boxes
from detlite.registry import ANCHOR_GENERATORS, BOX_CODERS, BOX_LOSSES, CLASS_LOSSES, MATCHERS, NMS, SAMPLERS
from detlite.seeding import torch_seeded
from detlite.signature import accepts, batch_method
from detlite.testing.contract import Case, boxes_near_objects, devices, noise, objects


def check_anchor_generator(generator: object, strides: list[int]) -> None:
    """Raise a ContractError unless a part keeps ``ANCHOR_GENERATORS``' contract.

    It is built with ``strides``: pixels between cells, one number per level.
    """
    for device in devices():
        for sizes in ([(3, 5)] * len(strides), [(1, 1)] * len(strides)):
            case = Case(ANCHOR_GENERATORS, generator, "anchors of every cell", feature_sizes=sizes, device=device)
            case.attributes()
            counts = list(generator.num_anchors)
            fit = len(counts) == len(strides) and all(isinstance(count, int) and count > 0 for count in counts)
            case.require(fit, f"num_anchors: a whole number above 0 for each of {len(strides)} levels", counts)
            levels = case.checked()
            for anchors, size, stride in zip(levels, sizes, strides, strict=True):
                _check_anchors(case, anchors, size, stride)


def _check_anchors(case, anchors, size, stride):
    """Check the anchors of one level of (h, w) cells."""
    case.require(not anchors.requires_grad, "anchors without gradient", anchors)
    case.require(bool((anchors[:, 2:] > anchors[:, :2]).all()), "x1 < x2 and y1 < y2", anchors)

    # Anchors of neighboring cells differ by the stride, in y from row to row and in x from column to column.
    cells = anchors.view(*size, -1, 4)
    order = Case(case.registry, case.part, "row by row, a cell's anchors together", **case.given)
    down, right = [0, stride, 0, stride], [stride, 0, stride, 0]  # steps of (x1, y1, x2, y2)
    for dim, direction, step in ((0, "vertical", down), (1, "horizontal", right)):
        moves = cells.diff(dim=dim)
        fits = torch.allclose(moves, moves.new_tensor(step), atol=1e-2)
        order.require(fits, f"{direction} neighbors {stride} px apart", anchors)


def check_matcher(matcher: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``MATCHERS``."""
    for device in devices():
        boxes, gt_boxes = boxes_near_objects(device), objects(device)
        for clause, some_boxes, some_objects in (
            ("many boxes", boxes, gt_boxes),
            ("no objects", boxes, gt_boxes[:0]),
            ("no boxes", boxes[:0], gt_boxes),
            ("no boxes and no objects", boxes[:0], gt_boxes[:0]),
            ("one box, one object", gt_boxes[:1], gt_boxes[:1]),
            ("one box, three objects", gt_boxes[:1], gt_boxes),
            ("boxes that touch no object", boxes + 1000, gt_boxes),
        ):
            given = {"boxes": some_boxes, "gt_boxes": some_objects}
            if accepts(matcher, "boxes_per_level"):  # three levels, one of them empty
                half = len(some_boxes) // 2
                given["boxes_per_level"] = [half, 0, len(some_boxes) - half]
            case = Case(MATCHERS, matcher, clause, **given)
            matches, labels = case.checked()

            # A positive box that is equal to an object has no better match.
            equal = (some_boxes[:, None] == some_objects).all(dim=2) & (labels == 1)[:, None]  # [R, M]
            row, column = equal.nonzero(as_tuple=True)
            fits = bool((matches[row] == column).all())
            case.require(fits, "a positive box matched to an object equal to it", matches)
        if batch_method(matcher, "match_batch") is not None:
            _check_match_batch(matcher, boxes, gt_boxes)


def _check_match_batch(matcher, boxes, gt_boxes):
    """Require bitwise the same results of ``match_batch`` as of each image alone."""
    # Images with three, one and no objects. In the second, every other box is masked; the first of them is equal to
    # the object. In the third, all boxes but one are masked.
    boxes = torch.stack([boxes, boxes.flip(0) + 10, boxes])
    boxes[1, 0] = gt_boxes[0]
    is_box = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    is_box[1, ::2] = False
    is_box[2, 1:] = False
    gt_boxes, is_object = pad_boxes([gt_boxes[:count] for count in (3, 1, 0)])

    for clause, *padded in (
        ("match_batch", boxes, gt_boxes, is_box, is_object),
        ("match_batch: no objects", boxes, gt_boxes[:, :0], is_box, is_object[:, :0]),
        ("match_batch: no boxes", boxes[:, :0], gt_boxes, is_box[:, :0], is_object),
    ):
        given = dict(zip(("boxes", "gt_boxes", "is_box", "is_object"), padded, strict=True))
        case = Case(MATCHERS, matcher, clause, **given)
        matches, labels = case.checked("match_batch")
        for image in range(3):
            mask = given["is_box"][image]
            alone = matcher(given["boxes"][image][mask], given["gt_boxes"][image][given["is_object"][image]])
            together = matches[image][mask], labels[image][mask]
            case.repeats(alone, together, f"image {image} as if it came alone")


def check_sampler(sampler: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``SAMPLERS``."""
    for device in devices():
        mixed = torch.tensor([0, 1, 0, -1, 0, 0, 1, 0, -1, 0], device=device).repeat(80)
        for clause, labels in (
            ("positive, negative and ignored boxes", mixed),
            ("only negative boxes", torch.zeros_like(mixed)),
            ("only positive boxes", torch.ones_like(mixed)),
            ("only ignored boxes", torch.full_like(mixed, -1)),
            ("no boxes", mixed[:0]),
            ("one box", mixed[1:2]),
        ):
            _check_samples(sampler, clause, labels)
        method = batch_method(sampler, "sample_batch")
        if method is not None:
            images = [mixed, mixed[:0], mixed[:5], mixed[3:].clone(), torch.full_like(mixed, -1)]
            _check_sample_batch(sampler, method, images)


def _check_samples(sampler, clause, labels):
    """Check the samples from the labels of one image, and where random draws come from."""
    losses = noise(len(labels), device=labels.device).abs()
    given = {"labels": labels, "generator": None}
    if accepts(sampler, "losses"):
        given["losses"] = lambda: losses.clone()

    # Without a generator, torch's global one is used.
    Case(SAMPLERS, sampler, f"{clause}, without a generator", **given).checked(seed=5)

    # All draws come from the given generator.
    state = torch.get_rng_state()
    case = Case(SAMPLERS, sampler, clause, **given)
    results = []
    for _ in range(2):
        case.given["generator"] = torch.Generator().manual_seed(3)
        results.append(case.run())
        contracts.check_samples(case, results[-1], labels)
    case.repeats(*results, "the same boxes for the same seed")
    unchanged = torch.equal(state, torch.get_rng_state())
    case.require(unchanged, "draws from the given generator only", "draws from torch's global generator")
    if (labels == 1).any() and (labels == 0).any():
        case.require(sum(map(len, results[0])) > 0, "at least one sampled box", results[0])


def _check_sample_batch(sampler, method, labels):
    """Require the same boxes of ``sample_batch`` as of each image alone."""
    alone, generators = [], []
    for seed, image_labels in enumerate(labels):
        alone.append(sampler(image_labels, torch.Generator().manual_seed(seed)))
        generators.append(torch.Generator().manual_seed(seed))
    case = Case(SAMPLERS, sampler, "sample_batch", labels=labels, generators=generators)
    case.repeats(alone, case.run(method), "for each image the boxes that it gets alone")

    # torch's default generator
    with torch_seeded(5):
        alone = [sampler(image_labels, None) for image_labels in labels]
    case = Case(SAMPLERS, sampler, "sample_batch", labels=labels, generators=[None] * len(labels))
    what = "without generators, the same boxes for the same torch.manual_seed"
    case.repeats(alone, case.run(method, seed=5), what)


@allowing_tf32(False)
def check_box_coder(coder: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``BOX_CODERS``."""
    for device in devices():
        gt_boxes, boxes = objects(device).repeat(14, 1), boxes_near_objects(device, count=39)  # both (42, 4)

        # Decoding the encoded objects gives their boxes, but for rounding.
        for clause, count in (("many boxes", 42), ("one box", 1), ("no boxes", 0)):
            case = Case(BOX_CODERS, coder, f"encode: {clause}", boxes=boxes[:count], gt_boxes=gt_boxes[:count])
            deltas = case.checked("encode")
            case = Case(BOX_CODERS, coder, f"decode undoes encode: {clause}", boxes=boxes[:count], deltas=deltas)
            decoded = case.checked("decode")
            case.require(torch.allclose(decoded, gt_boxes[:count], atol=0.05), "the boxes of the objects", decoded)

        # A network may predict any deltas.
        for scale in (1.0, 100.0):
            deltas = (noise(42, 4, device=device) * scale).requires_grad_()
            case = Case(BOX_CODERS, coder, "decode: any deltas", boxes=boxes, deltas=deltas)
            case.gradients(case.checked("decode").sum(), [("deltas", deltas)])


@allowing_tf32(False)
def check_box_loss(loss: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``BOX_LOSSES``."""
    Case(BOX_LOSSES, loss, "its attributes").attributes()
    for device in devices():
        # Boxes may be far apart or degenerate; deltas are any numbers.
        if loss.space == "boxes":
            target = objects(device).repeat(4, 1)
            predicted = target + noise(12, 4, device=device)
            predicted[3:6] += 200  # far away
            predicted[6] = target[6].mean()  # a point
            predicted[7, 3] = predicted[7, 1]  # a line
        else:
            target, predicted = noise(12, 4, device=device), noise(12, 4, device=device, seed=1)
        for clause, count in (("several boxes", 12), ("one box", 1), ("no boxes", 0)):
            some = predicted[:count].clone().requires_grad_()
            case = Case(BOX_LOSSES, loss, clause, predicted=some, target=target[:count])
            values = _check_losses(case, count)
            if count:
                perfect = case.run(lambda predicted, target: loss(target, target))
                case.require(bool((perfect <= values + 1e-5).all()), "the lowest loss for perfect boxes", perfect)


@allowing_tf32(False)
def check_class_loss(loss: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``CLASS_LOSSES``."""
    Case(CLASS_LOSSES, loss, "its attributes").attributes()
    for device in devices():
        for columns in (1, 2, 4):
            classes = max(2, columns)
            for clause, count in (("several boxes", 12), ("one box", 1), ("no boxes", 0)):
                logits = noise(count, columns, device=device).requires_grad_()
                labels = torch.arange(count, device=device) % classes
                case = Case(CLASS_LOSSES, loss, f"{clause}, {columns} columns", logits=logits, labels=labels)
                _check_losses(case, count)

            # One box per class, with logits of 1 in the right column and -1 elsewhere.
            labels = torch.arange(classes, device=device)
            is_true = labels[:, None] if columns == 1 else torch.eye(columns, device=device)
            truth = 2.0 * is_true - 1
            for size in (3.0, 100.0):
                case = Case(CLASS_LOSSES, loss, f"large logits, {columns} columns", logits=truth * size, labels=labels)
                right = case.checked()
                wrong = case.tensor("losses", case.run(lambda logits, labels: loss(-logits, labels)), (classes,))
                case.require(bool((right < wrong).all()), "a lower loss for right logits than for wrong ones", right)


def _check_losses(case, count):
    """Require a loss per box that depends on this box alone, and return the losses."""
    name, predicted = next(iter(case.given.items()))
    losses = case.checked()
    if not count:
        losses.sum().backward()
        return losses
    case.gradients(losses.sum(), [(name, predicted)])

    def one_by_one(predicted, target):
        return torch.cat([case.part(predicted[i : i + 1], target[i : i + 1]) for i in range(count)])

    case.close(losses, case.run(one_by_one), "for each box a loss that does not depend on the others")
    return losses


def check_nms(nms: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``NMS``."""
    Case(NMS, nms, "its attributes").attributes()
    for device in devices():
        near, apart = boxes_near_objects(device), objects(device)
        point = near[:4].clone()
        point[1:3, 2:] = point[1:3, :2]  # two boxes without area
        for clause, boxes in (
            ("many boxes", near),
            ("boxes without area", point),
            ("equal boxes", near[:1].repeat(5, 1)),
            ("one box", near[:1]),
            ("no boxes", near[:0]),
            ("boxes that do not overlap", apart),
        ):
            logits = noise(len(boxes), device=device, seed=1)
            groups = torch.arange(len(boxes), device=device) % 3
            _check_kept(nms, clause, boxes, logits.sigmoid(), groups)
            _check_kept(nms, clause, boxes, logits.sigmoid(), groups[:1].expand(len(boxes)))
            if not getattr(nms, "needs_probabilities", False):
                _check_kept(nms, clause, boxes, logits, groups)


def _check_kept(nms, clause, boxes, scores, groups):
    """Check the boxes that NMS keeps for several limits."""
    whole = None
    for limit in (len(boxes) + 1, 7, 1):
        case = Case(NMS, nms, clause, boxes=boxes, scores=scores, groups=groups, limit=limit)
        _, kept_scores = result = case.checked()
        if len(boxes):
            case.repeats(scores.max(), kept_scores[0], "the best box first, with its score")
        if clause == "boxes that do not overlap":
            case.repeats(scores.sort(descending=True)[0][:limit], kept_scores, "all boxes with their scores")

        # A smaller limit gives the first ones of a larger one.
        whole = whole or tuple(result)
        case.repeats(tuple(part[:limit] for part in whole), tuple(result), "the best of all kept boxes")
