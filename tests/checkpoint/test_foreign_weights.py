"""Weights of other libraries, loaded by their names, give the same results as in those libraries."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import MultiScaleRoIAlign

from detlite.checkpoint import load_weights, read_weights, weights_in
from detlite.checkpoint.foreign_weights import LAYOUTS, find_layout
from detlite.checkpoint.pixel_statistics import CAFFE, IMAGENET
from detlite.checkpoint.weights import Weights
from detlite.config import load_config
from detlite.errors import UserError
from detlite.modeling import build_model

LETTERS = {11: "A", 13: "B", 16: "D", 19: "E"}


def narrow_features(depth, norm=False):
    """torchvision's layers of a VGG, a sixteenth as wide."""
    layers = make_layers([width if width == "M" else width // 16 for width in cfgs[LETTERS[depth]]], norm)
    for layer in layers:
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    return layers.eval()


def test_torchvision_s_whole_vgg16_gives_the_same_features_and_fc7_outputs():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16(init_weights=False).eval()
    weights = Weights("vgg16", theirs.state_dict(), find_layout(theirs.state_dict()))
    ours = build_model(load_config(opts=["MODEL.DEVICE", "cpu"]), initialize=False).eval()
    report = load_weights(ours, weights)
    images, pooled = torch.randn(1, 3, 64, 96), torch.randn(2, 512, 7, 7)
    with torch.no_grad():
        features = ours.backbone(images)["conv5"]
        assert features.shape == (1, 512, 4, 6)
        torch.testing.assert_close(features, theirs.features[:-1](images), atol=1e-5, rtol=1e-5)
        fc7 = theirs.classifier[:5](pooled.flatten(1))
        torch.testing.assert_close(ours.roi_heads.box_head(pooled), fc7, atol=1e-5, rtol=1e-5)
    assert sum(report.loaded.values()) == 14_714_688 + 25088 * 4096 + 4096 + 4096 * 4096 + 4096
    assert {name: count for name, (count, _) in report.ignored.items()} == {
        "classifier.6.weight": 4096 * 1000,
        "classifier.6.bias": 1000,
    }


@pytest.mark.parametrize("norm", ["none", "BatchNorm", "FrozenBatchNorm"])
@pytest.mark.parametrize("depth", LETTERS)
def test_torchvision_s_features_of_every_depth(saved, narrow_model, depth, norm):
    theirs = narrow_features(depth, norm != "none")
    path = saved({f"features.{name}": value for name, value in theirs.state_dict().items()})
    ours = narrow_model(MODEL__BACKBONE__DEPTH=depth, MODEL__BACKBONE__NORM=norm)
    report = load_weights(ours, path)
    assert report.matched == 1 and not report.ignored
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours.backbone(images)["conv5"], theirs[:-1](images))


@pytest.mark.parametrize("template", ["{}.weight {}.bias", "{}/W {}/b"])
@pytest.mark.parametrize("depth", LETTERS)
def test_caffe_s_layer_names_are_torchvision_s_places(depth, template):
    """Ordered by depth, the n-th of Caffe's convolutions is the n-th that torchvision's ``features`` hold."""
    theirs = [f"features.{index}" for index, layer in enumerate(narrow_features(depth)) if hasattr(layer, "weight")]
    stages = "".join("M" if width == "M" else "c" for width in cfgs[LETTERS[depth]]).split("M")[:5]
    caffe = [f"conv{stage}_{i}" for stage, convs in enumerate(stages, 1) for i in range(1, len(convs) + 1)]
    fully_connected = {"fc6": "roi_heads.box_head.fc6", "fc7": "roi_heads.box_head.fc7"}
    weight, bias = template.split()
    expected = {}
    for layer, own in [*zip(caffe, theirs, strict=True), *fully_connected.items()]:
        expected |= {weight.format(layer): f"{own}.weight", bias.format(layer): f"{own}.bias"}
    layout = find_layout(expected)
    assert layout.title == "Caffe's VGG" and layout.pixels == CAFFE
    assert layout.rename(set(expected)) == expected


def test_torchvision_s_faster_rcnn_with_a_vgg16_body(saved, narrow_model):
    torch.manual_seed(0)
    backbone = narrow_features(16)[:-1]
    backbone.out_channels = 32
    theirs = FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=TwoMLPHead(32 * 49, 8),
        box_predictor=FastRCNNPredictor(8, 4),
    ).eval()
    path = saved(theirs.state_dict())
    ours = narrow_model(
        MODEL__RPN__HEAD__OBJECTNESS="sigmoid",
        MODEL__RPN__HEAD__CONV_DIM=32,
        MODEL__CHANNEL_ORDER="RGB",
        MODEL__PIXEL_MEAN=IMAGENET.mean,
        MODEL__PIXEL_STD=IMAGENET.std,
    )
    assert read_weights(path).pixels == IMAGENET
    report = load_weights(ours, path, complete=True)
    assert not report.ignored and not report.reinitialized and report.matched == 1
    image, pooled = torch.rand(3, 64, 96), torch.randn(5, 32, 7, 7)
    with torch.no_grad():
        features = theirs.backbone(theirs.transform.normalize(image)[None])
        torch.testing.assert_close(ours.features([image])[0], features)
        logits, deltas = ours.rpn.head([features])
        their_logits, their_deltas = theirs.rpn.head([features])
        torch.testing.assert_close(logits[0].flatten(), their_logits[0].permute(0, 2, 3, 1).flatten())
        torch.testing.assert_close(deltas[0].flatten(), their_deltas[0].permute(0, 2, 3, 1).flatten())
        logits, deltas = ours.roi_heads.predictor(ours.roi_heads.box_head(pooled))
        their_logits, their_deltas = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
        torch.testing.assert_close(logits, their_logits)
        torch.testing.assert_close(deltas.flatten(1), their_deltas)


PYRAMID = {
    "MODEL__RPN__HEAD__CONV_DIM": 256,
    "MODEL__RPN__HEAD__OBJECTNESS": "sigmoid",
    "MODEL__RPN__ANCHOR_GENERATOR__SIZES": [[32], [64], [128], [256], [512]],
    "MODEL__ROI_HEADS__POOLER": {"NAME": "MultiLevelPooler", "POOLER": {"NAME": "RoIAlign", "ALIGNED": False}},
    "MODEL__CHANNEL_ORDER": "RGB",
    "MODEL__PIXEL_MEAN": IMAGENET.mean,
    "MODEL__PIXEL_STD": IMAGENET.std,
}
RESNET = {"NAME": "TorchvisionBackbone", "MODEL": "resnet18", "LAYERS": [f"layer{n}" for n in range(1, 5)]}
VGG = {"NAME": "VGG", "WIDTH": 0.5, "LEVELS": [f"conv{n}" for n in range(2, 6)]}


@pytest.fixture(scope="module")
def torchvision_fpn():
    """torchvision's Faster R-CNN with the feature pyramid of a ResNet-18."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head, predictor = TwoMLPHead(256 * 49, 8), FastRCNNPredictor(8, 4)
    return FasterRCNN(backbone, rpn_anchor_generator=anchors, box_head=head, box_predictor=predictor).eval()


@pytest.mark.parametrize("is_old", [False, True])
def test_torchvision_s_faster_rcnn_with_a_feature_pyramid(torchvision_fpn, saved, narrow_model, is_old):
    state = torchvision_fpn.state_dict()
    if is_old:  # the names of torchvision before 0.13, which the published weights still have
        old = {name: re.sub(r"(_blocks\.\d|head\.conv)\.0(\.0)?\.(\w+)$", r"\1.\3", name) for name in state}
        assert old["backbone.fpn.inner_blocks.0.0.weight"] == "backbone.fpn.inner_blocks.0.weight"
        assert old["rpn.head.conv.0.0.weight"] == "rpn.head.conv.weight"
        state = {old[name]: value for name, value in state.items()}
    ours = narrow_model(**PYRAMID, MODEL__BACKBONE={"NAME": "FPN", "BOTTOM_UP": RESNET})
    report = load_weights(ours, saved(state), complete=True)
    assert not report.ignored and report.matched == 1
    image, boxes = torch.rand(3, 64, 128), torch.tensor([[5.0, 6, 40, 50], [0, 0, 128, 64]])
    with torch.no_grad():
        features = torchvision_fpn.backbone(torchvision_fpn.transform.normalize(image)[None])
        for level, expected in zip(ours.features([image]), features.values(), strict=True):
            torch.testing.assert_close(level, expected, atol=1e-4, rtol=1e-3)
        their_boxes = torchvision_fpn.roi_heads.box_roi_pool(features, [boxes], [(64, 128)])
        torch.testing.assert_close(ours.roi_heads.pooler(list(features.values()), [boxes]), their_boxes)


def test_a_detector_s_file_whose_backbone_does_not_fit_is_an_error(torchvision_fpn, saved, narrow_model):
    model = narrow_model(**PYRAMID, MODEL__BACKBONE={"NAME": "FPN", "BOTTOM_UP": VGG})
    path = saved(torchvision_fpn.state_dict())
    report = load_weights(model, path, min_match=0)
    assert {"rpn.head.conv.weight", "roi_heads.box_head.fc6.weight"} <= report.loaded.keys()
    backbone = [name for name in report.reinitialized if name.startswith("backbone.bottom_up.")]
    missing = sum(count for count, _ in report.reinitialized.values())
    total = sum(value.numel() for name, value in model.state_dict().items() if "predictor" not in name)
    assert len(backbone) == 26 and report.matched == pytest.approx(1 - missing / total)
    with pytest.raises(UserError, match="only .*% of the parameters that such weights should provide fit the model"):
        load_weights(model, path)


@pytest.mark.parametrize(
    "missing, part",
    [
        ("backbone.body.", "backbone.bottom_up"),
        ("backbone.fpn.", "backbone.pyramid"),
        ("rpn.", "rpn.head"),
        ("roi_heads.box_head.", "roi_heads.box_head"),
    ],
)
def test_a_torchvision_detector_s_file_without_a_part_is_an_error_that_names_it(
    missing, part, torchvision_fpn, saved, narrow_model
):
    state = {name: value for name, value in torchvision_fpn.state_dict().items() if not name.startswith(missing)}
    model = narrow_model(**PYRAMID, MODEL__BACKBONE={"NAME": "FPN", "BOTTOM_UP": RESNET})
    with pytest.raises(UserError, match=rf"that such weights should provide fit the model \({part} 0\.0%\); at least"):
        load_weights(model, saved(state))


STAGES = {2: (3, 64), 3: (4, 128), 4: (6, 256), 5: (3, 512)}  # of ResNet-50: blocks, and channels of their 3 x 3


def detectron2_state(kind, num_classes):
    """The tensors of detectron2's Faster R-CNN R50-FPN or R50-C4, by its names, all different."""
    shapes = {}

    def convolution(name, size, in_channels, out_channels):
        shapes[f"{name}.weight"] = (out_channels, in_channels, size, size)
        for value in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{value}"] = (out_channels,)

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    bottom_up = "backbone.bottom_up." if kind == "fpn" else "backbone."
    convolution(f"{bottom_up}stem.conv1", 7, 3, 64)
    in_channels = 64
    for stage, (count, width) in STAGES.items():
        name = "roi_heads.res5" if stage == 5 and kind == "c4" else f"{bottom_up}res{stage}"
        for block in range(count):
            convolution(f"{name}.{block}.conv1", 1, in_channels, width)
            convolution(f"{name}.{block}.conv2", 3, width, width)
            convolution(f"{name}.{block}.conv3", 1, width, 4 * width)
            if not block:
                convolution(f"{name}.0.shortcut", 1, in_channels, 4 * width)
            in_channels = 4 * width
        if kind == "fpn":
            layer(f"backbone.fpn_lateral{stage}", 256, in_channels, 1, 1)
            layer(f"backbone.fpn_output{stage}", 256, 256, 3, 3)
    channels, anchors, features = (256, 3, 1024) if kind == "fpn" else (1024, 15, 2048)
    layer("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", anchors, channels, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", anchors * 4, channels, 1, 1)
    if kind == "fpn":
        layer("roi_heads.box_head.fc1", 1024, 256 * 49)
        layer("roi_heads.box_head.fc2", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", num_classes + 1, features)
    layer("roi_heads.box_predictor.bbox_pred", num_classes * 4, features)
    return {name: torch.full((), float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


# Some of detectron2's names, with our modules for them.
PLACES = {
    "fpn": {
        "backbone.bottom_up.stem.conv1.weight": "backbone.bottom_up.body.conv1.weight",
        "backbone.bottom_up.stem.conv1.norm.running_var": "backbone.bottom_up.body.bn1.running_var",
        "backbone.bottom_up.res3.0.shortcut.weight": "backbone.bottom_up.body.layer2.0.downsample.0.weight",
        "backbone.bottom_up.res5.2.conv3.norm.bias": "backbone.bottom_up.body.layer4.2.bn3.bias",
        "backbone.fpn_lateral2.weight": "backbone.pyramid.inner_blocks.0.0.weight",
        "backbone.fpn_output5.bias": "backbone.pyramid.layer_blocks.3.0.bias",
        "proposal_generator.rpn_head.conv.bias": "rpn.head.conv.bias",
        "roi_heads.box_head.fc1.weight": "roi_heads.box_head.fc6.weight",
        "roi_heads.box_head.fc2.weight": "roi_heads.box_head.fc7.weight",
    },
    "c4": {
        "backbone.stem.conv1.weight": "backbone.body.conv1.weight",
        "backbone.res2.0.shortcut.norm.running_mean": "backbone.body.layer1.0.downsample.1.running_mean",
        "backbone.res4.5.conv2.weight": "backbone.body.layer3.5.conv2.weight",
        "roi_heads.res5.0.shortcut.weight": "roi_heads.box_head.layer4.0.downsample.0.weight",
        "roi_heads.res5.2.conv1.norm.weight": "roi_heads.box_head.layer4.2.bn1.weight",
        "proposal_generator.rpn_head.objectness_logits.weight": "rpn.head.logits.weight",
        "proposal_generator.rpn_head.anchor_deltas.weight": "rpn.head.deltas.weight",
    },
}


@pytest.mark.parametrize("kind", PLACES)
def test_detectron2_s_detectors_fill_every_parameter_and_the_background_s_row_comes_first(kind):
    config = Path(__file__).parents[2] / f"configs/detectron2/faster_rcnn_r50_{kind}.yaml"
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.CLASSES", ["circle", "square"]])
    model = build_model(cfg, initialize=False)
    state = detectron2_state(kind, num_classes=2)
    prefix = "roi_heads.box_predictor."
    features = state[f"{prefix}cls_score.weight"].shape[1]
    state[f"{prefix}cls_score.bias"] = torch.tensor([1.0, 2, 0])  # circle, square, background
    state[f"{prefix}cls_score.weight"] = torch.tensor([1.0, 2, 0])[:, None].expand(3, features)
    state[f"{prefix}bbox_pred.bias"] = torch.arange(8.0)  # dx, dy, dw, dh of circle, then of square
    content = {"model": state, "optimizer": {"state": {}}, "iteration": 9}
    report = load_weights(model, weights_in(content, "model_final.pth"), complete=True)
    assert report.matched == 1 and not report.ignored and "detectron2's Faster R-CNN" in report.heading

    ours = model.state_dict()
    for theirs, place in PLACES[kind].items():
        assert ours[place].shape == state[theirs].shape and (ours[place] == state[theirs]).all(), theirs
    logits, deltas = model.roi_heads.predictor(torch.zeros(1, features))
    assert logits.tolist() == [[0, 1, 2]]  # the background is our class 0
    assert model.roi_heads.predictor.logits.weight[:, 0].tolist() == [0, 1, 2]
    labels = torch.tensor([1, 2])
    class_deltas = deltas[0, model.roi_heads._box_index(labels, deltas.shape[1])]
    assert class_deltas.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]

    # The strides are in 1 x 1 convolutions: a stage reads every second cell.
    body = model.backbone.body if kind == "c4" else model.backbone.bottom_up.body
    last_stage = model.roi_heads.box_head.layer4 if kind == "c4" else body.layer4
    for stage, channels in ((body.layer2, 256), (last_stage, 1024)):
        block = getattr(stage, "0")
        cells = torch.rand(1, channels, 4, 4)
        changed = cells.clone()
        changed[:, :, 1::2] += 1
        features = [block.conv2(block.conv1(image)) for image in (cells, changed)]
        assert features[0].shape[2:] == (2, 2) and torch.equal(*features)

    # Data with other classes leaves the predictor random, and nothing else. A missing part is an error that names it.
    other = weights_in(detectron2_state(kind, num_classes=3), "model_final.pth")
    report = load_weights(model, other)
    assert {name.rpartition(".")[0] for name in report.reinitialized} == {
        "roi_heads.predictor.logits",
        "roi_heads.predictor.deltas",
    }
    parts = {"proposal_generator.": "rpn.head", "backbone.bottom_up.": "backbone.bottom_up"}
    parts |= {"backbone.fpn_": "backbone.pyramid", "roi_heads.box_head.": "roi_heads.box_head"}
    if kind == "c4":
        parts = {"proposal_generator.": "rpn.head", "backbone.": "backbone.body", "roi_heads.": "roi_heads.box_head"}
    for missing, part in parts.items():
        rest = {name: value for name, value in other.state.items() if not name.startswith(missing)}
        with pytest.raises(UserError, match=rf"such weights should provide fit the model \({part} 0\.0%\); at least"):
            load_weights(model, weights_in(rest, "model_final.pth"))


def test_no_two_layouts_take_each_other_s_files(narrow_model):
    names = {
        "detectron2's Faster R-CNN": {"roi_heads.box_predictor.cls_score.bias", "backbone.fpn_lateral2.weight"},
        "torchvision's FasterRCNN": {"backbone.0.weight", "rpn.head.cls_logits.weight"},
        "torchvision's VGG": {"features.0.weight", "classifier.0.weight"},
        "Caffe's VGG": {"conv1_1/W", "conv1_1/b", "fc6/W"},
        "detlite's own": set(narrow_model().state_dict()),
    }
    assert list(names) == [layout.title for layout in LAYOUTS]
    for title, of_file in names.items():
        assert find_layout(of_file).title == title


def test_a_backbone_s_own_weights_a_wrapper_s_and_those_of_other_tools_find_their_place(saved, narrow_model):
    first = narrow_model()
    images = torch.randn(1, 3, 32, 32)
    expected = first.backbone(images)["conv5"]
    for name, content in {
        "backbone.pth": first.backbone.state_dict(),
        "wrapped.pth": {f"module.{key}": value for key, value in first.state_dict().items()},
        "nested.pth": {"state_dict": first.state_dict(), "epoch": 3},
        "double.pth": {key: value.double() for key, value in first.state_dict().items()},
    }.items():
        second = narrow_model()
        assert not torch.equal(second.backbone(images)["conv5"], expected)
        load_weights(second, saved(content, name))
        assert torch.equal(second.backbone(images)["conv5"], expected), name
