"""The classic recipe's configs, and the default tree, hold the published numbers."""

from pathlib import Path

import pytest
import torch

from detlite.config import load_config
from detlite.registry import META_ARCHITECTURES

CONFIGS = Path(__file__).parents[2] / "configs"
VOC, COCO = CONFIGS / "faster_rcnn_vgg16_voc07.yaml", CONFIGS / "faster_rcnn_vgg16_coco.yaml"

RECIPE = {
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1, 1, 1],
    "MODEL.CHANNEL_ORDER": "BGR",
    "MODEL.RPN.HEAD.CONV_DIM": 512,
    "MODEL.RPN.HEAD.INIT_STD": 0.01,
    "MODEL.RPN.HEAD.OBJECTNESS": "softmax",
    "MODEL.RPN.ANCHOR_GENERATOR.ASPECT_RATIOS": [0.5, 1, 2],
    "MODEL.RPN.INSIDE_ONLY": True,
    "MODEL.RPN.MATCHER.FOREGROUND_IOU": 0.7,
    "MODEL.RPN.MATCHER.BACKGROUND_IOU": 0.3,
    "MODEL.RPN.MATCHER.KEEP_BEST": True,
    "MODEL.RPN.SAMPLER.NUM_SAMPLES": 256,
    "MODEL.RPN.SAMPLER.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.BOX_CODER.WEIGHTS": [1, 1, 1, 1],
    "MODEL.RPN.BOX_LOSS.BETA": 1 / 9,
    "MODEL.RPN.BOX_LOSS_WEIGHT": 1,
    "MODEL.RPN.NORMALIZE_BY": "sampled",
    "MODEL.RPN.MIN_SIZE": 16,
    "MODEL.RPN.NMS.IOU": 0.7,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 12000,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 300,
    "MODEL.ROI_HEADS.APPEND_GT": True,
    "MODEL.ROI_HEADS.MATCHER.FOREGROUND_IOU": 0.5,
    "MODEL.ROI_HEADS.MATCHER.BACKGROUND_IOU": 0.5,
    "MODEL.ROI_HEADS.MATCHER.BACKGROUND_IOU_LOW": 0,
    "MODEL.ROI_HEADS.MATCHER.KEEP_BEST": False,
    "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES": 128,
    "MODEL.ROI_HEADS.SAMPLER.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.POOLER.NAME": "RoIPool",
    "MODEL.ROI_HEADS.POOLER.RESOLUTION": 7,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 4096,
    "MODEL.ROI_HEADS.CLASS_INIT_STD": 0.01,
    "MODEL.ROI_HEADS.BOX_INIT_STD": 0.001,
    "MODEL.ROI_HEADS.BOX_CODER.WEIGHTS": [10, 10, 5, 5],
    "MODEL.ROI_HEADS.BOX_LOSS.BETA": 1,
    "MODEL.ROI_HEADS.BOX_LOSS_WEIGHT": 1,
    "MODEL.ROI_HEADS.NORMALIZE_BY": "sampled",
    "MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.05,
    "MODEL.ROI_HEADS.NMS.IOU": 0.3,
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMAGE": 100,
    "SOLVER.BATCH_SIZE": 2,
    "SOLVER.OPTIMIZER.NAME": "SGD",
    "SOLVER.OPTIMIZER.LR": 1e-3,
    "SOLVER.OPTIMIZER.MOMENTUM": 0.9,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": 5e-4,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 2,
    "SOLVER.LR_SCHEDULER.GAMMA": 0.1,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 0,
}
PARTS_OF_VOC = {
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [128, 256, 512],
    "MODEL.ROI_HEADS.BOX_HEAD.DROPOUT": 0.5,
    "SOLVER.MAX_ITER": 70_000,
    "SOLVER.LR_SCHEDULER.STEPS": [50_000],
}
PARTS_OF_COCO = {
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [64, 128, 256, 512],
    "MODEL.ROI_HEADS.BOX_HEAD.DROPOUT": 0,
    "SOLVER.MAX_ITER": 490_000,
    "SOLVER.LR_SCHEDULER.STEPS": [350_000],
}


def num_parameters(path, *opts):
    with torch.device("meta"):  # shapes without memory
        cfg = load_config(path, opts)
        model = META_ARCHITECTURES.build(cfg.MODEL, len(cfg.MODEL.CLASSES))
    return sum(parameter.numel() for parameter in model.parameters())


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def owner_of(cfg, key):
    *parents, leaf = key.split(".")
    return value_of(cfg, ".".join(parents)), leaf


@pytest.mark.parametrize(
    ("path", "expected"),
    [(None, RECIPE | PARTS_OF_VOC), (VOC, RECIPE | PARTS_OF_VOC), (COCO, RECIPE | PARTS_OF_COCO)],
    ids=["default", "voc", "coco"],
)
def test_every_line_of_the_recipe_is_a_key_with_its_value(path, expected):
    cfg = load_config(path)
    for key, value in expected.items():
        assert value_of(cfg, key) == value, key
        if path:
            node, leaf = owner_of(cfg, key)
            assert node.sources[leaf].startswith(str(path)), f"{key} is not stated in {path.name}"


@pytest.mark.parametrize("path", [VOC, COCO], ids=["voc", "coco"])
def test_images_are_600_on_their_short_side_one_to_a_forward(path):
    cfg = load_config(path)
    assert cfg.SOLVER.BATCH_SIZE == cfg.SOLVER.ACCUMULATION == 2
    assert [node.NAME for node in cfg.TRANSFORMS.TRAIN] == ["ResizeShortSide", "RandomHorizontalFlip"]
    for node in (cfg.TRANSFORMS.TRAIN[0], cfg.TRANSFORMS.TEST[0]):
        assert (node.SIZE, node.MAX_SIZE) == (600, 1000)


def test_the_default_model_is_the_classic_one():
    assert load_config(VOC).MODEL == load_config().MODEL


@pytest.mark.parametrize(
    ("path", "opts", "expected"),
    [
        (None, [], 137_078_239),
        (VOC, [], 137_078_239),
        (COCO, [], 138_316_573),
        (VOC, ["MODEL.RPN.HEAD.OBJECTNESS", "sigmoid", "MODEL.ROI_HEADS.BOX_OUTPUTS", "classes"], 137_057_234),
    ],
    ids=["default", "voc", "coco", "sigmoid and no background box"],
)
def test_models_have_their_published_number_of_parameters(path, opts, expected):
    assert num_parameters(path, *opts) == expected


def test_class_names_are_those_of_the_data():
    voc, coco = load_config(VOC).MODEL.CLASSES, load_config(COCO).MODEL.CLASSES
    assert len(set(voc)) == len(voc) == 20 and voc == sorted(voc)
    assert len(set(coco)) == len(coco) == 80 and (coco[0], coco[9], coco[-1]) == (
        "person",
        "traffic light",
        "toothbrush",
    )
