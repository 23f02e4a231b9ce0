"""Pixel statistics are stored with weights. A config that contradicts them gets a warning and a converted layer."""

import pytest
import torch
from torch import nn

from detlite.checkpoint import agree_on_pixels, load_weights, read_weights
from detlite.checkpoint.pixel_statistics import (
    CAFFE,
    IMAGENET,
    Pixels,
    convert_first_layer,
    pixels_of,
    recognize_caffe,
)
from detlite.errors import UserError

ODD = Pixels((10.0, 20.0, 30.0), (2.0, 3.0, 4.0), "BGR")


def normalized(image, pixels):
    """(3, H, W) RGB 0-255 as a network takes it, spelled out channel by channel."""
    channels = [image["RGB".index(letter)] for letter in pixels.channel_order]
    return torch.stack([(c - m) / s for c, m, s in zip(channels, pixels.mean, pixels.std, strict=True)])


@pytest.mark.parametrize("trained", [CAFFE, IMAGENET, ODD])
@pytest.mark.parametrize("wanted", [CAFFE, IMAGENET, ODD])
def test_a_converted_first_layer_gives_the_same_from_the_other_pixels(trained, wanted):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 12, 15, generator=generator) * 255
    layer, converted = nn.Conv2d(3, 5, 3).double(), nn.Conv2d(3, 5, 3)
    converted.weight.data, converted.bias.data = convert_first_layer(layer.weight, layer.bias, trained, wanted)
    expected = layer(normalized(image.double(), trained))
    torch.testing.assert_close(converted(normalized(image, wanted)).double(), expected, atol=1e-3, rtol=1e-4)


def test_with_one_mean_the_conversion_is_exact_up_to_the_padded_border():
    wanted = Pixels(CAFFE.mean[::-1], IMAGENET.std, "RGB")
    image = torch.rand(3, 9, 8, generator=torch.Generator().manual_seed(0)) * 255
    layer, converted = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
    converted.weight.data, converted.bias.data = convert_first_layer(layer.weight, layer.bias, CAFFE, wanted)
    assert torch.equal(converted.bias, layer.bias)
    torch.testing.assert_close(converted(normalized(image, wanted)), layer(normalized(image, CAFFE)))


def test_the_readme_formula_of_caffe_weights_for_torchvision_pixels():
    weight = torch.randn(4, 3, 3, 3)
    converted, bias = convert_first_layer(weight, None, CAFFE, Pixels(CAFFE.mean[::-1], IMAGENET.std, "RGB"))
    std = torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(converted, weight.flip(1) * (255 * std)[None, :, None, None])
    assert bias is None


def test_without_a_bias_another_mean_cannot_be_taken_up():
    with pytest.raises(UserError, match="without bias"):
        convert_first_layer(torch.zeros(4, 3, 3, 3), None, CAFFE, IMAGENET)


def original_vgg16():
    """A first layer that begins as the published VGG16 does: conv1_1's first filter, upper left, B, G, R."""
    weight = torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    weight[0, :, 0, 0] = torch.tensor([0.42947, 0.55037, 0.48003])
    return weight


def test_the_original_vgg16_is_known_by_its_first_filter_in_whatever_convention():
    weight = original_vgg16()
    assert recognize_caffe(weight) == recognize_caffe(weight.half()) == CAFFE
    assert recognize_caffe(weight.flip(1)) == Pixels((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), "RGB")
    assert recognize_caffe(convert_first_layer(weight, None, CAFFE, CAFFE)[0]) == CAFFE
    std = torch.tensor(IMAGENET.std)[None, :, None, None]
    assert recognize_caffe(weight.flip(1) * std) == IMAGENET
    assert recognize_caffe(torch.randn(64, 3, 3, 3)) is None
    assert recognize_caffe(torch.randn(8, 3, 3, 3)) is None
    assert recognize_caffe(None) is None


def test_a_caffe_file_gives_from_rgb_the_features_of_its_own_convention_from_bgr(saved, narrow_config, narrow_model):
    """One picture in a detector with Caffe's pixel statistics, and in two detectors with other statistics."""
    opts = {"MODEL__BACKBONE__WIDTH": 1, "MODEL__BACKBONE__DEPTH": 11}
    model = narrow_model(**opts)
    state = model.backbone.state_dict()
    state["features.0.weight"] = original_vgg16()
    state["features.0.bias"] = torch.randn(64)
    path = saved(state)
    assert read_weights(path).pixels == CAFFE

    cfg = agree_on_pixels(narrow_config(**opts), read_weights(path))
    assert pixels_of(cfg.MODEL) == CAFFE
    model.pixel_mean.copy_(torch.tensor(CAFFE.mean)[:, None, None])
    load_weights(model, path)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.features([image])[0]
        bgr = (image.flip(0) - torch.tensor([103.939, 116.779, 123.68])[:, None, None])[None]
        torch.testing.assert_close(model.backbone(bgr)["conv5"], expected)
        for mean, std in (
            ([123.68, 116.779, 103.939], [1, 1, 1]),
            ([123.68, 116.779, 103.939], [58.395, 57.12, 57.375]),
        ):
            other = narrow_model(MODEL__CHANNEL_ORDER="RGB", MODEL__PIXEL_MEAN=mean, MODEL__PIXEL_STD=std, **opts)
            load_weights(other, path)
            scale = float(expected.max())
            torch.testing.assert_close(other.features([image])[0] / scale, expected / scale, atol=1e-5, rtol=0)


@pytest.fixture
def imagenet_file(saved, narrow_model):
    return saved({"model": narrow_model().state_dict(), **IMAGENET.entries()})


def test_statistics_that_no_layer_set_are_the_weights_own(imagenet_file, narrow_config, log):
    cfg = agree_on_pixels(narrow_config(), read_weights(imagenet_file))
    assert pixels_of(cfg.MODEL) == IMAGENET
    assert cfg.MODEL.sources["PIXEL_MEAN"] == str(imagenet_file)
    assert "CHANNEL_ORDER: RGB" in cfg.dump()
    assert log == []


def test_a_config_that_sets_one_of_them_keeps_all_and_is_told(imagenet_file, narrow_config, log):
    cfg = narrow_config(MODEL__CHANNEL_ORDER="BGR")
    assert pixels_of(agree_on_pixels(cfg, read_weights(imagenet_file)).MODEL) == pixels_of(cfg.MODEL)
    assert len(log) == 1 and "The first convolution is converted" in log[0][1]


def test_a_config_that_agrees_hears_nothing_even_where_the_recipes_differ_by_a_gray_level(saved, narrow_config, log):
    path = saved({"conv1_1.weight": torch.zeros(1)})
    cfg = narrow_config(
        MODEL__PIXEL_MEAN=[102.9801, 115.9465, 122.7717], MODEL__PIXEL_STD=[1, 1, 1], MODEL__CHANNEL_ORDER="BGR"
    )
    assert agree_on_pixels(cfg, read_weights(path)).MODEL.PIXEL_MEAN == [102.9801, 115.9465, 122.7717]
    assert log == []


def test_a_config_that_contradicts_is_told_both_sides_and_where_it_said_so(imagenet_file, narrow_config, log):
    cfg = narrow_config(MODEL__PIXEL_MEAN=[0, 0, 0], MODEL__PIXEL_STD=[255, 255, 255], MODEL__CHANNEL_ORDER="RGB")
    weights = read_weights(imagenet_file)
    assert agree_on_pixels(cfg, weights).MODEL.PIXEL_STD == [255, 255, 255]
    [(level, text)] = log
    assert level == "WARNING" and "command line" in text and str(imagenet_file) in text
    assert "[255.0, 255.0, 255.0]" in text and "[58.395, 57.12, 57.375]" in text and "converted" in text
    with pytest.raises(UserError, match="was trained with RGB"):
        agree_on_pixels(cfg, weights, exact=True)


def test_weights_that_say_nothing_take_what_the_config_says_and_the_log_tells_which(saved, narrow_config, log):
    weights = read_weights(saved({"features.0.weight": torch.zeros(4, 3, 3, 3)}))
    assert weights.pixels is None
    agree_on_pixels(narrow_config(), weights)
    agree_on_pixels(narrow_config(MODEL__CHANNEL_ORDER="RGB"), weights)
    assert [level for level, _ in log] == ["WARNING", "INFO"]
    assert "102.9801" in log[0][1] and "RGB, mean [102.9801" in log[1][1]


def test_converting_a_whole_detector_changes_nothing_but_its_first_layer(imagenet_file, narrow_model):
    same = narrow_model(MODEL__CHANNEL_ORDER="RGB", MODEL__PIXEL_MEAN=IMAGENET.mean, MODEL__PIXEL_STD=IMAGENET.std)
    other = narrow_model(MODEL__CHANNEL_ORDER="BGR", MODEL__PIXEL_MEAN=IMAGENET.mean[::-1], MODEL__PIXEL_STD=[1, 1, 1])
    for model in (same, other):
        load_weights(model, imagenet_file)
    different = [name for name, value in same.state_dict().items() if not torch.equal(value, other.state_dict()[name])]
    assert different == ["backbone.features.0.weight"]
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(other.features([image])[0], same.features([image])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "mean", [torch.ones(3, 2), torch.ones(3, device="meta"), [10**400] * 3, "abc", 1, [1, 2], [0, 0, float("nan")]]
)
def test_a_mean_that_is_not_three_numbers_is_refused(mean):
    with pytest.raises(UserError, match="must be three numbers each"):
        pixels_of({"pixel_mean": mean, "pixel_std": [1, 1, 1], "channel_order": "RGB"})
