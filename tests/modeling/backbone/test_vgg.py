import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import FrozenBatchNorm2d

from detlite.errors import UserError
from detlite.modeling.backbone.vgg import VGG
from detlite.ops import max_pool
from detlite.registry import BACKBONES

TORCHVISION = {11: cfgs["A"], 13: cfgs["B"], 16: cfgs["D"], 19: cfgs["E"]}


def num_parameters(module, trainable=(True, False)):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad in trainable)


@pytest.mark.parametrize("norm", ["none", "BatchNorm", "FrozenBatchNorm"])
@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_torchvisions_weights_load_as_they_are_and_give_its_features(depth, norm):
    layers = [width if width == "M" else width // 8 for width in TORCHVISION[depth]]
    theirs = make_layers(layers, batch_norm=norm != "none")[:-1].eval()  # without the last max-pooling
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) if "running_var" in name else torch.randn(value.shape) / 10)
    ours = VGG(depth=depth, norm=norm, width=1 / 8).eval()
    ours.features.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 48, 80)
    features = ours(images)
    assert list(features) == list(ours.channels) == list(ours.strides) == ["conv5"]
    assert features["conv5"].shape == (2, ours.channels["conv5"], 48 // ours.strides["conv5"], 80 // 16)
    torch.testing.assert_close(features["conv5"], theirs(images), atol=1e-5, rtol=1e-5)


def test_the_first_two_stages_hold_260160_of_14714688_parameters():
    with torch.device("meta"):
        model = VGG(depth=16, freeze_at=2)
    assert num_parameters(model) == 14_714_688
    assert num_parameters(model, trainable=(False,)) == 260_160


@pytest.mark.parametrize("norm", ["none", "BatchNorm"])
@pytest.mark.parametrize("freeze_at", [0, 1, 5])
def test_frozen_stages_and_no_others_stay_as_they_were(freeze_at, norm):
    model = VGG(depth=11, norm=norm, freeze_at=freeze_at, width=1 / 16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(2, 3, 64, 64))["conv5"].square().sum()
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
    stage = 1
    for index, layer in enumerate(model.features):
        if isinstance(layer, torch.nn.MaxPool2d):
            stage += 1
        for name, value in layer.state_dict().items():
            same = torch.equal(value, before[f"features.{index}.{name}"])
            frozen = stage <= freeze_at
            # A bias in front of a BatchNorm cancels out: it has no gradient to speak of.
            if frozen or not (norm == "BatchNorm" and isinstance(layer, torch.nn.Conv2d) and name == "bias"):
                assert same == frozen, (stage, type(layer).__name__, name)


def test_frozen_batch_norm_has_no_parameters_and_keeps_its_statistics():
    model = VGG(depth=11, norm="FrozenBatchNorm", freeze_at=0, width=1 / 16).train()
    assert sum(isinstance(layer, FrozenBatchNorm2d) for layer in model.features) == 8
    before = [buffer.clone() for buffer in model.buffers()]
    model(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(*pair) for pair in zip(before, model.buffers(), strict=True))


def test_a_tiny_width_leaves_at_least_one_channel():
    assert VGG(depth=11, width=0.001).channels == {"conv5": 1}


@pytest.mark.parametrize("keys", [{"FREEZE_AT": 6}, {"FREEZE_AT": -1}, {"WIDTH": 0}])
def test_impossible_values_are_refused(keys):
    with pytest.raises(UserError, match=next(iter(keys)).lower()):
        BACKBONES.build({"NAME": "VGG", **keys})


@pytest.mark.parametrize("levels", [["conv5"], ["conv2", "conv4", "conv5"]])
@pytest.mark.parametrize("norm", ["none", "BatchNorm"])
@pytest.mark.parametrize("numbers", [max_pool.LARGEST_BAND, 2 * 8 * 53 * 23])
def test_without_gradient_the_features_are_those_of_the_plain_sequence(levels, norm, numbers, monkeypatch):
    """ReLU after pooling, pooling in place and in bands, and sides that are no multiples of 16, change nothing."""
    monkeypatch.setattr(max_pool, "LARGEST_BAND", numbers)
    backbone = VGG(width=0.125, freeze_at=0, levels=levels, norm=norm).eval()
    images = torch.randn(2, 3, 70, 53)
    plain, ends = images, {f"conv{n}": None for n in range(1, 6)}
    for layer in backbone.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            ends[next(name for name, value in ends.items() if value is None)] = plain
        plain = layer(plain).clone()
    ends["conv5"] = plain
    with torch.no_grad():
        found = backbone(images)
    assert list(found) == levels
    for level in levels:
        torch.testing.assert_close(found[level], ends[level])


@pytest.mark.parametrize(("height", "bands", "expected"), [(15, 1, 1), (15, 2, 2), (20, 3, 3), (8, 3, 2), (1, 1, 1)])
def test_no_rows_are_left_over_for_another_band(height, bands, expected, monkeypatch):
    """Each band reads all weights, and an odd last row is in no pooling window."""
    stage = list(VGG(width=0.125).features[:4])
    images = torch.randn(1, 3, height, 16)
    monkeypatch.setattr(max_pool, "LARGEST_BAND", 8 * height * 16 // bands + 1)
    calls = []
    stage[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        max_pool.conv_max_pool(stage, images)
    assert len(calls) == expected


def test_batch_norm_in_training_sees_whole_maps_also_without_gradient(monkeypatch):
    backbone = VGG(width=0.125, freeze_at=0, norm="BatchNorm").train()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = backbone(images)["conv5"]
        monkeypatch.setattr(max_pool, "LARGEST_BAND", 2**8)
        assert torch.equal(backbone(images)["conv5"], expected)
