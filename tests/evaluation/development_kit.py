"""Pascal VOC's scoring rule a second time, from the development kit's VOCevaldet.m.

    python tests/evaluation/development_kit.py RUN_FOLDER

compares it with PascalVOCEvaluator on the predictions.json of a run, and prints the largest difference of a class's AP.
"""

import json
import sys
from pathlib import Path

import numpy as np

from detlite.config import load_config
from detlite.data import build_dataset
from detlite.evaluation.pascal_voc import PascalVOCEvaluator


def development_kit(objects, detections, threshold):
    """VOCevaldet.m of one class, line by line: pixels from 1, last pixel inside, and a "+1" in every width."""
    one_based = [(image, (x + 1, y + 1, x + w, y + h), difficult) for image, (x, y, w, h), difficult in objects]
    taken = [False] * len(objects)
    ranking = []
    for image, (x, y, w, h), _ in sorted(detections, key=lambda row: -row[2]):
        bb = (x + 1, y + 1, x + w, y + h)
        most, best = -np.inf, None
        for j, (other, gt, _) in enumerate(one_based):
            bi = (max(bb[0], gt[0]), max(bb[1], gt[1]), min(bb[2], gt[2]), min(bb[3], gt[3]))
            iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
            if other != image or iw <= 0 or ih <= 0:
                continue
            ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - iw * ih
            if iw * ih / ua > most:
                most, best = iw * ih / ua, j
        if most < threshold:
            ranking.append(False)
        elif not one_based[best][2]:
            ranking.append(not taken[best])
            taken[best] = True
    positives = sum(not difficult for _, _, difficult in objects)
    if not positives:
        return None
    found = np.cumsum(ranking)
    recalls, precisions = found / positives, found / np.arange(1, len(found) + 1)
    at_points = 0.0
    for t in range(11):
        there = [p for p, n in zip(precisions, found, strict=True) if 10 * n >= t * positives]
        at_points += max(there, default=0.0) / 11
    mrec, mpre = np.array([0, *recalls, 1]), np.array([0, *precisions, 0])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    steps = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return at_points, float(((mrec[steps] - mrec[steps - 1]) * mpre[steps]).sum())


def largest_difference(dataset, predictions):
    """Return the largest difference of a class's AP, at 11 points or by area, between the kit and detlite."""
    truth, differences = dataset.coco(), [0.0]
    for metric, column in (("11 points", 0), ("area", 1)):
        evaluator = PascalVOCEvaluator(dataset, metric=metric)
        evaluator.load(predictions)
        found = evaluator.evaluate()["voc"]["per_class"]
        for name, number in zip(dataset.classes, dataset.category_ids, strict=True):
            rows = [row for row in truth["annotations"] if row["category_id"] == number]
            objects = [(row["image_id"], row["bbox"], row["iscrowd"]) for row in rows]
            rows = [row for row in predictions if row["category_id"] == number]
            expected = development_kit(objects, [(row["image_id"], row["bbox"], row["score"]) for row in rows], 0.5)
            if expected is None or found[name] is None:
                assert expected is found[name], name
            else:
                differences.append(abs(expected[column] - found[name]))
    return max(differences)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    test_data = build_dataset(load_config(folder / "config.yaml").DATASETS.TEST)
    print(largest_difference(test_data, json.loads((folder / "predictions.json").read_text())))
