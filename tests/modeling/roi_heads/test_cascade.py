import pytest
import torch

from detlite.errors import UserError
from detlite.modeling.box_coder import DeltaBoxCoder
from detlite.modeling.roi_heads.cascade import refine

CASCADE = {"MODEL.ROI_HEADS.NAME": "CascadeRoIHeads", "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 32}
IMAGES = [torch.rand(3, 96, 128), torch.rand(3, 80, 64)]


@pytest.fixture
def build(narrow_model):
    """A function: a narrow detector with a cascade; the standard heads' keys went with their name."""

    def with_cascade(changes=None):
        return narrow_model(CASCADE | (changes or {}))

    return with_cascade


def test_three_stages_train_every_parameter_and_detect(build, make_target):
    model = build()
    targets = [make_target([[20, 30, 60, 80], [70, 10, 120, 60]], [2, 1], seed=1), make_target(seed=2)]
    losses = model(IMAGES, targets)
    stages = {name for name in losses if name.startswith(("loss_classifier", "loss_box_reg"))}
    assert stages == {f"loss_{kind}_{n}" for kind in ("classifier", "box_reg") for n in (1, 2, 3)}
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(stage.box_head.fc6.weight.grad.any() for stage in model.roi_heads.stages)
    with torch.no_grad():
        assert len(model.eval()(IMAGES)) == 2


def test_thresholds_rise_and_coders_sharpen(build):
    stages = build().roi_heads.stages
    assert [stage.matcher.foreground_iou for stage in stages] == [0.5, 0.6, 0.7]
    assert [stage.box_coder.weights[0] for stage in stages] == [10, 20, 30]
    assert [stage.append_gt for stage in stages] == [True, False, False]


def test_a_later_stage_trains_on_the_boxes_that_the_one_before_refined(build, make_target):
    model = build()
    seen = []
    for stage in model.roi_heads.stages:
        predict = stage.predict
        stage.predict = lambda features, boxes, predict=predict: seen.append(boxes) or predict(features, boxes)
        torch.nn.init.zeros_(stage.predictor.deltas.weight)
        stage.predictor.deltas.bias.data = torch.tensor([stage.box_coder.weights[0] * 0.25, 0.0, 0.0, 0.0])  # dx = 1/4
    model([IMAGES[0]], [make_target([[20, 30, 60, 80]], [2])])
    (first,), (second,), (third,) = seen
    widths = first[:, 2] - first[:, 0]
    moved = torch.stack(
        [first[:, 0] + widths / 4, first[:, 1], (first[:, 2] + widths / 4).clamp(max=128), first[:, 3]], 1
    )
    visible = moved[:, 2] > moved[:, 0]
    distances = (moved[visible][:, None] - second).abs().amax(dim=2)
    assert distances.amin(dim=0).max() < 1e-3 and distances.amin(dim=1).max() < 1e-3  # the same boxes in any order
    assert len(third) <= len(second)
    assert not second.requires_grad


def test_scores_are_the_mean_of_the_stages(build):
    model = build({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.0, "MODEL.ROI_HEADS.NMS.IOU": 1.0}).eval()
    for number, stage in enumerate(model.roi_heads.stages):
        torch.nn.init.zeros_(stage.predictor.logits.weight)
        stage.predictor.logits.bias.data = torch.tensor([0.0, float(number), 0.0, 0.0])
    with torch.no_grad():
        (detection, _) = model(IMAGES)
    expected = sum(torch.tensor([0.0, float(n), 0.0, 0.0]).softmax(0)[1] for n in range(3)) / 3
    scores = detection["scores"][detection["labels"] == 1]
    torch.testing.assert_close(scores, expected.expand(len(scores)))


def test_refined_boxes_are_clipped_to_their_image():
    boxes = [torch.tensor([[90.0, 10.0, 110.0, 30.0]]), torch.zeros(0, 4)]
    (moved, none) = refine(DeltaBoxCoder(), boxes, torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), [(100, 120), (50, 50)])
    assert moved.tolist() == [[110.0, 10.0, 120.0, 30.0]]
    assert none.shape == (0, 4)


def test_no_proposals_train_and_detect_nothing(build, make_target):
    model = build({"MODEL.RPN.MIN_SIZE": 1e4})
    losses = model(IMAGES, [make_target(), make_target()])
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        assert [len(detection["boxes"]) for detection in model.eval()(IMAGES)] == [0, 0]


def test_stages_without_a_coder_are_refused(build):
    with pytest.raises(
        UserError,
        match="MODEL.ROI_HEADS: CascadeRoIHeads: MATCHERS and BOX_CODERS have an entry for each stage, got 3 and 1",
    ):
        build({"MODEL.ROI_HEADS.BOX_CODERS": [{"NAME": "DeltaBoxCoder"}]})


@torch.no_grad()
def test_a_region_that_a_stage_moves_to_no_number_is_not_detected(build):
    model = build({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0}).eval()
    assert all(len(found["boxes"]) for found in model(IMAGES))
    model.roi_heads.stages[0].predictor.deltas.bias[0] = torch.nan
    assert [len(found["boxes"]) for found in model(IMAGES)] == [0, 0]


def test_stage_weights_are_factors_on_the_losses_of_their_stage(build, make_target):
    target = [make_target([[20, 30, 60, 80]], [2], seed=1)]
    model = build()
    plain = model(IMAGES[:1], target)
    model.roi_heads.stage_weights = [1.0, 0.5, 0.25]
    weighted = model(IMAGES[:1], target)
    for name, loss in plain.items():
        factor = {"1": 1.0, "2": 0.5, "3": 0.25}.get(name[-1], 1.0)
        assert weighted[name].item() == pytest.approx(factor * loss.item())


@pytest.mark.parametrize("weights", [[1.0, 0.5], [1.0, 1.0, -1.0]])
def test_stage_weights_that_fit_no_stages_are_refused(build, weights):
    with pytest.raises(UserError, match="stage_weights: expected 3 numbers, 0 or more, got"):
        build({"MODEL.ROI_HEADS.STAGE_WEIGHTS": weights})
    assert build({"MODEL.ROI_HEADS.STAGE_WEIGHTS": [1, 0.5, 0.25]}).roi_heads.stage_weights == [1.0, 0.5, 0.25]
