"""Which boxes NMS keeps: greedy against torchvision, soft against the paper's figure 2 in plain Python."""

import math

import pytest
import torch
from torchvision.ops import batched_nms, nms

from detlite.modeling import nms as module
from detlite.modeling.nms import GaussianSoftNMS, GreedyNMS, LinearSoftNMS
from detlite.modeling.rpn.proposals import select_proposals


def random_case(generator, count):
    corners = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 60], dim=1)
    groups = torch.randint(0, 3, (count,), generator=generator)
    return boxes, torch.rand(count, generator=generator), groups


def overlap(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return shared / (sum(areas) - shared)


def soft_nms(boxes, scores, groups, factor, min_score):
    """Bodla et al. 2017, figure 2, in double precision: {index: final score}, best first."""
    boxes, left, kept = boxes.double().tolist(), dict(enumerate(scores.double().tolist())), {}
    while left and max(left.values()) >= min_score:
        best = max(left, key=left.get)
        kept[best] = left.pop(best)
        for other in left:
            if groups[other] == groups[best]:
                left[other] *= factor(overlap(boxes[best], boxes[other]))
    return kept


@pytest.mark.parametrize(
    ("part", "factor"),
    [
        (LinearSoftNMS(iou=0.3, min_score=0.01), lambda iou: 1 - iou if iou >= 0.3 else 1),
        (GaussianSoftNMS(sigma=0.5, min_score=0.01), lambda iou: math.exp(-iou * iou / 0.5)),
    ],
    ids=["linear", "gaussian"],
)
def test_soft_nms_is_the_papers_on_a_thousand_random_sets(part, factor):
    generator = torch.Generator().manual_seed(0)
    for number in range(1000):
        count = number % 13
        boxes, scores, groups = random_case(generator, count)
        expected = soft_nms(boxes, scores, groups.tolist(), factor, 0.01)
        limit = 1 + number % 9
        kept, kept_scores = part(boxes, scores, groups, limit)
        assert kept.tolist() == list(expected)[:limit]
        wanted = torch.tensor(list(expected.values())[:limit], dtype=torch.float32)
        torch.testing.assert_close(kept_scores, wanted, rtol=1e-4, atol=1e-6)


def test_soft_nms_without_a_wait_for_the_scores_is_the_same(monkeypatch):
    boxes, scores, groups = random_case(torch.Generator().manual_seed(1), 40)
    part = GaussianSoftNMS(sigma=0.1, min_score=0.2)
    expected = part(boxes, scores, groups, 30)
    assert 0 < len(expected[0]) < 30
    monkeypatch.setattr(module, "has_cpu_kernel", lambda tensor: False)  # as on a GPU
    for ours, theirs in zip(part(boxes, scores, groups, 30), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_soft_nms_without_a_lowest_score_keeps_equal_boxes_once():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    kept, scores = LinearSoftNMS(min_score=0.0)(boxes, torch.tensor([0.5, 0.9, 0.7, 0.6]), torch.zeros(4).long(), 9)
    assert sorted(kept.tolist()) == [0, 1, 2, 3] and scores.tolist() == pytest.approx([0.9, 0, 0, 0])


def test_a_soft_nms_lowers_a_neighbors_score_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 0, 60, 10]])
    scores, groups = torch.tensor([0.8, 0.6, 0.4]), torch.zeros(3, dtype=torch.int64)
    kept, kept_scores = LinearSoftNMS()(boxes, scores, groups, 9)  # IoU 1 / 2
    assert kept.tolist() == [0, 2, 1]
    torch.testing.assert_close(kept_scores, torch.tensor([0.8, 0.4, 0.3]))
    kept, kept_scores = LinearSoftNMS(iou=0.6)(boxes, scores, groups, 9)
    torch.testing.assert_close(kept_scores, torch.tensor([0.8, 0.6, 0.4]))


@pytest.mark.parametrize("count", [0, 1, 50, 1500])  # torchvision takes the groups one by one above 1000 boxes
def test_greedy_nms_is_torchvisions(count):
    boxes, scores, groups = random_case(torch.Generator().manual_seed(2), count)
    for limit in (1, 20, 2000):
        kept, kept_scores = GreedyNMS(iou=0.4)(boxes, scores, groups, limit)
        assert torch.equal(kept, batched_nms(boxes, scores, groups, 0.4)[:limit])
        assert torch.equal(kept_scores, scores[kept])
        expected = nms(boxes, scores, 0.4)[:limit]
        assert torch.equal(GreedyNMS(iou=0.4, class_agnostic=True)(boxes, scores, groups, limit)[0], expected)
        one_group = torch.zeros(1, dtype=torch.int64).expand(count)
        assert torch.equal(GreedyNMS(iou=0.4)(boxes, scores, one_group, limit)[0], expected)


def test_the_rpn_passes_probabilities_to_an_nms_that_needs_them():
    seen = []

    class Recorder(LinearSoftNMS):
        def __call__(self, boxes, scores, groups, limit):
            seen.append((scores.tolist(), groups.tolist(), limit))
            return super().__call__(boxes, scores, groups, limit)

    box, near = [0.0, 0, 50, 50], [0.0, 0, 50, 40]
    boxes, logits = [torch.tensor([[box, near]]), torch.tensor([[box]])], [torch.zeros(1, 2), torch.ones(1, 1)]
    limits = {"min_size": 0.0, "pre_nms_top_n": 9, "post_nms_top_n": 4}
    ((kept, scores),) = select_proposals(boxes, logits, [(100, 200)], nms=Recorder(), **limits)
    sigmoid = 1 / (1 + math.exp(-1))
    assert seen == [([0.5, 0.5, pytest.approx(sigmoid)], [0, 0, 1], 4)]
    assert kept.tolist() == [box, box, near]
    torch.testing.assert_close(scores, torch.tensor([sigmoid, 0.5, 0.5 * 0.2]))  # IoU 0.8
