"""Every registered part keeps its slot's contract: a new one is covered by being registered."""

import json
import sys
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from detlite.config import load_config
from detlite.modeling.backbone.torchvision_backbone import TorchvisionBackbone
from detlite.modeling.precision import allowing_tf32
from detlite.registry import META_ARCHITECTURES, ROI_HEADS, ROI_POOLERS, registries
from detlite.testing import (
    check_backbone,
    check_config,
    check_meta_architecture,
    check_part,
    check_roi_pooler,
    config_of,
)
from detlite.testing.contract import OBJECTS
from detlite.testing.parts import BUILT_BY_CHECK, CHECKS
from detlite.testing.records import TwoImages
from swap_matrix import NARROW

load_config()  # imports the built-in parts
PARTS = [(registry, name) for registry in registries().values() for name in registry]
FILES = {
    "CocoDataset": {"ANNOTATIONS": "coco.json", "IMAGES": "JPEGImages"},
    "PascalVOCDataset": {"ROOT": ".", "IMAGE_SETS": ["train"], "CLASSES": ["cat", "dog"]},
    "TiledDataset": {"SIZE": 64, "OVERLAP": 32, "DATASET": {"NAME": "ShapesDataset", "NUM_IMAGES": 2}},
    "YoloDataset": {"IMAGES": ["JPEGImages"], "CLASSES": ["cat", "dog"]},
}
CONTEXT = {"Res5BoxHead": {"in_channels": 256}}
ANNOTATION = "<annotation><size><width>128</width><height>96</height></size>{}</annotation>"
OBJECT = (
    "<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write two images with three objects to the current folder, in the formats of COCO, VOC and YOLO."""
    monkeypatch.chdir(tmp_path)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for number, boxes in ((5, OBJECTS[:2]), (9, OBJECTS[2:])):
        Image.new("RGB", (128, 96), (number, 0, 0)).save(f"JPEGImages/{number}.png")
        objects = "".join(OBJECT.format(x1 + 1, y1 + 1, x2, y2) for x1, y1, x2, y2 in boxes)
        (tmp_path / f"Annotations/{number}.xml").write_text(ANNOTATION.format(objects))
        lines = [
            f"0 {(x1 + x2) / 256} {(y1 + y2) / 192} {(x2 - x1) / 128} {(y2 - y1) / 96}\n" for x1, y1, x2, y2 in boxes
        ]
        (tmp_path / f"JPEGImages/{number}.txt").write_text("".join(lines))
    (tmp_path / "ImageSets/Main/train.txt").write_text("5\n9\n")
    coco = TwoImages().coco()
    for image in coco["images"]:
        image["file_name"] = f"{image['id']}.png"
    (tmp_path / "coco.json").write_text(json.dumps(coco))


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=[f"{registry.slot}-{name}" for registry, name in PARTS])
def test_a_registered_part_keeps_its_slots_contract(registry, name, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Mock())  # needs a package that may be missing
    torch.manual_seed(0)
    keys = FILES.get(name) or NARROW.get(name, {})
    check_config(registry, name, keys)
    check_part(registry, name, keys, **CONTEXT.get(name, {}))


def test_every_slot_has_a_check():
    assert set(registries()) == set(CHECKS) | set(BUILT_BY_CHECK)


@pytest.mark.parametrize("inner", ["RoIPool", "RoIAlign"])
def test_a_multi_level_pooler_keeps_the_contract_on_several_levels(inner):
    strides = [2, 4, 8, 16]
    node = config_of(ROI_POOLERS, "MultiLevelPooler", {"POOLER": {"NAME": inner}, "CANONICAL_SIZE": 80})
    pooler = ROI_POOLERS.build(node, strides)
    assert len(set(pooler.levels_of(torch.tensor(OBJECTS)).tolist())) > 1
    check_roi_pooler(pooler, strides)


@pytest.mark.parametrize("outputs", ["classes and background", "classes", "agnostic"])
def test_standard_roi_heads_keep_the_contract_with_all_their_outputs(outputs):
    torch.manual_seed(0)
    check_part(ROI_HEADS, "StandardRoIHeads", {**NARROW["StandardRoIHeads"], "BOX_OUTPUTS": outputs}, num_classes=5)


def test_a_detector_of_one_class_keeps_the_contract():
    torch.manual_seed(0)
    check_part(META_ARCHITECTURES, "FasterRCNN", NARROW["FasterRCNN"], num_classes=1)


def tf32_flags():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def set_tf32_flags(convolutions, products):
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


@pytest.fixture(params=[(True, True), (True, False), (False, False)])
def tf32(request):
    """Set whether TF32 is allowed for convolutions and for matrix products."""
    before = tf32_flags()
    set_tf32_flags(*request.param)
    yield request.param
    set_tf32_flags(*before)


def test_tf32_is_off_inside_the_context_and_restored_after_it(tf32):
    with pytest.raises(KeyError), allowing_tf32(False):
        inside = tf32_flags()
        raise KeyError
    assert inside == (False, False)
    assert tf32_flags() == tf32


def test_a_detector_is_checked_without_tf32(tf32):
    torch.manual_seed(0)
    model = META_ARCHITECTURES.build(config_of(META_ARCHITECTURES, "ProposalNetwork", NARROW["ProposalNetwork"]), 3)
    seen = set()
    model.register_forward_pre_hook(lambda *_: seen.add(tf32_flags()))
    check_meta_architecture(model, num_classes=3)
    assert seen == {(False, False)}
    assert tf32_flags() == tf32


def test_a_backbone_whose_last_batch_norms_start_at_zero_keeps_the_contract():
    backbone = TorchvisionBackbone(model="resnet18", layers=["layer1"], frozen_batch_norm=False)
    norms = [block.bn2 for block in backbone.body.layer1.children()]
    for norm in norms:
        torch.nn.init.zeros_(norm.weight)
    check_backbone(backbone)
    assert not any(norm.weight.any() for norm in norms)  # the check leaves the weights
