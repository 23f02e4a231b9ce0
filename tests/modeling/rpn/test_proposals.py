import pytest
import torch

from detlite.modeling.nms import GreedyNMS
from detlite.modeling.rpn.proposals import select_proposals

LIMITS = {"min_size": 0.0, "pre_nms_top_n": 1000, "nms": GreedyNMS(iou=0.7), "post_nms_top_n": 1000}


def select(boxes, scores, image_size=(100, 200), **limits):
    return select_proposals([boxes[None]], [scores[None]], [image_size], **(LIMITS | limits))[0]


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 80], dim=1)


def greedy_nms(boxes, threshold):
    """Indices that survive, one box after the other, in plain Python."""
    kept = []
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        for other in kept:
            a1, b1, a2, b2 = boxes[other]
            overlap = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - overlap
            if union > 0 and overlap / union > threshold:
                break
        else:
            kept.append(index)
    return kept


def test_proposals_are_clipped_then_the_small_dropped_then_sorted_then_the_best_kept():
    boxes = torch.tensor(
        [[150.0, 0, 250, 50], [-50, -50, 10, 10], [190, 0, 300, 50], [0, 60, 60, 90], [20, 60, 100, 90], [0, 0, 16, 16]]
    )
    scores = torch.tensor([0.1, 0.9, 0.8, 0.3, 0.2, 0.15])
    kept, kept_scores = select(boxes, scores, min_size=16, pre_nms_top_n=3)
    # After clipping the second and third are 10 wide. Of the other boxes, the first has the fourth score.
    assert kept.tolist() == [[0, 60, 60, 90], [20, 60, 100, 90], [0, 0, 16, 16]]
    torch.testing.assert_close(kept_scores, torch.tensor([0.3, 0.2, 0.15]))


def test_the_whole_selection_agrees_with_plain_python():
    generator = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(300, generator) * 1.3 - 15, torch.rand(300, generator=generator)
    kept, _ = select(
        boxes, scores, (100, 120), min_size=20, pre_nms_top_n=120, nms=GreedyNMS(iou=0.4), post_nms_top_n=25
    )
    clipped = [[min(max(x, 0), limit) for x, limit in zip(box, (120, 100) * 2, strict=True)] for box in boxes.tolist()]
    large = [i for i, (x1, y1, x2, y2) in enumerate(clipped) if x2 - x1 >= 20 and y2 - y1 >= 20]
    candidates = [clipped[i] for i in sorted(large, key=lambda i: -scores[i])[:120]]
    expected = [candidates[i] for i in greedy_nms(candidates, 0.4)[:25]]
    torch.testing.assert_close(kept, torch.tensor(expected))


def test_equal_scores_keep_the_anchors_order():
    boxes = torch.tensor([[float(x), 0, x + 5, 5] for x in range(0, 100, 10)])
    assert select(boxes, torch.zeros(10))[0].equal(boxes)


def test_levels_are_suppressed_apart_and_ranked_together():
    box, far = [0.0, 0, 50, 50], [100.0, 0, 150, 50]
    boxes, scores = (
        [torch.tensor([[box, box]]), torch.tensor([[box, far]])],
        [torch.tensor([[0.9, 0.5]]), torch.tensor([[0.6, 0.95]])],
    )
    ((kept, kept_scores),) = select_proposals(boxes, scores, [(100, 200)], **LIMITS)
    assert kept.tolist() == [far, box, box]
    torch.testing.assert_close(kept_scores, torch.tensor([0.95, 0.9, 0.6]))
    assert len(select_proposals(boxes, scores, [(100, 200)], **(LIMITS | {"post_nms_top_n": 2}))[0][0]) == 2
    assert len(select_proposals(boxes, scores, [(100, 200)], **(LIMITS | {"pre_nms_top_n": 1}))[0][0]) == 2


@pytest.mark.parametrize("levels", [1, 2])
def test_no_boxes_and_none_large_enough_give_no_proposals(levels):
    for boxes in (torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])):
        scores = torch.zeros(len(boxes))
        ((kept, kept_scores),) = select_proposals(
            [boxes[None]] * levels, [scores[None]] * levels, [(100, 200)], **(LIMITS | {"min_size": 16.0})
        )
        assert kept.shape == (0, 4) and kept_scores.shape == (0,)


def test_one_box_is_one_proposal():
    kept, _ = select(torch.tensor([[10.0, 20, 300, 400]]), torch.tensor([-3.0]))
    assert kept.tolist() == [[10, 20, 200, 100]]


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]]), torch.tensor([0.9, 0.8])
    assert len(select(boxes, scores, nms=GreedyNMS(iou=0.5))[0]) == 2
    assert len(select(boxes, scores, nms=GreedyNMS(iou=0.49))[0]) == 1


@pytest.mark.parametrize("levels", [1, 2])
def test_a_box_whose_score_is_not_a_number_is_no_proposal(levels):
    boxes = torch.tensor([[[0.0, 0, 30, 30], [40, 0, 70, 30], [0, 40, 30, 70]]])
    scores = torch.tensor([[torch.nan, 1.0, 2.0]])
    ((kept, kept_scores),) = select_proposals([boxes] * levels, [scores] * levels, [(100, 200)], **LIMITS)
    assert kept_scores.tolist() == [2.0] * levels + [1.0] * levels
    assert kept.tolist() == [boxes[0, 2].tolist()] * levels + [boxes[0, 1].tolist()] * levels
