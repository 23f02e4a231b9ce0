"""configs/detectron2 detect the same as detectron2's own code, which is not on PyPI: without it, this file is skipped.

To run it, put a checkout of github.com/facebookresearch/detectron2 and its requirements on PYTHONPATH; nothing needs to
be compiled. tests/checkpoint/test_foreign_weights.py checks the weights' layout without it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from detlite.checkpoint import load_weights
from detlite.config import load_config
from detlite.data import build_test_transforms
from detlite.modeling import build_model

pytest.importorskip("detectron2", reason="detectron2 is not on PyPI")
pytestmark = pytest.mark.filterwarnings("ignore")  # its code uses functions that torch has deprecated

CONFIGS = Path(__file__).parents[2] / "configs" / "detectron2"
SIZES = [(97, 131), (150, 101), (100, 233)]  # resized to no multiple of 16 or 32
# detectron2's defaults are its C4 detector; these keys are those of its Base-RCNN-FPN.yaml.
FPN_KEYS = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}


def detectron2_detector(kind):
    """detectron2's detector of three classes with random weights, for which scores are neither 0 nor 1."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    keys = {"MODEL.DEVICE": "cpu", "MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.RPN.POST_NMS_TOPK_TEST": 40}
    keys |= FPN_KEYS if kind == "fpn" else {}
    cfg.merge_from_list([part for pair in keys.items() for part in pair])
    torch.manual_seed(0)
    detector = build_model(cfg).eval()
    for module in detector.modules():
        if hasattr(module, "running_var"):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    head, predictor = detector.proposal_generator.rpn_head, detector.roi_heads.box_predictor
    scale = 0.02 if kind == "fpn" else 0.4
    nn.init.kaiming_normal_(head.conv.weight)
    nn.init.kaiming_normal_(head.objectness_logits.weight)
    nn.init.normal_(predictor.cls_score.weight, std=scale)
    nn.init.normal_(predictor.bbox_pred.weight, std=scale / 4)
    return cfg, detector


@pytest.mark.parametrize("kind", ["fpn", "c4"])
@torch.no_grad()
def test_detections_are_detectron2_s(kind, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.solver import build_lr_scheduler, build_optimizer

    # A checkpoint as detectron2's trainer writes it.
    their_cfg, theirs = detectron2_detector(kind)
    optimizer = build_optimizer(their_cfg, theirs)
    states = {"optimizer": optimizer, "scheduler": build_lr_scheduler(their_cfg, optimizer)}
    DetectionCheckpointer(theirs, str(tmp_path), **states).save("model_final", iteration=9)
    size, max_size = 64, 125
    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLASSES", ["circle", "square", "triangle"]]
    opts += ["MODEL.RPN.POST_NMS_TOP_N_TEST", 40]
    opts += ["TRANSFORMS.TEST.0.SIZE", size, "TRANSFORMS.TEST.0.MAX_SIZE", max_size]
    cfg = load_config(CONFIGS / f"faster_rcnn_r50_{kind}.yaml", opts)
    ours = build_model(cfg, initialize=False).eval()
    report = load_weights(ours, tmp_path / "model_final.pth", complete=True)
    assert report.matched == 1 and not report.ignored

    transforms = build_test_transforms(cfg.TRANSFORMS.TEST)
    resize = ResizeShortestEdge(size, max_size)
    generator = torch.Generator().manual_seed(0)
    batch, their_batch = [], []
    for image_size in SIZES:
        spots = torch.randint(256, (1, 3, 5, 7), dtype=torch.uint8, generator=generator)
        image = nn.functional.interpolate(spots, image_size)[0]
        pixels = image.flip(0).permute(1, 2, 0).numpy().copy()  # [H, W, BGR]
        resized = resize.get_transform(pixels).apply_image(pixels)
        batch.append(transforms(tv_tensors.Image(image), {})[0])
        assert np.array_equal(batch[-1].flip(0).permute(1, 2, 0), resized)
        pixels = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        their_batch.append({"image": pixels, "height": image_size[0], "width": image_size[1]})

    for image, their_image, image_size in zip(batch, their_batch, SIZES, strict=True):
        (found,), (expected,) = ours([image]), theirs([their_image])
        expected = expected["instances"]
        assert 5 < len(found["scores"]) == len(expected)
        assert found["scores"].std() > 0.01 and found["scores"].max() < 0.999
        torch.testing.assert_close(found["scores"], expected.scores, atol=1e-3, rtol=0)
        height, width = (before / after for before, after in zip(image_size, image.shape[-2:], strict=True))
        boxes = found["boxes"] * torch.tensor([width, height] * 2)
        torch.testing.assert_close(boxes, expected.pred_boxes.tensor, atol=1e-3, rtol=0)
        assert torch.equal(found["labels"] - 1, expected.pred_classes)
