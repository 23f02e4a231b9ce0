"""One set of weights in detlite and in torchvision's Faster R-CNN: the same proposals, detections, losses, gradients.

torchvision is told what it does otherwise: anchors in the middle of their cells and not rounded, no resizing, padding
to our multiple. detlite is told: all anchors train, beta 1/9 in both stages, no smallest proposal, RoIAlign unaligned.
"""

import functools

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detlite.errors import UserError
from detlite.modeling.anchor_generator import GridAnchorGenerator
from detlite.modeling.matcher import MaxIoUMatcher
from torchvision_twin import TorchvisionTwin

SIZES = [(160, 224), (200, 137), (97, 131)]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
COMMON = {
    "MODEL.PIXEL_MEAN": [255 * mean for mean in MEAN],
    "MODEL.PIXEL_STD": [255 * std for std in STD],
    "MODEL.CHANNEL_ORDER": "RGB",
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [32, 64, 128],
    "MODEL.RPN.HEAD.OBJECTNESS": "sigmoid",
    "MODEL.RPN.HEAD.INIT_STD": 0.05,  # scores that differ
    "MODEL.RPN.INSIDE_ONLY": False,
    "MODEL.RPN.MIN_SIZE": 1e-3,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 60,
    "MODEL.ROI_HEADS.BOX_LOSS.BETA": 1 / 9,
    "MODEL.ROI_HEADS.CLASS_INIT_STD": 0.2,
    "MODEL.ROI_HEADS.BOX_INIT_STD": 0.1,
}
POOLERS = {
    "RoIPool": {"MODEL.ROI_HEADS.POOLER.NAME": "RoIPool"},
    "RoIAlign": {"MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign", "MODEL.ROI_HEADS.POOLER.ALIGNED": False},
}
NAMES = {  # our parameters' names as torchvision's, from the left
    "backbone.features.": "backbone.",
    "rpn.head.conv.": "rpn.head.conv.0.0.",
    "rpn.head.logits.": "rpn.head.cls_logits.",
    "rpn.head.deltas.": "rpn.head.bbox_pred.",
    "roi_heads.box_head.": "roi_heads.box_head.",
    "roi_heads.predictor.logits.": "roi_heads.box_predictor.cls_score.",
    "roi_heads.predictor.deltas.": "roi_heads.box_predictor.bbox_pred.",
}


class SharedSampler:
    """torchvision's sampler with our draw: the same generators in the same order."""

    def __init__(self, sampler, generators):
        self.sampler = sampler
        self.generators = generators

    def __call__(self, labels_of_images):
        masks = [], []
        for labels, generator in zip(labels_of_images, self.generators, strict=True):
            for mask, indices in zip(masks, self.sampler(labels.sign().long(), generator), strict=True):
                mask.append(torch.zeros(len(labels), dtype=torch.uint8).index_fill_(0, indices, 1))
        return masks


def their_name(name):
    (prefix,) = (prefix for prefix in NAMES if name.startswith(prefix))
    return NAMES[prefix] + name.removeprefix(prefix)


@pytest.fixture(params=POOLERS)
def build_pair(request, narrow_model):
    """A function: our detector, with the given keys on top, and torchvision's with the same weights."""

    def build(changes=None):
        ours = narrow_model(COMMON | POOLERS[request.param] | (changes or {}))
        return ours, TorchvisionTwin(ours).model

    return build


@pytest.fixture
def images():
    return [torch.rand(3, *size) for size in SIZES]


@pytest.fixture
def targets(make_target):
    """Objects of which none has two best anchors, because torchvision loses ties."""
    return [
        make_target(
            [[20.3, 29.1, 66.2, 118.7], [119.4, 38.9, 186.3, 101.2], [101.7, 9.2, 134.1, 42.9]], [1, 3, 2], seed=1
        ),
        make_target([[33.2, 51.7, 98.3, 117.9]], [2], seed=2),
        make_target([[9.1, 21.3, 43.8, 52.2], [30.3, 20.9, 121.2, 67.1]], [3, 1], seed=3),
    ]


def recorded_proposals(model, *args):
    """The model's output, and the proposals that its RPN made on the way."""
    proposals = []
    hook = model.rpn.register_forward_hook(lambda module, inputs, output: proposals.extend(output[0]))
    output = model(*args)
    hook.remove()
    return output, proposals


def assert_same_boxes(ours, theirs):
    """The same boxes to 1e-2 px, each once; their order may differ where scores do by less than float32 can tell."""
    assert ours.shape == theirs.shape and len(ours) > 0
    distances = (ours[:, None] - theirs[None]).abs().amax(dim=2)  # [ours, theirs]
    nearest = distances.argmin(dim=1)
    assert distances.amin(dim=1).max() < 1e-2
    assert len(nearest.unique()) == len(theirs)
    return nearest


@torch.no_grad()
def test_proposals_and_detections_agree(build_pair, images):
    ours, theirs = (model.eval() for model in build_pair())
    our_detections, our_proposals = recorded_proposals(ours, images)
    their_detections, their_proposals = recorded_proposals(theirs, images)
    for pair in zip(our_proposals, their_proposals, strict=True):
        assert_same_boxes(*pair)
    for mine, other in zip(our_detections, their_detections, strict=True):
        torch.testing.assert_close(mine["scores"], other["scores"], atol=1e-5, rtol=0)
        nearest = assert_same_boxes(mine["boxes"], other["boxes"])
        assert torch.equal(mine["labels"], other["labels"][nearest])
        torch.testing.assert_close(mine["scores"], other["scores"][nearest], atol=1e-5, rtol=0)


def normalize(model, image):
    height, width = image.shape[1:]
    return model.preprocess([image])[0, :, :height, :width]


@pytest.mark.parametrize("sampling", ["shared", "off"])
def test_losses_and_gradients_agree(sampling, build_pair, images, targets):
    count = {"shared": (64, 32), "off": (100_000, 100_000)}[sampling]
    ours, theirs = build_pair(
        {"MODEL.RPN.SAMPLER.NUM_SAMPLES": count[0], "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES": count[1]}
    )
    # The same bits enter the same kernels: a ReLU or a maximum that rounding decides otherwise has another gradient.
    theirs.to(memory_format=torch.channels_last).transform.normalize = functools.partial(normalize, ours)
    generators = [torch.Generator().manual_seed(target["seed"]) for target in targets]
    theirs.rpn.fg_bg_sampler = SharedSampler(ours.rpn.sampler, generators)
    theirs.roi_heads.fg_bg_sampler = SharedSampler(ours.roi_heads.sampler, generators)
    our_images, their_images = ([image.clone().requires_grad_() for image in images] for _ in range(2))
    our_losses, our_proposals = recorded_proposals(ours, our_images, targets)
    their_losses, their_proposals = recorded_proposals(theirs, their_images, targets)
    for pair in zip(our_proposals, their_proposals, strict=True):
        assert_same_boxes(*pair)
    assert set(our_losses) == set(their_losses)
    for name, loss in our_losses.items():
        assert loss > 0
        torch.testing.assert_close(loss, their_losses[name], atol=1e-5, rtol=1e-5)
    sum(our_losses.values()).backward()
    sum(their_losses.values()).backward()
    their_parameters = dict(theirs.named_parameters())
    assert len(their_parameters) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        expected = their_parameters[their_name(name)].grad
        assert (parameter.grad - expected).norm() <= 1e-4 * expected.norm(), name
        assert expected.any(), name
    for mine, other in zip(our_images, their_images, strict=True):
        assert other.grad.any() and (mine.grad - other.grad).norm() <= 1e-4 * other.grad.norm()


def test_the_scores_of_detections_have_torchvisions_gradient_to_the_image(build_pair, images):
    gradients = []
    for model in build_pair({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.3}):
        mine = [image.clone().requires_grad_() for image in images]
        detections = model.eval()(mine)
        sum(found["scores"].square().sum() + found["boxes"].mean() / 100 for found in detections).backward()
        gradients.append([image.grad for image in mine])
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.any() and (ours - theirs).norm() <= 1e-3 * theirs.norm()


def test_torchvision_loses_anchors_that_tie_for_an_object_and_we_do_not():
    """Of the anchors inside an object of 70 x 110 the four largest have an area of 64 x 64, so one and the same IoU."""
    (anchors,) = GridAnchorGenerator([16], sizes=[32, 64, 128], aspect_ratios=[0.5, 1, 2])([(13, 14)])
    gt_boxes = torch.tensor([[20.0, 30, 90, 140]])
    iou = box_iou(gt_boxes, anchors)
    _, labels = MaxIoUMatcher(foreground_iou=0.7, background_iou=0.3)(anchors, gt_boxes)
    torch.testing.assert_close(iou[0, labels == 1], torch.full((4,), 64 * 64 / (70 * 110)))
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou)
    assert 0 < (theirs >= 0).sum() < 4


def test_a_twin_of_a_detector_with_softmax_objectness_scores_anchors_as_it_does(narrow_model, images):
    ours = narrow_model(COMMON | POOLERS["RoIAlign"] | {"MODEL.RPN.HEAD.OBJECTNESS": "softmax"}).eval()
    twin = TorchvisionTwin(ours).eval()
    with torch.no_grad():
        for mine, other in zip(ours(images), twin(images), strict=True):
            torch.testing.assert_close(mine["scores"], other["scores"], atol=1e-5, rtol=0)


def test_a_detector_that_torchvision_has_no_like_of_has_no_twin(narrow_model):
    ours = narrow_model(COMMON)
    ours.rpn.anchor_generator.strides = [16, 32]
    with pytest.raises(UserError, match="single-level VGG"):
        TorchvisionTwin(ours)
