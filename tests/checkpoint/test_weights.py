"""A table reports what became of every tensor. Weights that do not fit are an error, unless the caller accepts them."""

import numpy as np
import pytest
import torch

from detlite.checkpoint import load_weights, read_weights
from detlite.cli import main
from detlite.errors import UserError

# Convolutions of the narrow VGG16, by arithmetic: weights and biases.
CHANNELS = [3, 4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32]
BACKBONE = sum(9 * a * b + b for a, b in zip(CHANNELS[:-1], CHANNELS[1:], strict=True))
RPN = (9 * 32 * 16 + 16) + (16 * 18 + 18) + (16 * 36 + 36)
BOX_HEAD = (32 * 49 * 8 + 8) + (8 * 8 + 8)
PREDICTOR = (8 * 4 + 4) + (8 * 16 + 16)  # 3 classes
PYRAMID = {"NAME": "FPN", "OUT_CHANNELS": 32, "EXTRA_LEVEL": False, "BOTTOM_UP": {"LEVELS": ["conv5"], "WIDTH": 0.0625}}


def test_all_of_a_detector_s_weights_come_back(saved, narrow_model):
    first, second = narrow_model(), narrow_model()
    report = load_weights(second, saved({"model": first.state_dict()}), complete=True)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert report.matched == 1
    assert report.rows() == [
        ["loaded", "backbone.features", 26, f"{BACKBONE:,}", ""],
        ["loaded", "rpn.head", 6, f"{RPN:,}", ""],
        ["loaded", "roi_heads.box_head", 4, f"{BOX_HEAD:,}", ""],
        ["loaded", "roi_heads.predictor", 4, f"{PREDICTOR:,}", ""],
    ]


def test_the_table_says_what_was_loaded_left_and_ignored_and_why(saved, narrow_model):
    first, second = narrow_model(), narrow_model(MODEL__ROI_HEADS__BOX_HEAD__FC_DIM=4)
    state = first.backbone.state_dict()
    state |= {"classifier.0.weight": torch.zeros(8, 1568), "classifier.0.bias": torch.zeros(8)}
    state |= {"classifier.6.weight": torch.zeros(1000, 8), "classifier.6.bias": torch.zeros(1000)}
    fc7 = (4 * 4 + 4, "not in the file")
    report = load_weights(second, saved(state))
    assert report.matched == 1  # of the backbone: a classification net's head is welcome, not expected
    assert report.ignored == {
        "classifier.6.weight": (8000, "the model has no such part"),
        "classifier.6.bias": (1000, "the model has no such part"),
    }
    left = report.reinitialized
    assert left["roi_heads.box_head.fc6.weight"] == (
        4 * 1568,
        "different shape: (8, 1568) in the file, (4, 1568) in the model",
    )
    assert left["roi_heads.box_head.fc7.weight"][0] + left["roi_heads.box_head.fc7.bias"][0] == fc7[0]
    rows = {tuple(row[:2]) for row in report.rows()}
    assert ("loaded", "backbone.features") in rows and ("ignored", "classifier") in rows
    lines = str(report).split("\n")
    assert lines[0].startswith(str(read_weights(saved(state)).source)) and "torchvision's VGG" in lines[0]
    assert len(lines) < 12
    assert any("ignored" in line and "9,000" in line for line in lines)


def test_another_number_of_classes_leaves_the_predictor_new_and_says_so(saved, narrow_model):
    path = saved({"model": narrow_model().state_dict(), "classes": ["circle", "square", "triangle"]})
    second = narrow_model(MODEL__CLASSES=["cat", "dog"])
    before = second.roi_heads.predictor.logits.weight.clone()
    report = load_weights(second, path)
    assert torch.equal(second.roi_heads.predictor.logits.weight, before)
    assert report.matched == 1 and report.loaded.keys().isdisjoint(report.reinitialized)
    assert {name for name in report.reinitialized} == {
        f"roi_heads.predictor.{layer}.{kind}" for layer in ("logits", "deltas") for kind in ("weight", "bias")
    }
    assert "re-initialized  roi_heads.predictor" in str(report)
    assert "different number of classes: (4, 8) in the file, (3, 8) in the model" in str(report)
    assert "classes circle, square, triangle" in str(report)
    with pytest.raises(UserError, match="some of the model's parameters are missing(.|\n)*different number of classes"):
        load_weights(second, path, complete=True)


def test_a_predictor_of_another_width_is_not_said_to_be_of_other_classes(saved, narrow_model):
    path = saved(narrow_model(MODEL__ROI_HEADS__BOX_HEAD__FC_DIM=4).state_dict())
    text = str(load_weights(narrow_model(), path, min_match=0))
    assert "different shape: (4, 4) in the file, (4, 8) in the model" in text and "number of classes" not in text


def test_weights_that_do_not_fit_are_an_error_unless_asked_for(saved, narrow_model):
    state = {f"features.{name}": value for name, value in narrow_model().backbone.features.state_dict().items()}
    half = {name: value for name, value in state.items() if int(name.split(".")[1]) < 24}
    kept = BACKBONE - 3 * (9 * 32 * 32 + 32)  # conv5 is missing
    path = saved(half)
    model = narrow_model()
    with pytest.raises(UserError) as error:
        load_weights(model, path)
    assert f"only {kept / BACKBONE:.1%} of the parameters" in str(error.value)
    assert "MODEL.MIN_WEIGHTS_MATCH" in str(error.value) and "re-initialized" in str(error.value)
    assert load_weights(model, path, min_match=0).matched == pytest.approx(kept / BACKBONE)
    assert load_weights(model, path, min_match=kept / BACKBONE).matched == pytest.approx(kept / BACKBONE)


@pytest.mark.parametrize(
    "changes",
    [
        {"MODEL__BACKBONE": PYRAMID},
        {"MODEL__BACKBONE": {"NAME": "TorchvisionBackbone", "MODEL": "resnet18"}},
        {"MODEL__ROI_HEADS__NAME": "CascadeRoIHeads"},
    ],
)
def test_a_detector_s_weights_without_a_part_of_the_model_are_an_error(saved, narrow_model, changes):
    path, model = saved(narrow_model().state_dict()), narrow_model(**changes)
    report = load_weights(model, path, min_match=0)
    state = {name: value.numel() for name, value in model.state_dict().items() if "predictor" not in name}
    loaded = sum(count for name, count in report.loaded.items() if name in state)
    assert report.matched == pytest.approx(loaded / sum(state.values())) and 0 < report.matched < 0.9
    with pytest.raises(UserError, match="only .*% of the parameters that such weights should provide fit the model"):
        load_weights(model, path)


def test_a_classification_net_of_another_backbone_is_an_error_though_its_head_fits(saved, narrow_model):
    state = narrow_model().backbone.state_dict()
    state |= {"classifier.3.weight": torch.zeros(8, 8), "classifier.3.bias": torch.zeros(8)}
    other = narrow_model(MODEL__BACKBONE={"NAME": "TorchvisionBackbone", "MODEL": "resnet18"})
    with pytest.raises(UserError, match=r"only 0\.0% of the parameters that such weights should provide fit the model"):
        load_weights(other, saved(state))


def test_a_classification_net_needs_only_the_net_below_a_pyramid(saved, narrow_model):
    report = load_weights(narrow_model(MODEL__BACKBONE=PYRAMID), saved(narrow_model().backbone.state_dict()))
    assert report.matched == 1 and sum(report.loaded.values()) == BACKBONE


def test_train_test_and_check_alike_refuse_weights_that_leave_the_backbone_random(checkpoint, tiny_opts, capsys):
    path = checkpoint()
    opts = [str(word).replace("BACKBONE.", "BACKBONE.BOTTOM_UP.") for word in tiny_opts(MODEL__WEIGHTS=str(path))]
    opts += ["MODEL.BACKBONE.NAME", "FPN", "MODEL.BACKBONE.BOTTOM_UP.LEVELS", "[conv5]"]
    opts += ["MODEL.BACKBONE.EXTRA_LEVEL", "false", "MODEL.BACKBONE.OUT_CHANNELS", "32"]
    for command, message in (
        (["train"], "of the parameters that such weights should provide fit the model"),
        (["check"], "of the parameters that such weights should provide fit the model"),
        (["test", "--weights", str(path)], "some of the model's parameters are missing"),
    ):
        assert main([*command, *opts]) == 1
        assert message in "".join(capsys.readouterr())


def test_an_error_leaves_the_model_as_it_was(saved, narrow_model):
    model = narrow_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = narrow_model(MODEL__BACKBONE__DEPTH=11)
    with pytest.raises(UserError):
        load_weights(model, saved(other.backbone.state_dict()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("min_match", [0, 0.9])
def test_nothing_that_fits_is_always_an_error(saved, narrow_model, min_match):
    with pytest.raises(UserError, match="none of its parameters fits the model"):
        load_weights(narrow_model(), saved({"layer1.weight": torch.zeros(3)}), min_match=min_match)


@pytest.mark.parametrize("content", [{}, [1, 2], torch.zeros(3), {"step": 3}, {"model": {}}])
def test_a_file_without_weights_is_an_error(saved, content):
    with pytest.raises(UserError, match=r"weights\.pth: holds no weights"):
        read_weights(saved(content))


@pytest.mark.parametrize("in_file, in_model", [("BatchNorm", "none"), ("none", "BatchNorm")])
def test_batch_norm_in_only_one_of_both_is_named_as_the_likely_cause(saved, narrow_model, in_file, in_model):
    path = saved(narrow_model(MODEL__BACKBONE__NORM=in_file).backbone.state_dict())
    with pytest.raises(UserError, match=r"has BatchNorm, .* does not: set MODEL\.BACKBONE\.NORM"):
        load_weights(narrow_model(MODEL__BACKBONE__NORM=in_model), path)


def test_weights_that_are_not_finite_are_left_out_as_of_torchvision_s_features_only_set(saved, narrow_model):
    model = narrow_model()
    state = model.backbone.state_dict()
    state |= {"classifier.0.weight": torch.full((8, 1568), torch.nan), "classifier.0.bias": torch.full((8,), torch.nan)}
    report = load_weights(model, saved(state))
    assert report.matched == 1
    assert report.reinitialized["roi_heads.box_head.fc6.weight"] == (8 * 1568, "not finite in the file")
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_integers_do_not_become_weights(saved, narrow_model):
    state = {name: value.to(torch.int8) for name, value in narrow_model().backbone.state_dict().items()}
    with pytest.raises(UserError, match=r"torch\.int8 in the file, torch\.float32 in the model"):
        load_weights(narrow_model(), saved(state))


def test_half_precision_npz_arrays_are_loaded(tmp_path, narrow_model):
    first, second = narrow_model(), narrow_model()
    state = {name: value.half().numpy() for name, value in first.backbone.state_dict().items()}
    np.savez(tmp_path / "x.npz", **state)
    load_weights(second, tmp_path / "x.npz")
    assert second.backbone.features[0].weight.dtype == torch.float32
    assert torch.equal(second.backbone.features[0].weight, first.backbone.features[0].weight.half().float())


def test_the_batch_count_that_only_some_batch_norms_have_is_no_one_s_business(saved, narrow_model):
    first = narrow_model(MODEL__BACKBONE__NORM="BatchNorm")
    second = narrow_model(MODEL__BACKBONE__NORM="FrozenBatchNorm")
    report = load_weights(second, saved(first.state_dict()), complete=True)
    assert not report.ignored and not report.reinitialized
    load_weights(first, saved(second.state_dict()), complete=True)


@pytest.mark.parametrize(
    "entry",
    [
        {"classes": "cat"},
        {"pixel_mean": [1, 2], "pixel_std": [1, 1, 1], "channel_order": "RGB"},
        {"pixel_mean": [1, 2, float("nan")], "pixel_std": [1, 1, 1], "channel_order": "RGB"},
        {"pixel_mean": [1, 2, 3], "pixel_std": [1, 1, float("nan")], "channel_order": "RGB"},
        {"pixel_mean": [1, 2, 3], "pixel_std": [1, float("inf"), 1], "channel_order": "RGB"},
    ],
)
def test_what_a_file_says_about_itself_is_checked(saved, entry):
    with pytest.raises(UserError, match=r"weights\.pth: .*(classes|pixel_mean)"):
        read_weights(saved({"model": {"x": torch.zeros(1)}, **entry}))


def test_names_that_are_no_text_are_no_weights(saved):
    state = {"x": torch.zeros(1), 3: torch.zeros(1), None: torch.zeros(1), ("a", 1): torch.zeros(1)}
    assert list(read_weights(saved(state)).state) == ["x"]
    assert list(read_weights(saved({"model": state})).state) == ["x"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2).to(torch.float8_e4m3fn),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.complex64),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    ],
    ids=["sparse", "float8", "meta", "complex", "nested"],
)
def test_a_tensor_of_another_kind_is_named(saved, narrow_model, tensor):
    with pytest.raises(UserError, match=r"weights\.pth: .*('head\.x' is a tensor of a kind|cannot be read)"):
        load_weights(narrow_model(), saved({"head.x": tensor}))
