"""The checks find the fault of parts that have exactly one, and name it."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from detlite.data.datasets.shapes import ShapesDataset
from detlite.data.image_sampler import UniformImageSampler
from detlite.data.transforms import RandomHorizontalFlip
from detlite.evaluation.pascal_voc import PascalVOCEvaluator
from detlite.modeling.anchor_generator import GridAnchorGenerator
from detlite.modeling.backbone.vgg import VGG
from detlite.modeling.box_coder import DeltaBoxCoder, LTRBBoxCoder
from detlite.modeling.losses import CIoULoss, CrossEntropyLoss, GIoULoss, L1Loss
from detlite.modeling.matcher import MaxIoUMatcher, TopKMatcher
from detlite.modeling.nms import GaussianSoftNMS, GreedyNMS
from detlite.modeling.proposal_network import ProposalNetwork
from detlite.modeling.roi_heads.box_head import FCBoxHead
from detlite.modeling.roi_heads.pooler import RoIAlign
from detlite.modeling.roi_heads.standard import StandardRoIHeads
from detlite.modeling.rpn.head import RPNHead
from detlite.modeling.sampler import BalancedSampler
from detlite.registry import MATCHERS, META_ARCHITECTURES, ROI_HEADS
from detlite.solver import SGD, CosineLR
from detlite.testing import (
    ContractError,
    check_anchor_generator,
    check_backbone,
    check_box_coder,
    check_box_head,
    check_box_loss,
    check_class_loss,
    check_config,
    check_dataset,
    check_evaluator,
    check_hook,
    check_image_sampler,
    check_lr_scheduler,
    check_matcher,
    check_meta_architecture,
    check_nms,
    check_optimizer,
    check_roi_heads,
    check_roi_pooler,
    check_rpn_head,
    check_sampler,
    check_transform,
    config_of,
)
from swap_matrix import NARROW


def but(base, new, method=None):
    """Return a subclass of ``base`` whose method is ``new(self, sound, *arguments)``; ``sound`` is base's method."""
    method = method or ("forward" if issubclass(base, nn.Module) else "__call__")
    right = getattr(base, method)

    def wrong(self, *arguments):
        return new(self, lambda *given: right(self, *given), *arguments)

    return type(f"Broken{base.__name__}", (base,), {method: wrong})


def in_place(self, sound, boxes, gt_boxes):
    return sound(boxes.clamp_(min=20), gt_boxes)


def all_to_the_first(self, sound, boxes, gt_boxes):
    matches, labels = sound(boxes, gt_boxes)
    return torch.zeros_like(matches), labels


def crashes_without_objects(self, sound, boxes, gt_boxes):
    box_iou(gt_boxes, boxes).max(dim=0)
    return sound(boxes, gt_boxes)


def padding_too(self, sound, boxes, gt_boxes, is_box, is_object):
    return sound(boxes, gt_boxes, torch.ones_like(is_box), is_object)


def with_one_generator(self, sound, labels, generators):
    return sound(labels, generators[:1] * len(labels))


def with_torchs_own_draws(self, sound, labels, generator=None):
    return sound(labels, None)


def twice(self, sound, labels, generator=None):
    positive, negative = sound(labels, generator)
    return positive, negative.repeat(2)


def ignored_too(self, sound, labels, generator=None):
    return sound((labels == 1).long(), generator)


def column_by_column(self, sound, sizes, device="cpu"):
    counts = self.num_anchors
    return [
        level.view(h, w, count, 4).transpose(0, 1).reshape(-1, 4)
        for level, (h, w), count in zip(sound(sizes, device), sizes, counts, strict=True)
    ]


def anchor_by_anchor(self, sound, features):
    logits, deltas = sound(features)
    return [level.unflatten(1, (-1, 3)).transpose(1, 2).flatten(1, 2) for level in logits], deltas


def last_image_first(self, sound, features, boxes):
    return sound([level.flip(0) for level in features], boxes)


def from_0_on(self, sound, *given):
    detections, losses = sound(*given)
    return [{**d, "labels": d["labels"] - 1} for d in detections], losses


def worst_first(self, sound, images, targets=None):
    result = sound(images, targets)
    return result if targets is not None else [{k: v.flip(0) for k, v in one.items()} for one in result]


def beyond_the_limit(self, sound, boxes, scores, groups, limit):
    return sound(boxes, scores, groups, len(boxes))


def in_the_boxes_order(self, sound, boxes, scores, groups, limit):
    indices = sound(boxes, scores, groups, limit)[0].sort()[0]
    return indices, scores[indices]


def without_new_scores(self, sound, boxes, scores, groups, limit):
    indices, _ = sound(boxes, scores, groups, limit)
    return indices, scores[indices]


class WrongRecords(ShapesDataset):
    def __init__(self, **changes):
        super().__init__(num_images=3, image_size=64)
        self.changes = changes

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, {**target, **{key: change(target[key]) for key, change in self.changes.items()}}


def from_0(labels):
    return labels - labels


def plain(boxes):
    return boxes.as_subclass(torch.Tensor)


def next_one(image_id):
    return image_id + 1


class FlipsTheImageAlone:
    def __call__(self, image, target):
        return image.flip(-1), target


class KeepsBoxesAlone:
    def __call__(self, image, target):
        return image, {"boxes": target["boxes"], "labels": target["labels"]}


class DrawsFromElsewhere:
    def __init__(self):
        self.generator = np.random.default_rng()

    def __call__(self, image, target):
        return image // int(self.generator.integers(2, 100)), target


class ForgetsItsSteps:
    """Counts its calls and ignores the step."""

    calls = 0

    def __call__(self, step):
        self.calls += 1
        return 1 / self.calls


class Misspelled:
    def __init__(self, trainer):
        pass

    def after_train(self):
        pass

    def after_steps(self):
        pass


class NeedsStepZero:
    def __init__(self, trainer):
        self.trainer = trainer

    def after_step(self):
        if self.trainer.step == 0:
            self.first = self.trainer.result.losses
        self.drop = self.first


class CountsSteps:
    def __init__(self, trainer):
        self.count = 0

    def after_step(self):
        self.count += 1


def everything(model):
    return torch.optim.SGD([{"params": list(model.parameters()), "lr": 0.1, "initial_lr": 0.1}])


def without_initial_lr(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def narrow_heads(base):
    """Return narrow StandardRoIHeads with another class."""
    heads = ROI_HEADS.build(config_of(ROI_HEADS, "StandardRoIHeads", {"BOX_HEAD": {"FC_DIM": 16}}), [8], [16], 3)
    heads.__class__ = base
    return heads


def narrow_detector(base):
    keys = {"BACKBONE": NARROW["VGG"], "RPN": {"INSIDE_ONLY": False, "HEAD": NARROW["RPNHead"]}}
    model = META_ARCHITECTURES.build(config_of(META_ARCHITECTURES, "ProposalNetwork", keys), 3)
    model.__class__ = base
    return model


class WithAnIdleLayer(VGG):
    def __init__(self):
        super().__init__(width=0.1)
        self.idle = nn.Linear(2, 2)


class SaysStride8(VGG):
    def __init__(self):
        super().__init__(width=0.1)
        self.strides = {"conv5": 8}


class NormalizesOverBoxes(FCBoxHead):
    def __init__(self, *given):
        super().__init__(*given, fc_dim=16)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, pooled):
        return self.norm(super().forward(pooled))


FAULTS = {
    "changes its input": (check_matcher, but(MaxIoUMatcher, in_place)(), {}, "expected boxes unchanged"),
    "one object for all": (
        check_matcher,
        but(MaxIoUMatcher, all_to_the_first)(),
        {},
        "matched to an object equal to it",
    ),
    "no objects": (check_matcher, but(MaxIoUMatcher, crashes_without_objects)(), {}, "no objects\n"),
    "labels of another type": (
        check_matcher,
        but(TopKMatcher, lambda self, sound, *given: (sound(*given)[0], sound(*given)[1].float()))(),
        {},
        "labels: finite int64 (43,)",
    ),
    "padding matched": (check_matcher, but(MaxIoUMatcher, padding_too, "match_batch")(), {}, "as if it came alone"),
    "one generator": (
        check_sampler,
        but(BalancedSampler, with_one_generator, "sample_batch")(),
        {},
        "for each image the boxes that it gets alone",
    ),
    "torch's own draws": (check_sampler, but(BalancedSampler, with_torchs_own_draws)(), {}, "for the same seed"),
    "a box twice": (check_sampler, but(BalancedSampler, twice)(), {}, "negative: no box twice"),
    "ignored boxes": (check_sampler, but(BalancedSampler, ignored_too)(), {}, "negative: boxes whose label is 0"),
    "no inverse": (
        check_box_coder,
        but(DeltaBoxCoder, lambda self, sound, boxes, deltas: sound(boxes, deltas.flip(1)), "decode")(),
        {},
        "decode undoes encode",
    ),
    "sides that pass each other": (
        check_box_coder,
        but(LTRBBoxCoder, lambda self, sound, boxes, deltas: boxes + deltas * (boxes - boxes.roll(2, 1)), "decode")(),
        {},
        "breaks the contract of BOX_CODER: decode",
    ),
    "a mean over boxes": (
        check_box_loss,
        but(L1Loss, lambda self, sound, *given: sound(*given).mean())(),
        {},
        "losses: finite float32 (12,)",
    ),
    "a share in others": (
        check_box_loss,
        but(GIoULoss, lambda self, sound, *given: sound(*given) / max(1, len(given[0])))(),
        {},
        "a loss that does not depend on the others",
    ),
    "a space that is none": (check_box_loss, type("Own", (CIoULoss,), {"space": "box"})(), {}, "'deltas' or 'boxes'"),
    "no gradient": (
        check_box_loss,
        but(L1Loss, lambda self, sound, *given: sound(*given).detach())(),
        {},
        "losses with a gradient, also without boxes",
    ),
    "labels shifted by one": (
        check_class_loss,
        but(
            CrossEntropyLoss, lambda self, sound, logits, labels: sound(logits, (labels - 1) % max(2, logits.shape[1]))
        )(),
        {},
        "a lower loss for right logits than for wrong ones",
    ),
    "no binary logits": (
        check_class_loss,
        but(CrossEntropyLoss, lambda self, sound, *given: nn.functional.cross_entropy(*given, reduction="none"))(),
        {},
        "1 columns",
    ),
    "column by column": (
        check_anchor_generator,
        but(GridAnchorGenerator, column_by_column)([8, 16]),
        {"strides": [8, 16]},
        "row by row, a cell's anchors together",
    ),
    "other strides": (
        check_anchor_generator,
        GridAnchorGenerator([8, 8]),
        {"strides": [8, 16]},
        "neighbors 16 px apart",
    ),
    "anchor by anchor": (
        check_rpn_head,
        but(RPNHead, anchor_by_anchor)(16, 3, conv_dim=32),
        {"in_channels": 16, "num_anchors": 3},
        "predictions in the anchors' order",
    ),
    "no way back to the features": (
        check_rpn_head,
        but(RPNHead, lambda self, sound, features: sound([level.detach() for level in features]))(16, 3, conv_dim=32),
        {"in_channels": 16, "num_anchors": 3},
        "a gradient in level 0",
    ),
    "a layer without gradient": (check_backbone, WithAnIdleLayer(), {}, "a gradient in idle.weight"),
    "another stride": (check_backbone, SaysStride8(), {}, "conv5: finite float32 (2, 51, 8, 12)"),
    "images mixed up": (
        check_roi_pooler,
        but(RoIAlign, last_image_first)([16]),
        {"strides": [16]},
        "each pooled from its own image",
    ),
    "another size": (
        check_roi_pooler,
        but(RoIAlign, lambda self, sound, *given: sound(*given)[..., 1:])([16]),
        {"strides": [16]},
        "pooled: finite float32 (12, 6, 7, 7)",
    ),
    "a norm over boxes": (
        check_box_head,
        NormalizesOverBoxes(16, 7),
        {"in_channels": 16, "resolution": 7},
        "1 boxes in training",
    ),
    "less features than said": (
        check_box_head,
        but(FCBoxHead, lambda self, sound, pooled: sound(pooled)[:, 1:])(16, 7, fc_dim=16),
        {"in_channels": 16, "resolution": 7},
        "vectors: finite float32 (5, 16)",
    ),
    "labels from 0 on": (
        check_roi_heads,
        narrow_heads(but(StandardRoIHeads, from_0_on)),
        {"channels": [8], "strides": [16], "num_classes": 3},
        "labels in 1 ... 3",
    ),
    "other draws each time": (
        check_roi_heads,
        narrow_heads(but(StandardRoIHeads, lambda self, sound, *given: sound(*given[:4]))),
        {"channels": [8], "strides": [16], "num_classes": 3},
        "draws from the given generators only",
    ),
    "worst first": (
        check_meta_architecture,
        narrow_detector(but(ProposalNetwork, worst_first)),
        {"num_classes": 3},
        "scores of image 0 in descending order",
    ),
    "one loss in place of a dict": (
        check_meta_architecture,
        narrow_detector(but(ProposalNetwork, lambda self, sound, *given: sum(sound(*given).values()))),
        {"num_classes": 3},
        "expected a dict of losses",
    ),
    "labels of records from 0 on": (check_dataset, WrongRecords(labels=from_0), {}, "labels in 1 ... 3"),
    "plain boxes": (check_dataset, WrongRecords(boxes=plain), {}, "BoundingBoxes"),
    "ids that are not coco's": (
        check_dataset,
        WrongRecords(image_id=next_one),
        {},
        "image_id 0, as in coco()",
    ),
    "boxes left behind": (check_transform, FlipsTheImageAlone(), {}, "the box still on its object"),
    "an id lost": (check_transform, KeepsBoxesAlone(), {}, "image_id unchanged"),
    "draws from elsewhere": (check_transform, DrawsFromElsewhere(), {}, "for the same seeds"),
    "an epoch of fewer images": (
        check_image_sampler,
        but(UniformImageSampler, lambda self, sound, generator: sound(generator)[:1]),
        {},
        "expected an int64 array (7,)",
    ),
    "an order from elsewhere": (
        check_image_sampler,
        but(UniformImageSampler, lambda self, sound, generator: np.random.permutation(self.num_images)),
        {},
        "the same epoch for the same generator",
    ),
    "nothing forgotten": (
        check_evaluator,
        but(PascalVOCEvaluator, lambda self, sound: hasattr(self, "_detected") or sound(), "reset"),
        {},
        "the results of this image alone",
    ),
    "a number that JSON has not": (
        check_evaluator,
        but(PascalVOCEvaluator, lambda self, sound: {"voc": {"AP": float("nan")}}, "score"),
        {},
        "ValueError: Out of range float values",
    ),
    "more than the limit": (check_nms, but(GreedyNMS, beyond_the_limit)(), {}, "expected at most limit boxes"),
    "not the best first": (check_nms, but(GreedyNMS, in_the_boxes_order)(), {}, "scores in descending order"),
    "scores from before": (check_nms, but(GaussianSoftNMS, without_new_scores)(), {}, "scores in descending order"),
    "frozen parameters": (check_optimizer, everything, {}, "each trainable parameter once"),
    "no initial_lr": (check_optimizer, without_initial_lr, {}, 'in each group "initial_lr"'),
    "an internal state": (check_lr_scheduler, ForgetsItsSteps(), {"max_iter": 5}, "a run may be resumed"),
    "below 0": (check_lr_scheduler, lambda step: 1 - step, {"max_iter": 5}, "given    step 2"),
    "a moment misspelled": (check_hook, Misspelled, {}, "no moments but before_train"),
    "no resuming": (check_hook, NeedsStepZero, {}, "a resumed run"),
}


@pytest.mark.parametrize(("check", "part", "context", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_named(check, part, context, message):
    torch.manual_seed(0)
    np.random.seed(0)
    with pytest.raises(ContractError) as caught:
        check(part, **context)
    assert message in str(caught.value)


def test_every_check_finds_two_faults_at_least():
    checks = [check for check, *_ in FAULTS.values()]
    assert {name for name in globals() if name.startswith("check_")} == {c.__name__ for c in checks} | {"check_config"}
    assert min(map(checks.count, checks)) >= 2


def test_a_failure_says_clause_input_expectation_and_result():
    with pytest.raises(ContractError) as caught:
        check_matcher(lambda boxes, gt_boxes: (torch.zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)))
    assert str(caught.value).splitlines()[:4] == [
        "<lambda> breaks the contract of MATCHER: many boxes",
        "  given    boxes float32 (43, 4), gt_boxes float32 (3, 4) [[10.0, 10.0, 40.0, 34.0], "
        "[60.0, 20.0, 92.0, 84.0], [12.0, 50.0, 48.0, 90.0]]",
        "  expected matches: finite int64 (43,)",
        "  got      float32 (43,)",
    ]


def test_parts_that_take_the_optional_third_parameter_are_given_it():
    seen = []

    class Levels(MaxIoUMatcher):
        def __call__(self, boxes, gt_boxes, boxes_per_level):
            seen.append(len(boxes_per_level))
            assert sum(boxes_per_level) == len(boxes)
            return super().__call__(boxes, gt_boxes)

    check_matcher(Levels())
    assert set(seen) == {3}


def test_a_hook_that_does_its_work_passes():
    check_hook(CountsSteps)


def test_a_key_without_its_line_is_found():
    class SilentForTest(MaxIoUMatcher):
        """Does not describe its key."""

        def __init__(self, *, loud: int = 1):
            super().__init__()

    MATCHERS.register()(SilentForTest)
    with pytest.raises(ContractError, match="a line about loud"):
        check_config(MATCHERS, "SilentForTest")


def test_sound_parts_given_as_a_class_pass():
    check_optimizer(SGD)
    check_lr_scheduler(CosineLR(5), max_iter=5)
    check_transform(RandomHorizontalFlip())
    check_evaluator(PascalVOCEvaluator)
