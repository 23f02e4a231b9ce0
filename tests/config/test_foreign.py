"""Words of detectron2, torchvision's scripts, mmdetection and ultralytics are answered with their counterpart."""

import re
from pathlib import Path

import pytest

from detlite.cli import COMMANDS, _module, main
from detlite.config import load_config
from detlite.config.explain import explain
from detlite.config.foreign import counterpart, foreign_words
from detlite.config.yaml import parse_yaml
from detlite.errors import UserError
from detlite.registry import registries

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/moving.md").read_text(encoding="utf-8")
TABLE = parse_yaml((ROOT / "detlite/config/foreign.yaml").read_text(encoding="utf-8"), "foreign.yaml")
# As typed: (tool, a key or a flag, a part of the answer).
KEYS = [
    ("detectron2", "SOLVER.IMS_PER_BATCH", "is SOLVER.BATCH_SIZE here"),
    ("detectron2", "IMS_PER_BATCH", "is SOLVER.BATCH_SIZE here"),
    ("detectron2", "SOLVER.BASE_LR", "is SOLVER.OPTIMIZER.LR here"),
    ("detectron2", "SOLVER.AMP.ENABLED", "is MODEL.PRECISION"),
    ("detectron2", "MODEL.ROI_HEADS.NUM_CLASSES", "is MODEL.CLASSES (names) here"),
    ("detectron2", "MODEL.NUM_CLASSES", "is MODEL.CLASSES (names) here"),
    ("detectron2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "is MODEL.ROI_HEADS.SCORE_THRESHOLD here"),
    ("detectron2", "MODEL.RPN.NMS_THRESH", "is MODEL.RPN.NMS.IOU here"),
    ("detectron2", "MODEL.RPN.IOU_THRESHOLDS", "is MODEL.RPN.MATCHER.FOREGROUND_IOU and BACKGROUND_IOU here"),
    ("detectron2", "MODEL.MASK_ON", "has no counterpart here"),
    ("detectron2", "MODEL.RESNETS.DEPTH", "is MODEL.BACKBONE: {NAME: TorchvisionBackbone"),
    ("detectron2", "MODEL.RESNETS.STRIDE_IN_1X1", "is STRIDE_IN_1X1 of a TorchvisionBackbone here"),
    ("detectron2", "INPUT.MIN_SIZE_TRAIN", "is TRANSFORMS.TRAIN.0.SIZE here"),
    ("detectron2", "INPUT.FORMAT", "is MODEL.CHANNEL_ORDER here"),
    ("detectron2", "DATALOADER.NUM_WORKERS", "is DATASETS.NUM_WORKERS here"),
    ("detectron2", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "is KEEP_EMPTY of a data set here"),
    ("detectron2", "TEST.EVAL_PERIOD", "is EVALUATION.PERIOD here"),
    ("detectron2", "TEST.AUG.FLIP", "is MODEL.TEST_SCALES and TEST_FLIP here"),
    ("torchvision", "rpn_fg_iou_thresh", "is MODEL.RPN.MATCHER.FOREGROUND_IOU here"),
    ("torchvision", "MODEL.box_nms_thresh", "is MODEL.ROI_HEADS.NMS.IOU here"),
    ("mmdetection", "model.backbone.frozen_stages", "is MODEL.BACKBONE.FREEZE_AT of VGG"),
    ("mmdetection", "model.test_cfg.rcnn.score_thr", "is MODEL.ROI_HEADS.SCORE_THRESHOLD here"),
    ("mmdetection", "optim_wrapper.optimizer.lr", "is SOLVER.OPTIMIZER.LR here"),
    ("mmdetection", "data.samples_per_gpu", "is SOLVER.BATCH_SIZE"),
    ("mmdetection", "train_cfg.max_epochs", "is SOLVER.EPOCHS here"),
    ("mmdetection", "load_from", "is MODEL.WEIGHTS here"),
    ("ultralytics", "epochs", "is SOLVER.EPOCHS here"),
    ("ultralytics", "imgsz", "is TRANSFORMS.TRAIN.0.SIZE"),
    ("ultralytics", "mosaic", "has no counterpart here"),
]
FLAGS = [
    ("detectron2", "--eval-only", "is detlite test --weights W here"),
    ("detectron2", "--num-machines", "is torchrun --nnodes here"),
    ("detectron2", "--dist-url", "is torchrun --rdzv-endpoint here"),
    ("torchvision", "--batch-size", "is SOLVER.BATCH_SIZE"),
    ("torchvision", "--lr", "is SOLVER.OPTIMIZER.LR here"),
    ("torchvision", "--epochs", "is SOLVER.EPOCHS here"),
    ("torchvision", "--output-dir", "is OUTPUT_DIR here"),
    ("torchvision", "--test-only", "is detlite test --weights W here"),
    ("torchvision", "--amp", "is MODEL.PRECISION"),
    ("torchvision", "-j", "is DATASETS.NUM_WORKERS here"),
    ("torchvision", "--sync-bn", "has no counterpart here"),
    ("mmdetection", "--cfg-options", "is KEY VALUE pairs without a flag here"),
    ("mmdetection", "--work-dir", "is OUTPUT_DIR here"),
    ("mmdetection", "--launcher", "is --num-gpus, or torchrun, here"),
]
ASSIGNMENTS = [
    ("ultralytics", "lr0=0.01", "is SOLVER.OPTIMIZER.LR here"),
    ("ultralytics", "batch=16", "is SOLVER.BATCH_SIZE here"),
    ("ultralytics", "model=yolo11n.pt", "the file in MODEL.WEIGHTS, here"),
    ("mmdetection", "optim_wrapper.optimizer.lr=0.01", "is SOLVER.OPTIMIZER.LR here"),
]


@pytest.mark.parametrize(("tool", "key", "answer"), KEYS)
def test_another_tools_key_gets_its_counterpart(tool, key, answer, tmp_path):
    with pytest.raises(UserError) as typed:
        load_config(opts=[key, "1"])
    section = "1"
    for word in reversed(key.split(".")):
        section = f"{{{word}: {section}}}"
    (tmp_path / "own.yaml").write_text(f"# a comment\n{section}\n")
    with pytest.raises(UserError) as written:
        load_config(tmp_path / "own.yaml")
    for message in (str(typed.value), str(written.value)):
        assert f": {tool}'s " in message and answer in message
    assert f"{tmp_path}/own.yaml:2: " in str(written.value)


@pytest.mark.parametrize(("tool", "words", "answer"), FLAGS + ASSIGNMENTS)
def test_another_tools_flag_or_assignment_gets_its_counterpart_and_status_2(tool, words, answer, capsys):
    assert main(["train", words, "1"]) == 2
    message = capsys.readouterr().err
    assert f" {tool}'s " in message and answer in message and message.count("\n") == 1


def test_a_key_in_the_wrong_case_or_section_is_not_taken_for_another_tools():
    for key, nearest in {
        "SOLVER.LR": "did you mean SOLVER.OPTIMIZER.LR?",
        "MODEL.BACKBONE.name": "VGG has no key name",
        "DATASETS.TRAIN.0.classes": "has no key classes",
        "EVALUATION.patience": "did you mean PATIENCE?",
        "MODEL.SIZES": "did you mean MODEL.RPN.ANCHOR_GENERATOR.SIZES?",
    }.items():
        with pytest.raises(UserError) as error:
            load_config(opts=[key, "1"])
        assert nearest in str(error.value) and " here" not in str(error.value)


def test_explain_knows_another_tools_key(capsys):
    assert main(["explain", "SOLVER.BASE_LR"]) == 1
    assert "SOLVER.BASE_LR: detectron2's SOLVER.BASE_LR is SOLVER.OPTIMIZER.LR here" in capsys.readouterr().err


def test_a_counterpart_names_keys_parts_and_flags_that_there_are():
    paths = {entry.path for entry in explain(load_config())}
    paths |= {f"{path}.NAME" for path in paths} | {"MODEL.ROI_HEADS.STAGE_WEIGHTS", "DATASETS.IMAGE_SAMPLER.THRESHOLD"}
    known = {"--nnodes", "--node-rank", "--rdzv-endpoint"}  # torchrun's
    known |= {"KEY", "VALUE", "FOLDER", "W", "P", "GPUs", "_BASE_", "NAME"}
    known |= set(re.findall(r"^- `(\w+)`", (ROOT / "docs/parts.md").read_text(encoding="utf-8"), re.M))
    for registry in registries().values():
        known |= {registry.slot, *registry}
    for command in COMMANDS:
        known |= _module(command).parser("")._option_string_actions.keys()
    for words in TABLE.values():
        for word, here in words.items():
            named = re.findall(r"(?<![\w.-])(?:--[a-z-]+|[A-Z_][\w.]*\w|[A-Z])", here or "NAME")
            assert named and set(named) <= known | paths, (word, named)


def test_every_word_of_another_tool_on_the_page_is_answered():
    own = {entry.path for entry in explain(load_config())} | {"_BASE_", "--resume", "--num-gpus", "torchrun"}
    own |= {path.rpartition(".")[2] for path in own}
    asked = 0
    for row in re.findall(r"^\| .* \|$", PAGE, re.M):
        for cell in row.strip("| ").split(" | ")[2:]:
            # Classes, such as `RandomFlip`, and calls are no words that a user types as a key.
            for word in set(re.findall(r"`(-*[a-z_][\w.-]+|[A-Z_.]+)`", cell)) - own:
                assert counterpart(word), word
                asked += 1
    assert asked > 100


def test_a_word_of_the_table_is_no_key_here():
    own = {entry.path for entry in explain(load_config())}
    assert not own & foreign_words().keys() and len(foreign_words()) > 150
