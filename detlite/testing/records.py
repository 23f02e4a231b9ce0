"""Checks of the parts around images and results: data sets, transforms and evaluators."""

import json
import pickle

import numpy as np
import torch
from torchvision import tv_tensors

from detlite.registry import DATASETS, EVALUATORS, TRANSFORMS
from detlite.seeding import seeded
from detlite.testing.contract import IMAGE_SIZE, OBJECTS, Case, copied, describe, same


def check_dataset(dataset, count=5):
    """Whether a data set keeps the contract of ``DATASETS``.

    Args:
        dataset: with at least one image.
        count: how many of its images are read.

    Raises:
        ContractError: it does not.
    """
    case = Case(DATASETS, dataset, "what is known without reading images")
    case.attributes()
    length, classes = len(dataset), list(dataset.classes)
    names = all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes) > 0
    case.require(names, "classes: names, at least one, none twice", classes)
    case.require(length > 0, "at least one image", f"{length}")
    case.require(np.shape(dataset.sizes) == (length, 2), f"sizes: ({length}, 2)", f"{np.shape(dataset.sizes)}")
    ids = dataset.category_ids
    case.require(len(set(ids)) == len(ids) == len(classes), f"{len(classes)} category_ids, none twice", ids)
    with case.watch():
        pickle.dumps(dataset)  # as it goes to the loader's workers where these are spawned
        truth = dataset.coco()
        json.dumps(truth)
    image_ids = [image["id"] for image in truth["images"]]
    case.require(len(set(image_ids)) == len(image_ids) == length, f"coco(): {length} images, no id twice", image_ids)
    case.require(
        [row["id"] for row in truth["categories"]] == list(ids), f"coco(): categories {ids}", truth["categories"]
    )
    for index in dict.fromkeys(range(min(count, length))):
        case = Case(DATASETS, dataset, "a record", index=index)
        with seeded(0):
            image, target = record = case.items(case.run(dataset.__getitem__), ["image", "target"])
        height, width = map(int, dataset.sizes[index])
        case.tensor("image", image, (3, height, width), torch.uint8)
        _check_target(case, target, (height, width))
        labels = target["labels"]
        fit = bool(((labels >= 1) & (labels <= len(classes))).all())
        case.require(fit, f"labels in 1 ... {len(classes)}", labels)
        case.require(
            target.get("image_id") == image_ids[index], f"image_id {image_ids[index]}, as coco() has it", target
        )
        with seeded(0):
            again = case.run(dataset.__getitem__)
        case.repeats(copied(tuple(record)), tuple(again))
        rows = [row for row in truth["annotations"] if row["image_id"] == image_ids[index]]
        counted = sum(not row.get("iscrowd", 0) for row in rows)
        case.require(
            len(labels) <= len(rows), f"at most coco()'s {len(rows)} annotations ({counted} not crowd)", labels
        )


def check_transform(transform):
    """Whether a transform keeps the contract of ``TRANSFORMS``: boxes stay on what they were on.

    It is tried with several seeds, as most transforms are random.

    Raises:
        ContractError: it does not.
    """
    box = torch.tensor(OBJECTS[0])
    for seed in range(8):
        for clause, boxes in (("one object", box[None]), ("no objects", box[None][:0])):
            image = torch.zeros(3, *IMAGE_SIZE, dtype=torch.uint8)
            x1, y1, x2, y2 = map(int, box)
            image[:, y1:y2, x1:x2] = 255
            target = {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=IMAGE_SIZE),
                "labels": torch.ones(len(boxes), dtype=torch.int64),
                "image_id": 7,
            }
            case = Case(TRANSFORMS, transform, clause, image=tv_tensors.Image(image), target=target)

            def run(case=case, seed=seed):
                with seeded(seed):
                    return case.items(case.run(), ["image", "target"])

            changed, target = result = run()
            shape = tuple(changed.shape) if isinstance(changed, torch.Tensor) else ()
            case.require(len(shape) == 3 and shape[0] == 3, "image (3, H, W)", changed)
            case.tensor("image", changed, shape, changed.dtype)
            _check_target(case, target, shape[1:])
            case.require(target.get("image_id") == 7, "image_id as it was", target)
            case.repeats(tuple(result), tuple(run()), "the same for the same seeds of random, numpy and torch")
            bright = (changed[0].float() > changed.float().mean()).float()  # where the object is
            if len(target["boxes"]) and bright.any() and bright.mean() < 0.5:
                x1, y1, x2, y2 = target["boxes"][0].round().int().tolist()
                share = float(bright[y1:y2, x1:x2].sum() / bright.sum())
                case.require(share > 0.5, "the box on the object that it was on", f"{share:.0%} of the object in it")


def _check_target(case, target, image_size):
    case.require(isinstance(target, dict) and {"boxes", "labels"} <= set(target), "target: boxes and labels", target)
    boxes, labels = target["boxes"], target["labels"]
    case.tensor("labels", labels, (len(labels),), torch.int64)
    case.tensor("boxes", boxes, (len(labels), 4))
    case.require(isinstance(boxes, tv_tensors.BoundingBoxes), "boxes: tv_tensors.BoundingBoxes", type(boxes).__name__)
    canvas = f"boxes with canvas_size {tuple(image_size)}, the image's (height, width)"
    case.require(tuple(boxes.canvas_size) == tuple(image_size), canvas, f"{tuple(boxes.canvas_size)}")
    plain, (height, width) = boxes.as_subclass(torch.Tensor), image_size
    inside = (plain >= 0).all() and (plain <= plain.new_tensor([width, height] * 2) + 1e-3).all()
    case.require(bool(inside), f"boxes inside the image of {tuple(image_size)}", plain)
    case.require(bool((plain[:, 2:] > plain[:, :2]).all()), "boxes: x1 < x2, y1 < y2", plain)


class TwoImages:
    """A data set of two images, with two objects and one, for evaluators; it holds no pixels."""

    classes = ["cat", "dog"]
    category_ids = [3, 8]
    sizes = np.array([IMAGE_SIZE, IMAGE_SIZE])
    objects = [(5, 0, 1), (5, 1, 2), (9, 2, 1)]  # image id, place in OBJECTS, label

    def __len__(self):
        return 2

    def coco(self):
        """The ground truth as a COCO dict."""
        boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in OBJECTS]
        return {
            "images": [{"id": n, "height": 96, "width": 128, "file_name": f"{n}.png"} for n in (5, 9)],
            "categories": [{"id": n, "name": name} for n, name in zip(self.category_ids, self.classes, strict=True)],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": self.category_ids[label - 1],
                    "bbox": boxes[place],
                    "area": boxes[place][2] * boxes[place][3],
                    "iscrowd": 0,
                }
                for number, (image, place, label) in enumerate(self.objects, start=1)
            ],
        }

    def perfect(self):
        """Targets, and detections that are the objects themselves."""
        targets = [{"image_id": image} for image in (5, 9)]
        return targets, [self._detections([row for row in self.objects if row[0] == image]) for image in (5, 9)]

    def _detections(self, rows):
        return {
            "boxes": torch.tensor([OBJECTS[place] for _, place, _ in rows]),
            "scores": torch.full((len(rows),), 0.9),
            "labels": torch.tensor([label for *_, label in rows]),
        }


def check_evaluator(build):
    """Whether an evaluator keeps the contract of ``EVALUATORS``.

    Args:
        build: its class, or anything else that builds one from a data set: ``check_evaluator(MyEvaluator)``.

    Raises:
        ContractError: it does not.
    """
    dataset = TwoImages()
    targets, detections = dataset.perfect()
    empty = [{key: value[:0] for key, value in detection.items()} for detection in detections]
    evaluator = build(dataset)

    def results_of(clause, evaluator, images, given):
        case = Case(EVALUATORS, evaluator, clause, targets=images, detections=given)
        with case.watch():
            evaluator.reset()
        case.run(evaluator.process)
        results = _results(case, evaluator)
        with case.watch():
            text = evaluator.summary()
        case.require(isinstance(text, str) and text, "summary(): text", text)
        case.repeats(results, _results(case, evaluator), "evaluate() the same when called again")
        return case, results

    case, right = results_of("perfect detections", evaluator, targets, detections)
    _, wrong = results_of("no detections", build(dataset), targets, empty)
    case.require(not same(right, wrong), "other numbers than for no detections", right)
    _, one = results_of("one image", build(dataset), targets[:1], detections[:1])
    case, again = results_of("one image, after reset()", evaluator, targets[:1], detections[:1])
    case.repeats(one, again, "nothing left of what was processed before")
    case = Case(EVALUATORS, build(dataset), "nothing processed")
    with case.watch():
        _results(case, case.part)
    evaluator.reset()
    evaluator.process(targets, detections)
    if hasattr(evaluator, "predictions") and hasattr(evaluator, "load"):
        case = Case(EVALUATORS, build(dataset), "predictions saved and loaded", predictions=evaluator.predictions())
        case.run(case.part.load)
        case.repeats(right, _results(case, case.part), "the same numbers")


def _results(case, evaluator):
    with case.watch():
        results = evaluator.evaluate()
        json.dumps(results, allow_nan=False)
    fit = isinstance(results, dict) and all(isinstance(group, dict) for group in results.values())
    case.require(fit and results, 'evaluate(): a dict of dicts, such as {"bbox": {"AP": 0.5}}', describe(results))
    return copied(results)
