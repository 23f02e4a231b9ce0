"""MODEL.PRECISION: convolutions and linear layers in bf16 or fp16, boxes, scores and losses in float32."""

import pytest
import torch

from detlite.errors import UserError
from torchvision_twin import TorchvisionTwin

VARIANTS = {
    "RoIPool": {},
    "RoIAlign": {"MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign"},
    "cascade": {"MODEL.ROI_HEADS.NAME": "CascadeRoIHeads"},
    "GIoU": {"MODEL.RPN.BOX_LOSS.NAME": "GIoULoss", "MODEL.ROI_HEADS.BOX_LOSS.NAME": "GIoULoss"},
}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_detections_are_float32_and_close_to_those_of_full_precision(
    narrow_model, make_target, variant, precision
):
    images = [torch.rand(3, 128, 160), torch.rand(3, 160, 128)]
    targets = [{**make_target([[20, 30, 90, 100]], [1]), "seed": 1}, {**make_target([[5, 5, 70, 60]], [2]), "seed": 2}]
    losses = {}
    for name in ("fp32", precision):
        torch.manual_seed(3)
        model = narrow_model(VARIANTS[variant] | {"MODEL.PRECISION": name, "MODEL.ROI_HEADS.SCORE_THRESHOLD": 0})
        # One proposal in training: with more, rounding could change which regions are sampled.
        model.rpn.post_nms_top_n_train, model.rpn.post_nms_top_n_test = 1, 20
        losses[name] = model(images, targets)
        sum(losses[name].values()).backward()
    for key, loss in losses[precision].items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(losses["fp32"][key].item(), rel=0.05, abs=0.01)
        assert loss.item() != losses["fp32"][key].item()
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()
    with torch.inference_mode():
        detections = model.eval()(images)
    for detection in detections:
        assert detection["boxes"].dtype == detection["scores"].dtype == torch.float32
        assert len(detection["boxes"]) and detection["boxes"].isfinite().all() and detection["scores"].isfinite().all()


def test_torchvisions_detector_is_compared_in_full_precision(narrow_model):
    with pytest.raises(UserError, match="MODEL.PRECISION: .* got bf16"):
        TorchvisionTwin(narrow_model({"MODEL.PRECISION": "bf16"}))


@pytest.mark.parametrize("norm", ["none", "BatchNorm"])
def test_weights_held_in_bf16_detect_the_same_to_the_bit(narrow_model, norm):
    model = narrow_model({"MODEL.PRECISION": "bf16", "MODEL.BACKBONE.NORM": norm}).eval()
    images = [torch.rand(3, 96, 128)]
    with torch.inference_mode():
        before = model(images)[0]
        model.convert_weights()
        after = model(images)[0]
    assert model.roi_heads.box_head.fc6.weight.dtype == torch.bfloat16
    assert len(before["boxes"]) > 0
    for name, values in before.items():
        assert torch.equal(values, after[name])
