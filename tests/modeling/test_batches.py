"""A batch at once, as on a GPU: the same numbers, and few operators per image."""

import collections
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detlite.errors import UserError
from detlite.inspection.speed import Task, make_batch
from detlite.modeling import matcher, sampler
from detlite.ops.cpu import has_cpu_kernel

CHANGES = {
    "MODEL.RPN.HEAD.INIT_STD": 0.1,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 200,
    "MODEL.ROI_HEADS.CLASS_INIT_STD": 0.1,
}
PARTS = {
    "default": {},
    "cascade": {"MODEL.ROI_HEADS.NAME": "CascadeRoIHeads"},
    "all anchors": {"MODEL.RPN.INSIDE_ONLY": False, "MODEL.RPN.SAMPLER.NAME": "AllSampler"},
    "hard negatives": {"MODEL.RPN.SAMPLER.NAME": "HardNegativeSampler"},
    "levels": {"MODEL.RPN.MATCHER.NAME": "ATSSMatcher"},
}


def images_of_three_sizes(num_classes):
    """Four images, the last one without objects."""
    images, targets = make_batch(Task(batch=2, size=(128, 100), objects=5), num_classes)
    wide, wide_targets = make_batch(Task(batch=1, size=(97, 160), objects=1), num_classes)
    small, _ = make_batch(Task(batch=1, size=(64, 64), objects=1), num_classes)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "seed": 7}
    return images + wide + small, [*targets, *wide_targets, nothing]


def results_of(model, images, targets):
    """The losses, the gradients and the detections of a batch."""
    model.train().zero_grad()
    torch.manual_seed(1)  # of dropout
    losses = model(images, targets)
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with torch.no_grad():
        found = model.eval()(images)
    return [*losses.values(), *gradients, *[value for detections in found for value in detections.values()]]


@pytest.mark.parametrize("parts", PARTS)
def test_matching_and_sampling_at_once_changes_no_number(parts, narrow_model, monkeypatch):
    model = narrow_model(CHANGES | PARTS[parts])
    images, targets = images_of_three_sizes(model.num_classes)
    one_by_one = results_of(model, images, targets)
    monkeypatch.setattr(matcher, "has_cpu_kernel", lambda tensor: False)
    monkeypatch.setattr(sampler, "has_cpu_kernel", lambda tensor: False)
    at_once = results_of(model, images, targets)
    assert all(torch.equal(*pair) for pair in zip(one_by_one, at_once, strict=True))


class Counter(TorchDispatchMode):
    """Counts the operators that compute something, about as many as a GPU launches kernels."""

    VIEWS = {
        *("view", "_unsafe_view", "expand", "slice", "select", "unsqueeze", "squeeze", "permute", "transpose", "t"),
        *("detach", "alias", "split", "split_with_sizes", "unbind", "as_strided", "lift_fresh"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    }

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in self.VIEWS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def count(function, *arguments):
    with Counter() as counter:
        result = function(*arguments)
    return sum(counter.counts.values()), counter.counts["nonzero"], result


def test_a_further_image_adds_few_operators_off_the_cpu(narrow_model, monkeypatch):
    for module in list(sys.modules.values()):
        if getattr(module, "has_cpu_kernel", None) is has_cpu_kernel:
            monkeypatch.setattr(module, "has_cpu_kernel", lambda tensor: False)
    model = narrow_model(CHANGES)
    operators = {}
    for num_images in (1, 3):
        images, targets = make_batch(Task(batch=num_images, size=(96, 128), objects=3), model.num_classes)
        model.train().zero_grad()
        forward, forward_waits, losses = count(model, images, targets)
        backward, _, _ = count(sum(losses.values()).backward)
        with torch.no_grad():
            detection, detection_waits, _ = count(model.eval(), images)
        operators[num_images] = forward, backward, detection, forward_waits, detection_waits
    limits = (60, 10, 40, 0, 0)
    for one, three, limit in zip(operators[1], operators[3], limits, strict=True):
        assert three - one <= 2 * limit, operators


def test_images_of_different_types_make_one_batch(narrow_model):
    model = narrow_model({})
    image = torch.randint(256, (3, 40, 50), dtype=torch.uint8)
    batch = model.preprocess([image, image[:, :20] / 255, (image[:, :, :30] / 255).double()])
    assert batch.dtype == torch.float32 and batch.is_contiguous(memory_format=torch.channels_last)
    expected = model.preprocess([image])[0, :, :40, :50]
    torch.testing.assert_close(batch[0, :, :40, :50], expected, rtol=0, atol=0)
    torch.testing.assert_close(batch[1, :, :20, :50], expected[:, :20], rtol=0, atol=1e-4)
    assert not batch[1, :, 20:].any() and not batch[2, :, :, 30:].any() and not batch[:, :, 40:].any()


def test_the_first_bad_target_is_reported(narrow_model):
    model = narrow_model({}).train()
    images, targets = make_batch(Task(batch=3, size=(64, 64), objects=2), model.num_classes)
    targets[1]["boxes"][1] = torch.tensor([5.0, 5, 5, 9])
    targets[2]["labels"][0] = 0
    with pytest.raises(UserError, match=r"target 1: box \[5.0, 5.0, 5.0, 9.0\] needs x1 < x2"):
        model(images, targets)
    targets[1]["labels"][0] = model.num_classes + 1
    with pytest.raises(UserError, match=rf"target 1: label {model.num_classes + 1} is not in"):
        model(images, targets)
