"""Check the parts around a detector: data sets, transforms and evaluators."""

import json
import pickle

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.ops import box_convert

from detlite import contracts
from detlite.data import coco_ground_truth
from detlite.data.transforms import drop_emptied_boxes
from detlite.registry import DATASETS, EVALUATORS, IMAGE_SAMPLERS, TRANSFORMS
from detlite.testing.contract import IMAGE_SIZE, OBJECTS, Case, copied, same


def check_dataset(dataset: object, count: int = 5) -> None:
    """Raise a ContractError unless a data set keeps the contract of ``DATASETS``.

    It needs at least one image. The check reads ``count`` images.
    """
    case = Case(DATASETS, dataset, "facts known without reading images")
    case.attributes()

    # Names, sizes and ids fit each other.
    length, classes, ids = len(dataset), list(dataset.classes), dataset.category_ids
    names = all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes) > 0
    case.require(names, "classes: names, at least one, none twice", classes)
    case.require(length > 0, "at least one image", f"{length}")
    case.require(np.shape(dataset.sizes) == (length, 2), f"sizes: ({length}, 2)", f"{np.shape(dataset.sizes)}")
    case.require(len(set(ids)) == len(ids) == len(classes), f"{len(classes)} category_ids, none twice", ids)

    # The loader's workers may be spawned, which pickles the data set.
    with case.watch():
        pickle.dumps(dataset)
        truth = dataset.coco()
        json.dumps(truth)
    image_ids = [image["id"] for image in truth["images"]]
    case.require(len(set(image_ids)) == len(image_ids) == length, f"coco(): {length} images, no id twice", image_ids)
    categories = [row["id"] for row in truth["categories"]]
    case.require(categories == list(ids), f"coco(): categories {ids}", truth["categories"])
    for index in range(min(count, length)):
        _check_record(dataset, index, truth)


def _check_record(dataset, index, truth):
    """Check one record against the image's size and its entries in ``coco()``."""
    case = Case(DATASETS, dataset, "a record", index=index)
    # Image, boxes and labels have the size, range and id that the data set states.
    image, target = case.checked("__getitem__", seed=0)
    labels = target["labels"]
    _check_boxes(case, target["boxes"], image.shape[1:])
    image_id = truth["images"][index]["id"]
    case.require(target.get("image_id") == image_id, f"image_id {image_id}, as in coco()", target)

    # A record may leave out crowds and other annotations, but has no object that coco() lacks.
    rows = [row for row in truth["annotations"] if row["image_id"] == image_id]
    counted = sum(not row.get("iscrowd", 0) for row in rows)
    case.require(len(labels) <= len(rows), f"at most coco()'s {len(rows)} annotations ({counted} not crowd)", labels)


def check_image_sampler(build: object) -> None:
    """Raise a ContractError unless an image sampler keeps the contract of ``IMAGE_SAMPLERS``.

    ``build`` is its class, or a function that builds one from labels and data-set numbers:
    ``check_image_sampler(MySampler)``.
    """
    images = [np.array(values, np.int64) for values in ([1], [1, 1, 2], [], [3], [1], [1], [2])]
    for clause, labels in (("several images", images), ("one image", images[:1]), ("no objects", [images[2]] * 3)):
        numbers = np.arange(len(labels)) * 2 // len(labels)  # two data sets, if there are several images
        case = Case(IMAGE_SAMPLERS, build, clause, labels=labels, dataset_numbers=numbers)
        with case.watch():
            sampler = build(labels, numbers)
            epoch = sampler(np.random.default_rng(0))
        fits = isinstance(epoch, np.ndarray) and epoch.dtype == np.int64 and epoch.shape == (len(labels),)
        case.require(fits, f"an int64 array ({len(labels)},)", epoch)
        case.require(bool(((epoch >= 0) & (epoch < len(labels))).all()), f"indices below {len(labels)}", str(epoch))

        # A resumed run builds the sampler anew, and asks for its epochs in another order.
        with case.watch():
            sampler(np.random.default_rng(1))
            again = sampler(np.random.default_rng(0)), build(labels, numbers)(np.random.default_rng(0))
        equal = all(np.array_equal(epoch, other) for other in again)
        case.require(equal, "the same epoch for the same generator", f"{epoch} and {again}")


def check_transform(transform: object) -> None:
    """Raise a ContractError unless a transform keeps the contract of ``TRANSFORMS``.

    Boxes must stay on their objects. The transform is tried with several seeds, as most are random.
    """
    box = torch.tensor(OBJECTS[0])
    for seed in range(8):
        for clause, boxes in (("one object", box[None]), ("no objects", box[None][:0])):
            # The object is white, everything else black.
            image = torch.zeros(3, *IMAGE_SIZE, dtype=torch.uint8)
            x1, y1, x2, y2 = map(int, box)
            image[:, y1:y2, x1:x2] = 255
            target = {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=IMAGE_SIZE),
                "labels": torch.ones(len(boxes), dtype=torch.int64),
                "image_id": 7,
            }
            _check_transformed(Case(TRANSFORMS, transform, clause, image=tv_tensors.Image(image), target=target), seed)


def _check_transformed(case, seed):
    image, target = drop_emptied_boxes(*case.checked(seed=seed))
    case.tensor("image", image, image.shape, image.dtype)
    case.require({"boxes", "labels"} <= set(target), "target: boxes and labels", target)
    _check_boxes(case, target["boxes"], image.shape[1:])
    case.require(target.get("image_id") == 7, "image_id unchanged", target)

    # A transform may brighten or invert the image, so only a small bright region is taken for the object.
    bright = (image[0].float() > (image.min() / 2 + image.max() / 2)).float()
    if len(target["boxes"]) and bright.any() and bright.mean() < 0.5:
        x1, y1, x2, y2 = target["boxes"][0].round().int().tolist()
        share = float(bright[y1:y2, x1:x2].sum() / bright.sum())
        case.require(share > 0.5, "the box still on its object", f"{share:.0%} of the object in the box")


def _check_boxes(case, boxes, image_size):
    """Require boxes with an area inside the image of (height, width)."""
    plain, (height, width) = boxes.as_subclass(torch.Tensor), image_size
    inside = (plain >= 0).all() and (plain <= plain.new_tensor([width, height] * 2) + 1e-3).all()
    case.require(bool(inside), f"boxes inside the image of {tuple(image_size)}", plain)
    case.require(bool((plain[:, 2:] > plain[:, :2]).all()), "boxes: x1 < x2, y1 < y2", plain)


class TwoImages:
    """Two images without pixels, with two objects and one, for evaluators."""

    classes = ["cat", "dog"]
    category_ids = [3, 8]
    sizes = np.array([IMAGE_SIZE, IMAGE_SIZE])
    objects = {5: [(0, 1), (1, 2)], 9: [(2, 1)]}  # per image id: (index in OBJECTS, label) of each object

    def __len__(self):
        return 2

    def coco(self):
        """Return the ground truth as a COCO dict."""
        rows, boxes = [], []
        for image_id, objects in self.objects.items():
            rows += [(image_id, label) for _, label in objects]
            boxes += [OBJECTS[index] for index, _ in objects]
        image_ids, labels = np.array(rows).T
        boxes = box_convert(torch.tensor(boxes, dtype=torch.float64), "xyxy", "xywh").numpy()
        names = [f"{image_id}.png" for image_id in self.objects]
        ids = list(self.objects)
        return coco_ground_truth(self.classes, self.category_ids, ids, names, self.sizes, image_ids, boxes, labels)

    def perfect(self):
        """Return targets, and detections that are the objects themselves."""
        targets, detections = [], []
        for image_id, objects in self.objects.items():
            indices, labels = torch.tensor(objects).unbind(dim=1)
            boxes = torch.tensor(OBJECTS)[indices]
            targets.append({"image_id": image_id})
            detections.append({"boxes": boxes, "scores": torch.full((len(boxes),), 0.9), "labels": labels})
        return targets, detections


def check_evaluator(build: object) -> None:
    """Raise a ContractError unless an evaluator keeps the contract of ``EVALUATORS``.

    ``build`` is its class, or a function that builds one from a data set: ``check_evaluator(MyEvaluator)``.
    """
    dataset = TwoImages()
    targets, detections = dataset.perfect()
    empty = []
    for detection in detections:
        empty.append({key: value[:0] for key, value in detection.items()})

    # Results depend on the detections since the last reset() alone.
    evaluator = build(dataset)
    case, right = _evaluate("perfect detections", evaluator, targets, detections)
    _, wrong = _evaluate("no detections", build(dataset), targets, empty)
    case.require(not same(right, wrong), "other numbers than for no detections", right)
    _, one = _evaluate("one image", build(dataset), targets[:1], detections[:1])
    case, again = _evaluate("one image, after reset()", evaluator, targets[:1], detections[:1])
    case.repeats(one, again, "the results of this image alone")
    case = Case(EVALUATORS, build(dataset), "no images")
    with case.watch():
        _results(case)

    # Saved predictions must give the same results.
    evaluator.reset()
    evaluator.process(targets, detections)
    if hasattr(evaluator, "predictions") and hasattr(evaluator, "load"):
        case = Case(EVALUATORS, build(dataset), "predictions saved and loaded", predictions=evaluator.predictions())
        case.run(case.part.load)
        case.repeats(right, _results(case), "the same numbers")


def _evaluate(clause, evaluator, targets, detections):
    """Evaluate detections after a reset, and return the case and the results."""
    case = Case(EVALUATORS, evaluator, clause, targets=targets, detections=detections)
    with case.watch():
        evaluator.reset()
    case.run(evaluator.process)
    results = _results(case)
    with case.watch():
        text = evaluator.summary()
    contracts.check_summary(case, text)
    case.repeats(results, _results(case), "evaluate() the same when called again")
    return case, results


def _results(case):
    with case.watch():
        results = case.part.evaluate()
        json.dumps(results, allow_nan=False)
    contracts.check_results(case, results)
    return copied(results)
