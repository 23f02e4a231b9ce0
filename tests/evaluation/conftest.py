"""Fixtures of the evaluators' tests: detections on a ground truth without files."""

import pytest
import torch


@pytest.fixture
def feed():
    """Return a function that passes (image id, label, [x, y, width, height], score) rows to an evaluator."""

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
