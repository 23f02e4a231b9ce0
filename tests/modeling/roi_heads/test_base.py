import torch

from detlite.modeling.nms import GreedyNMS
from detlite.modeling.roi_heads.base import RoIHeadsBase

LIMITS = {"score_threshold": 0.05, "nms": GreedyNMS(iou=0.3), "detections_per_image": 100}


def select(boxes, scores, image_size=(100, 200), **limits):
    heads = RoIHeadsBase(len(scores[0]), **(LIMITS | limits))
    return heads.select(torch.tensor(boxes), torch.tensor(scores), image_size)


def test_a_detection_suppresses_worse_ones_of_its_class_only():
    box, near = [10.0, 10, 50, 50], [12.0, 10, 52, 50]
    detections = select([[box, box], [near, near]], [[0.9, 0.2], [0.8, 0.3]])
    assert detections["boxes"].tolist() == [box, near]
    assert detections["labels"].tolist() == [1, 2]
    torch.testing.assert_close(detections["scores"], torch.tensor([0.9, 0.3]))


def test_scores_must_be_above_the_threshold_and_the_best_are_kept():
    boxes = [[[0.0, 0, 10, 10]], [[20.0, 0, 30, 10]], [[40.0, 0, 50, 10]], [[60.0, 0, 70, 10]]]
    detections = select(boxes, [[0.25], [0.5], [0.75], [0.9]], score_threshold=0.25, detections_per_image=2)
    torch.testing.assert_close(detections["scores"], torch.tensor([0.9, 0.75]))
    assert len(select(boxes, [[0.25], [0.5], [0.75], [0.9]], score_threshold=0.25)["scores"]) == 3


def test_boxes_are_clipped_and_those_without_area_dropped():
    detections = select([[[-10.0, -10, 300, 300]], [[150.0, 120, 160, 130]]], [[0.9], [0.8]])
    assert detections["boxes"].tolist() == [[0, 0, 200, 100]]


def test_nothing_gives_empty_detections_of_the_right_types():
    for boxes, scores in ((torch.zeros(0, 3, 4), torch.zeros(0, 3)), (torch.zeros(2, 3, 4), torch.zeros(2, 3))):
        detections = RoIHeadsBase(3, **LIMITS).select(boxes, scores, (100, 200))
        assert {name: tuple(value.shape) for name, value in detections.items()} == {
            "boxes": (0, 4),
            "scores": (0,),
            "labels": (0,),
            "class_scores": (0, 3),
            "regions": (0,),
        }
        assert detections["labels"].dtype == torch.int64
