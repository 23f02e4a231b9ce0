"""Random ground truth and detections on it, near and far, of the right class and others."""

import numpy as np
import pytest


@pytest.fixture
def random_results(make_truth):
    """Return a function: seed -> a data set as evaluators see it, and COCO results; with ties and crowds."""

    def make(seed):
        draw = np.random.default_rng(seed)

        def box():
            return [*draw.uniform(0, 200, 2), *draw.uniform(8, 150, 2)]

        objects = [(int(draw.integers(8)), int(draw.integers(1, 4)), box(), draw.random() < 0.1) for _ in range(40)]
        truth = make_truth(objects, classes=("cat", "dog", "cow", "none"), category_ids=(3, 5, 7, 11), images=8)
        results = [
            {
                "image_id": image,
                "category_id": int(draw.choice([3, 5, 7], p=np.where(np.arange(1, 4) == label, 0.7, 0.15))),
                "bbox": [number * draw.uniform(0.8, 1.2) for number in bbox],
                "score": round(float(draw.random()), 2),
            }
            for image, label, bbox, _ in objects * 3
        ]
        results += [
            {"image_id": int(draw.integers(8)), "category_id": 3, "bbox": box(), "score": float(draw.random())}
            for _ in range(20)
        ]
        return truth, results

    return make
