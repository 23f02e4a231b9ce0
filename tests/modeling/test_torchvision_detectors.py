"""torchvision's detectors by name: configs/torchvision's have the same proposals, detections, losses and gradients."""

import functools
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.models import ResNet, detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from detlite import Detector
from detlite.checkpoint import load_weights, read_weights, weights_in
from detlite.checkpoint.foreign_weights import COCO_CLASSES, resolve_names
from detlite.config import load_config
from detlite.data import build_test_transforms
from detlite.modeling import build_model

CONFIGS = Path(__file__).parents[2] / "configs" / "torchvision"
SIZES = [(97, 131), (150, 101), (100, 233)]  # resized to a batch of 64 x 96; the coarsest level has a stride of 64
TOP_N = {"PRE_NMS_TOP_N_TRAIN": 200, "POST_NMS_TOP_N_TRAIN": 6, "POST_NMS_TOP_N_TEST": 30}
SIZE, MAX_SIZE = 40, 80
SMALL = {f"rpn_{key.lower()}": value for key, value in TOP_N.items()} | {"min_size": SIZE, "max_size": MAX_SIZE}


@pytest.fixture(scope="module", autouse=True)
def narrow_resnets():
    """ResNets with a quarter of the channels in 3 x 3 convolutions, in torchvision's detectors and ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResNet, "__init__", functools.partialmethod(ResNet.__init__, width_per_group=16))
        yield


def frozen_resnet50(detector):
    """The backbone that torchvision builds for pretrained weights."""
    detector.backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    overwrite_eps(detector, 0.0)


def frozen_mobilenet(detector):
    detector.backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=3
    )


def trained_resnet50(detector):
    for name in ("conv1", "bn1", "layer1"):
        getattr(detector.backbone.body, name).requires_grad_(False)


# By name: what pretrained weights change; the range of BatchNorm's factors for which outputs are neither 0 nor huge.
DETECTORS = {
    "fasterrcnn_resnet50_fpn": (frozen_resnet50, (0.2, 0.6)),
    "fasterrcnn_resnet50_fpn_v2": (trained_resnet50, (0.4, 0.8)),
    "fasterrcnn_mobilenet_v3_large_fpn": (frozen_mobilenet, (1.5, 3)),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (frozen_mobilenet, (1.5, 3)),
}


def torchvision_detector(name, num_classes, **options):
    """torchvision's detector as it is with pretrained weights, but with random ones."""
    torch.manual_seed(0)
    make, factors = DETECTORS[name]
    detector = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes, **options)
    make(detector)
    for module in detector.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            nn.init.uniform_(module.weight, *factors)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    for layer in detector.rpn.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    nn.init.normal_(detector.rpn.head.bbox_pred.weight, std=0.01)
    nn.init.normal_(detector.roi_heads.box_predictor.cls_score.weight, std=0.3)
    nn.init.normal_(detector.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    return detector


def opts(*more):
    sizes = ["TRANSFORMS.TEST.0.SIZE", SIZE, "TRANSFORMS.TEST.0.MAX_SIZE", MAX_SIZE]
    top_n = [part for key, value in TOP_N.items() for part in (f"MODEL.RPN.{key}", value)]
    return [*sizes, *top_n, *more]


class Pair(NamedTuple):
    ours: nn.Module
    theirs: nn.Module
    transforms: object
    weights: object


@pytest.fixture(params=list(DETECTORS)[:3], scope="module")
def pair(request, narrow_resnets):
    return build_pair(request.param, torchvision_detector(request.param, 4, **SMALL), opts())


def build_pair(name, theirs, keys):
    """Our detector of three classes, torchvision's with the same weights, and our transforms."""
    keys = [*keys, "MODEL.DEVICE", "cpu", "MODEL.CLASSES", ["circle", "square", "triangle"]]
    cfg = load_config(CONFIGS / f"{name}.yaml", keys)
    ours = build_model(cfg, initialize=False)
    weights = weights_in(theirs.state_dict(), "weights.pth")
    report = load_weights(ours, weights, complete=True)
    assert report.matched == 1 and not report.ignored
    return Pair(ours, theirs, build_test_transforms(cfg.TRANSFORMS.TEST), weights)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in SIZES]


def recorded_proposals(model, *args):
    """The model's output, and the proposals that its RPN made on the way."""
    proposals = []
    hook = model.rpn.register_forward_hook(lambda module, inputs, output: proposals.extend(output[0]))
    output = model(*args)
    hook.remove()
    return output, proposals


def assert_same_proposals(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) >= 5
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)


def test_proposals_and_detections_are_torchvisions(pair, images):
    assert_same_detections(pair, images)


def test_on_images_of_320_px_all_150_proposals_are_torchvisions(images):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    theirs = torchvision_detector(name, 4)
    (proposals,) = assert_same_detections(build_pair(name, theirs, []), images[:1])
    assert len(proposals) == 150


@torch.no_grad()
def assert_same_detections(pair, images):
    """Compare proposals and detections; return our proposals."""
    resized = [pair.transforms(tv_tensors.Image(image), {})[0] for image in images]
    found, proposals = recorded_proposals(pair.ours.eval(), resized)
    expected, their_proposals = recorded_proposals(pair.theirs.eval(), [image / 255 for image in images])
    assert_same_proposals(proposals, their_proposals)
    for mine, other, small, image in zip(found, expected, resized, images, strict=True):
        assert len(mine["boxes"]) > 5
        height, width = (before / after for before, after in zip(image.shape[-2:], small.shape[-2:], strict=True))
        boxes = mine["boxes"] * torch.tensor([width, height] * 2)
        torch.testing.assert_close(boxes, other["boxes"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(mine["scores"], other["scores"], atol=1e-4, rtol=0)
        assert torch.equal(mine["labels"], other["labels"])
    return proposals


def test_losses_and_gradients_are_torchvisions(pair, images):
    ours, theirs = pair.ours.train(), pair.theirs.train()
    for mine, other in ((ours.rpn, theirs.rpn), (ours.roi_heads, theirs.roi_heads)):
        mine.sampler.num_samples = other.fg_bg_sampler.batch_size_per_image = 10**6  # all, so nothing is drawn

    # Objects of which none has two best anchors, because torchvision loses ties.
    boxes = [[[20.3, 29.1, 66.2, 88.7], [59.4, 8.9, 126.3, 61.2]], [[33.2, 51.7, 98.3, 117.9]], [[9.1, 21, 213.8, 92]]]
    resized, targets = [], []
    for image, objects in zip(images, boxes, strict=True):
        target = {"boxes": torch.tensor(objects), "labels": torch.arange(len(objects)) + 1}
        on_image = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[-2:])
        small, moved = pair.transforms(tv_tensors.Image(image), {**target, "boxes": on_image})
        resized.append(small)
        targets.append(moved)

    # The same bits enter the same kernels. BatchNorm keeps its statistics: it would multiply rounding by 1,000 here.
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    theirs.to(memory_format=torch.channels_last).transform.normalize = lambda image: (
        255 * image - ours.pixel_mean
    ).div_(ours.pixel_std)
    theirs.transform.resize = lambda image, target: (image, target)
    losses, proposals = recorded_proposals(ours, resized, targets)
    expected, their_proposals = recorded_proposals(theirs, resized, targets)
    assert_same_proposals(proposals, their_proposals)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss > 0
        torch.testing.assert_close(loss, expected[name], atol=1e-5, rtol=1e-4)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    parameters = dict(theirs.named_parameters())
    renamed = pair.weights.layout.rename(parameters)
    names = resolve_names(renamed.values(), dict(ours.named_parameters()))
    for name, parameter in parameters.items():
        mine = ours.get_parameter(names[renamed[name]])
        assert mine.requires_grad == parameter.requires_grad, name
        if mine.requires_grad:
            assert parameter.grad.any() and (mine.grad - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name
    for model in (ours, theirs):
        model.zero_grad()


def test_weights_for_other_classes_leave_only_the_predictor_random(pair):
    state = dict(pair.weights.state)
    for name in state:
        if "box_predictor" in name:
            state[name] = torch.cat([state[name], state[name]])
    report = load_weights(pair.ours, weights_in(state, "weights.pth"))
    assert not report.ignored and report.matched == 1 and set(report.matched_parts.values()) == {1}
    prefix = "roi_heads.predictor."
    assert set(report.reinitialized) == {f"{prefix}{name}" for name in pair.ours.roi_heads.predictor.state_dict()}


@torch.no_grad()
def test_a_coco_detector_reports_the_eighty_classes_and_never_an_unused_id(tmp_path, images, monkeypatch):
    name = "fasterrcnn_mobilenet_v3_large_fpn"
    theirs = torchvision_detector(name, 91, box_detections_per_img=10_000, box_score_thresh=0.02, **SMALL).eval()
    nn.init.normal_(theirs.roi_heads.box_predictor.cls_score.weight, std=1)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints/fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"
    path.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), path)
    keys = opts("MODEL.ROI_HEADS.SCORE_THRESHOLD", 0.02)
    config = CONFIGS / f"{name}.yaml"
    detector = Detector.from_checkpoint(f"torchvision/{name}", config=config, opts=keys, device="cpu")
    assert detector.classes == read_weights(path).classes == COCO_CLASSES and len(COCO_CLASSES) == 80
    categories = detection.FasterRCNN_MobileNet_V3_Large_FPN_Weights.DEFAULT.meta["categories"]
    image = images[1]  # torchvision takes one of less than 46 px for one of half the stride
    (expected,) = theirs([image / 255])
    is_used = torch.tensor([categories[label] != "N/A" for label in expected["labels"]])
    assert 0 < is_used.sum() < len(is_used)
    found = detector(image)
    count = len(found["scores"])
    assert count == min(100, is_used.sum()) and min(found["labels"]) >= 1
    torch.testing.assert_close(found["scores"], expected["scores"][is_used][:count], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["boxes"], expected["boxes"][is_used][:count], atol=1e-3, rtol=1e-4)
    assert found["names"] == [categories[label] for label in expected["labels"][is_used][:count]]
