import pytest
import torch

from detlite.config import load_config
from detlite.modeling import build_model

IMAGES = [torch.rand(3, 96, 128), torch.rand(3, 80, 64)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    keys = {
        "MODEL.NAME": "ProposalNetwork",
        "MODEL.DEVICE": "cpu",
        "MODEL.CLASSES": ["thing"],
        "MODEL.BACKBONE.WIDTH": 0.125,
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RPN.HEAD.CONV_DIM": 32,
        "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [32, 64],
        "MODEL.RPN.POST_NMS_TOP_N_TEST": 20,
    }
    return build_model(load_config(opts=[part for pair in keys.items() for part in pair]))


def test_it_has_the_rpns_losses_alone_and_they_train_everything(model):
    targets = [{"boxes": torch.tensor([[20.0, 30, 60, 80]]), "labels": torch.tensor([1])}] * 2
    losses = model(IMAGES, targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_its_detections_are_the_proposals_with_their_scores(model):
    model.eval()
    detections = model(IMAGES)
    proposals, _ = model.rpn(model.features(IMAGES), [(96, 128), (80, 64)])
    for detection, boxes in zip(detections, proposals, strict=True):
        assert torch.equal(detection["boxes"], boxes)
        assert 0 < len(boxes) <= 20
        assert (detection["labels"] == 1).all()
        assert (detection["scores"].diff() <= 0).all() and (0 <= detection["scores"]).all()


@torch.no_grad()
def test_it_offers_proposals_to_the_analysis(model):
    detections = model.eval()(IMAGES, extras=["proposals"])
    assert all(torch.equal(detection["proposals"], detection["boxes"]) for detection in detections)
    assert not any("proposals" in detection for detection in model(IMAGES))


def test_the_roi_heads_keys_went_with_the_name(model):
    assert not hasattr(model, "roi_heads")
    assert "ROI_HEADS" not in load_config(opts=["MODEL.NAME", "ProposalNetwork"]).MODEL
