"""Renamed keys are translated in configs that detlite wrote, and refused with their new name in all others."""

import logging
import runpy
from pathlib import Path

import pytest

from detlite.config import load_config, load_config_text, override
from detlite.config.renamed import RENAMED
from detlite.errors import UserError

ROOT = Path(__file__).parents[2]


def old_record():
    """Return the text of a complete config from before NMS was a part."""
    text = load_config(opts=["SEED", "7"]).dump()
    for iou, new in (("0.7", "0.65"), ("0.3", "0.45")):
        slot = f"    NMS:\n      NAME: GreedyNMS\n      IOU: {iou}\n      CLASS_AGNOSTIC: false\n"
        assert text.count(slot) == 1
        text = text.replace(slot, f"    NMS_IOU: {new}\n")
    return text


def test_every_new_name_is_a_key_and_no_old_one_is():
    cfg = load_config()
    for old, new in RENAMED.items():
        for path, is_key in ((old, False), (new, True)):
            *sections, key = path.split(".")
            node = cfg
            for section in sections:
                node = node[section]
            assert (key in node) == is_key


def test_an_old_config_of_a_checkpoint_is_translated_with_one_line_in_the_log(caplog):
    caplog.set_level(logging.INFO, "detlite")
    cfg = load_config_text(old_record(), "config in model.pth", ["SOLVER.MAX_ITER", "9"])
    assert (cfg.MODEL.RPN.NMS.IOU, cfg.MODEL.ROI_HEADS.NMS.IOU, cfg.SOLVER.MAX_ITER) == (0.65, 0.45, 9)
    assert [record.getMessage() for record in caplog.records] == [
        "config in model.pth is from an older version; read MODEL.RPN.NMS_IOU as MODEL.RPN.NMS.IOU, "
        "MODEL.ROI_HEADS.NMS_IOU as MODEL.ROI_HEADS.NMS.IOU"
    ]
    assert override(cfg, {"SEED": 8}).MODEL.RPN.NMS.IOU == 0.65
    assert len(caplog.records) == 1


def test_an_old_config_file_of_a_run_is_translated_also_as_a_base(write, caplog):
    caplog.set_level(logging.INFO, "detlite")
    path = write("config.yaml", old_record())
    own = write("own.yaml", "_BASE_: config.yaml\nMODEL: {RPN: {NMS: {NAME: LinearSoftNMS}}}\n")
    assert load_config(path).MODEL.RPN.NMS.IOU == 0.65
    nms = load_config(own).MODEL.RPN.NMS
    assert (nms.NAME, nms.IOU) == ("LinearSoftNMS", 0.3)
    assert len(caplog.records) == 2


def test_a_renamed_key_that_a_user_wrote_is_an_error_with_its_new_name(write):
    message = "MODEL.RPN.NMS_IOU has a new name; write MODEL.RPN.NMS.IOU"
    path = write("own.yaml", "MODEL:\n  RPN:\n    NMS_IOU: 0.5\n")
    for arguments, where in (((path, []), f"{path}:3"), ((None, ["MODEL.RPN.NMS_IOU", "0.5"]), "command line")):
        with pytest.raises(UserError) as caught:
            load_config(*arguments)
        assert str(caught.value) == f"{where}: {message}"
    with pytest.raises(UserError, match=message):
        override(load_config(), {"MODEL.RPN.NMS_IOU": 0.5})


def test_a_custom_part_may_have_a_key_with_an_old_name(write):
    write(
        "heads.py",
        "from detlite.modeling.roi_heads.standard import StandardRoIHeads\n"
        "from detlite.registry import ROI_HEADS\n\n\n"
        "@ROI_HEADS.register()\nclass HeadsWithNMSIoUForTest(StandardRoIHeads):\n"
        "    def __init__(self, *args, nms_iou: float = 0.9, **kwargs):\n        super().__init__(*args, **kwargs)\n",
    )
    path = write("own.yaml", "IMPORTS: [heads.py]\nMODEL: {ROI_HEADS: {NAME: HeadsWithNMSIoUForTest, NMS_IOU: 0.8}}\n")
    heads = load_config(path).MODEL.ROI_HEADS
    assert (heads.NMS_IOU, heads.NMS.IOU) == (0.8, 0.3)


def test_benchmarks_find_the_names_of_an_older_checkout(tmp_path):
    renamed_since = runpy.run_path(str(ROOT / "benchmarks/same_numbers.py"))["renamed_since"]
    assert renamed_since(tmp_path) == {new: old for old, new in RENAMED.items()}
    assert renamed_since(ROOT) == {}
