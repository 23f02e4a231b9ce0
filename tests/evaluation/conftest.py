"""What the evaluators' tests share: a ground truth without files, and detections on it."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def make_truth():
    """A function: objects (image id, label, [x, y, width, height], ignored) -> a data set as evaluators see it."""

    def make(objects, classes=("cat", "dog", "cow"), category_ids=None, images=3, sizes=None):
        category_ids = list(category_ids or range(1, len(classes) + 1))
        document = {
            "images": [
                {"id": n, "width": w, "height": h, "file_name": f"{n}.jpg"}
                for n, (w, h) in enumerate(sizes or [(640, 480)] * images)
            ],
            "categories": [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)],
            "annotations": [
                {
                    "id": n,
                    "image_id": image,
                    "category_id": category_ids[label - 1],
                    "bbox": bbox,
                    "iscrowd": int(crowd),
                }
                for n, (image, label, bbox, crowd) in enumerate(objects)
            ],
        }
        return SimpleNamespace(classes=list(classes), category_ids=category_ids, coco=lambda: document)

    return make


@pytest.fixture
def feed():
    """A function: hand an evaluator detections (image id, label, [x, y, width, height], score), and give it back."""

    def feed(evaluator, detections, proposals=None):
        for image in {row[0] for row in detections} | set(proposals or ()):
            own = [row[1:] for row in detections if row[0] == image]
            boxes = torch.tensor([box for _, box, _ in own], dtype=torch.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            detected = {
                "boxes": boxes,
                "labels": torch.tensor([label for label, _, _ in own], dtype=torch.int64),
                "scores": torch.tensor([score for _, _, score in own], dtype=torch.float64),
            }
            if proposals and image in proposals:
                detected["proposals"] = torch.tensor(proposals[image], dtype=torch.float32).reshape(-1, 4)
            evaluator.process([{"image_id": image}], [detected])
        return evaluator

    return feed
