"""Users' mistakes: one message with the location and the remedy, no traceback, status 1 or, unparsed, 2.

FILES: the text of own.yaml from line 2, after a tiny config as its base, and a part of the message. WORDS: a command
line on top of the tiny config. COMMANDS: a command and its whole command line. The fixture ``folder`` makes the files
that they name.
"""

import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detlite.cli import main
from detlite.config import load_config
from detlite.config.yaml import format_yaml
from detlite.errors import UserError

ROOT = Path(__file__).parents[1]
TWO_LEVELS = """
from torch import nn

from detlite.registry import BACKBONES


@BACKBONES.register()
class TwoLevelsForTest(nn.Module):
    channels = {"fine": 8, "coarse": 8}
    strides = {"fine": 8, "coarse": 16}
"""
COCO = '{"images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}]}'


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_opts):
    """The folder that a command runs in."""
    monkeypatch.chdir(tmp_path)
    tiny = load_config(opts=tiny_opts(OUTPUT_DIR="output")).plain()
    del tiny["MODEL"]["CLASSES"]  # the data set's
    for name, text in {
        "base.yaml": format_yaml(tiny),
        "a.yaml": "_BASE_: b.yaml\n",
        "b.yaml": "_BASE_: a.yaml\n",
        "taken": "",
        "two_levels.py": TWO_LEVELS,
        "fails.py": "import torch\n\ntorch.no_such_name\n",
        "empty_coco.json": COCO,
        "no_coco.json": "[1, 2]",
        "no_json.json": "<annotation/>",
        "garbage.pth": "not weights",
        "cut.npz": "PK\x03\x04",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    (tmp_path / "images").mkdir()
    yield tmp_path
    for handler in list(logging.getLogger("detlite").handlers):
        logging.getLogger("detlite").removeHandler(handler)
        handler.close()
    sys.modules.pop("two_levels", None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return open, ("it_ran", "w")


FILES = {
    "a typo in a section": ("MODLE: {}", "own.yaml:2: MODLE: the config has no key MODLE; did you mean MODEL?"),
    "a typo in a key": (
        "SOLVER:\n  MAX_ITERS: 5",
        "own.yaml:3: SOLVER.MAX_ITERS: SOLVER has no key MAX_ITERS; did you mean MAX_ITER?",
    ),
    "a typo in a part's key": (
        "MODEL: {RPN: {MATCHER: {FORGROUND_IOU: 0.7}}}",
        "own.yaml:2: MODEL.RPN.MATCHER.FORGROUND_IOU: MaxIoUMatcher has no key FORGROUND_IOU; "
        "did you mean FOREGROUND_IOU?",
    ),
    "a typo in a part's name": (
        "MODEL:\n  RPN: {MATCHER: {NAME: MaxIOUMatcher}}",
        "own.yaml:3: MODEL.RPN.MATCHER.NAME: no MATCHER is called 'MaxIOUMatcher'; did you mean MaxIoUMatcher?",
    ),
    "the key of another part": (
        "MODEL: {ROI_HEADS: {POOLER: {NAME: RoIPool, SAMPLING_RATIO: 2}}}",
        "own.yaml:2: MODEL.ROI_HEADS.POOLER.SAMPLING_RATIO: RoIPool has no key SAMPLING_RATIO (there are: RESOLUTION)",
    ),
    "a key in the wrong section": (
        "SOLVER: {LR: 0.01}",
        "own.yaml:2: SOLVER.LR: SOLVER has no key LR; did you mean SOLVER.OPTIMIZER.LR?",
    ),
    "a key in small letters": (
        "solver: {max_iter: 5}",
        "own.yaml:2: solver: the config has no key solver; did you mean SOLVER?",
    ),
    "a dotted key": (
        "SOLVER.MAX_ITER: 5",
        "own.yaml:2: SOLVER.MAX_ITER: keys with dots are for the command line; in a file write SOLVER: {MAX_ITER: ...}",
    ),
    "a part where its section belongs": (
        "MODEL: {BACKBONE: VGG}",
        "own.yaml:2: MODEL.BACKBONE is a section of keys, got 'VGG'; write {NAME: VGG}",
    ),
    "a word for a number": (
        "SOLVER: {MAX_ITER: many}",
        "own.yaml:2: SOLVER.MAX_ITER: expected a whole number or null, got 'many'",
    ),
    "a fraction for a whole number": (
        "SOLVER: {MAX_ITER: 1.5}",
        "own.yaml:2: SOLVER.MAX_ITER: expected a whole number or null, got 1.5",
    ),
    "yes for true": (
        "MODEL: {RPN: {INSIDE_ONLY: yes}}",
        "own.yaml:2: MODEL.RPN.INSIDE_ONLY: expected true or false, got 'yes'",
    ),
    "a number for a string": ("OUTPUT_DIR: 7", "own.yaml:2: OUTPUT_DIR: expected a string, got 7; put it in quotes"),
    "null for a string": (
        "MODEL: {WEIGHTS: null}",
        "own.yaml:2: MODEL.WEIGHTS: expected a string, got null",
    ),
    "one word for a list": (
        "MODEL: {CLASSES: cat}",
        "own.yaml:2: MODEL.CLASSES: expected a list of (a string), got 'cat'; a list is written [cat]",
    ),
    "a section for a number": ("SEED: {VALUE: 1}", "own.yaml:2: SEED: expected a whole number, got {'VALUE': 1}"),
    "a number for a section": ("SOLVER: 5", "own.yaml:2: SOLVER is a section of keys, got 5"),
    "a list for a section": (
        "SOLVER:\n- MAX_ITER: 5",
        "own.yaml:2: SOLVER is a section of keys, got [{'MAX_ITER': 5}]",
    ),
    "a section for a list": (
        "TRANSFORMS: {TRAIN: {NAME: RandomHorizontalFlip}}",
        "own.yaml:2: TRANSFORMS.TRAIN is a list of parts, got {'NAME': 'RandomHorizontalFlip'}; "
        "write [{NAME: ..., ...}]",
    ),
    "a value that is no choice": (
        "MODEL: {RPN: {HEAD: {OBJECTNESS: softmx}}}",
        "own.yaml:2: MODEL.RPN.HEAD.OBJECTNESS: 'softmx' is not one of its values; did you mean softmax? "
        "(there are: sigmoid, softmax)",
    ),
    "a section twice": (
        "SOLVER: {MAX_ITER: 5}\nSEED: 1\nSOLVER: {BATCH_SIZE: 1}",
        "own.yaml:4: SOLVER is set twice in this section, first in line 2",
    ),
    "a tab": ("SOLVER:\n\tMAX_ITER: 5", "own.yaml:3: not valid YAML: "),
    "a bracket that is never closed": ("MODEL: {CLASSES: [cat, dog}", "own.yaml:2: not valid YAML: "),
    "a list at the top": ("- SEED: 1", "own.yaml: a config file is a mapping of sections such as MODEL"),
    "a base that is not there": (
        "_BASE_: bas.yaml",
        "bas.yaml: No such file or directory (_BASE_ of own.yaml); did you mean {folder}/base.yaml?",
    ),
    "bases in a circle": (
        "_BASE_: a.yaml",
        "a.yaml: _BASE_ is circular: own.yaml -> a.yaml -> b.yaml -> a.yaml",
    ),
    "an unknown data set": (
        "DATASETS: {TEST: {NAME: CocoDataSets}}",
        "own.yaml:2: DATASETS.TEST.NAME: no DATASET is called 'CocoDataSets'; did you mean CocoDataset?",
    ),
    "a data set without its name": (
        "DATASETS: {TRAIN: [{ANNOTATIONS: x.json}]}",
        "own.yaml:2: DATASETS.TRAIN.0 needs a NAME (there are: CocoDataset, ",
    ),
    "an annotation file that is not there": (
        "DATASETS: {TRAIN: [{NAME: CocoDataset, ANNOTATIONS: nowhere.json, IMAGES: images}]}",
        "nowhere.json: No such file or directory (CocoDataset's ANNOTATIONS)",
    ),
    "annotations that are no JSON": (
        "DATASETS: {TRAIN: [{NAME: CocoDataset, ANNOTATIONS: no_json.json, IMAGES: images}]}",
        "no_json.json: not a JSON file: ",
    ),
    "annotations in another format": (
        "DATASETS: {TRAIN: [{NAME: CocoDataset, ANNOTATIONS: no_coco.json, IMAGES: images}]}",
        "no_coco.json: not COCO's format: images is missing or not a list of objects",
    ),
    "a data set without images": (
        "DATASETS: {TRAIN: [{NAME: CocoDataset, ANNOTATIONS: empty_coco.json, IMAGES: images}]}",
        "empty_coco.json: images is empty",
    ),
    "no data set at all": ("DATASETS: {TRAIN: []}", "DATASETS.TRAIN holds no images"),
    "classes that the data has not": (
        "MODEL: {CLASSES: [cat, dog]}",
        "own.yaml:2: MODEL.CLASSES is ['cat', 'dog'], but the classes of DATASETS.TRAIN are "
        "['circle', 'square', 'triangle']; remove MODEL.CLASSES to use those",
    ),
    "a class twice": (
        "MODEL: {CLASSES: [cat, cat]}",
        "own.yaml:2: MODEL: CLASSES must be one or more different names, got cat, cat",
    ),
    "passes that do not divide a batch": (
        "SOLVER: {BATCH_SIZE: 4, ACCUMULATION: 3}",
        "own.yaml:2: SOLVER: ACCUMULATION must divide BATCH_SIZE (4) evenly, got 3",
    ),
    "a period of nothing": (
        "SOLVER: {LOG_PERIOD: 0}",
        "own.yaml:2: SOLVER: LOG_PERIOD must be at least 1, got 0",
    ),
    "thresholds in the wrong order": (
        "MODEL: {RPN: {MATCHER: {FOREGROUND_IOU: 0.2}}}",
        "MODEL.RPN.MATCHER: MaxIoUMatcher: need 0 <= background_iou_low <= background_iou <= foreground_iou <= 1",
    ),
    "a stage that VGG does not have": (
        "MODEL: {BACKBONE: {FREEZE_AT: 9}}",
        "MODEL.BACKBONE: VGG: freeze_at counts VGG's stages, 0 to 5; got 9",
    ),
    "a layer of negative width": (
        "MODEL: {ROI_HEADS: {BOX_HEAD: {FC_DIM: -4}}}",
        "MODEL.ROI_HEADS.BOX_HEAD: FCBoxHead: ",
    ),
    "more dropout than there is": (
        "MODEL: {ROI_HEADS: {BOX_HEAD: {DROPOUT: 2}}}",
        "MODEL.ROI_HEADS.BOX_HEAD: FCBoxHead: need fc_dim >= 1 and 0 <= dropout < 1, got 16 and 2.0",
    ),
    "a proposal of negative size": (
        "MODEL: {RPN: {MIN_SIZE: -1}}",
        "MODEL.RPN: need *_top_n_* >= 1, box_loss_weight >= 0, min_size >= 0 and 0 <= score_threshold <= 1, got ",
    ),
    "anchors of two levels for one": (
        "MODEL: {RPN: {ANCHOR_GENERATOR: {SIZES: [[16], [32]]}}}",
        "MODEL.RPN.ANCHOR_GENERATOR: GridAnchorGenerator: sizes has 2 lists, but the features have 1 levels",
    ),
    "res5 behind another net": (
        "MODEL:\n  ROI_HEADS:\n    BOX_HEAD: {NAME: Res5BoxHead, MODEL: resnet18}",
        "MODEL.ROI_HEADS.BOX_HEAD: Res5BoxHead: resnet18's last stage takes 256 channels, the backbone gives 32; it",
    ),
    "a cascade with a matcher too few": (
        "MODEL:\n  ROI_HEADS:\n    NAME: CascadeRoIHeads\n    MATCHERS: [{NAME: MaxIoUMatcher}]",
        "MODEL.ROI_HEADS: CascadeRoIHeads: MATCHERS and BOX_CODERS have an entry for each stage, got 1 and 3",
    ),
    "two channel means for three channels": (
        "MODEL: {PIXEL_MEAN: [100, 100]}",
        "MODEL: FasterRCNN: pixel_mean and pixel_std must be three numbers each, pixel_std above 0; got [100.0, 100.0]",
    ),
    "a pooler of one level behind a backbone of two": (
        "IMPORTS: [two_levels.py]\nMODEL: {BACKBONE: {NAME: TwoLevelsForTest}}",
        "MODEL.ROI_HEADS.POOLER: RoIPool: RoIPool pools from one feature level, got 2",
    ),
    "an import that is not there": (
        "IMPORTS: [two_level.py]",
        "own.yaml:2: IMPORTS: no such file: {folder}/two_level.py; did you mean {folder}/two_levels.py?",
    ),
    "an import that fails": (
        "IMPORTS: [fails.py]",
        "own.yaml:2: IMPORTS: {folder}/fails.py:3 fails to import: AttributeError: module 'torch' has no attribute",
    ),
    "a device that does not exist": (
        "MODEL: {DEVICE: gpu}",
        "MODEL.DEVICE: 'gpu' cannot be used here: ",
    ),
    "a device without numbers": (
        "MODEL: {DEVICE: meta}",
        "MODEL.DEVICE: 'meta' cannot be used here: ",
    ),
    "a file where the output folder should be": (
        "OUTPUT_DIR: taken",
        "OUTPUT_DIR: taken: cannot be written: File exists",
    ),
    "a file above the output folder": (
        "OUTPUT_DIR: taken/run",
        "OUTPUT_DIR: taken/run: cannot be written: Not a directory",
    ),
    "weights that are not there": (
        "MODEL: {WEIGHTS: garbag.pth}",
        "garbag.pth: no such file of weights; did you mean {folder}/garbage.pth?",
    ),
    "weights that are none": ("MODEL: {WEIGHTS: garbage.pth}", "garbage.pth: "),
    "weights cut short": ("MODEL: {WEIGHTS: cut.npz}", "cut.npz: "),
    "weights that hold code": ("MODEL: {WEIGHTS: code.pth}", "code.pth: not loaded: "),
}

WORDS = {
    "a typo in a key": (
        ["SOLVER.MAX_ITR", "5"],
        "command line: SOLVER.MAX_ITR: SOLVER has no key MAX_ITR; did you mean MAX_ITER?",
    ),
    "a typo in a part's name": (
        ["MODEL.ROI_HEADS.POOLER.NAME", "RoiAlign"],
        "command line: MODEL.ROI_HEADS.POOLER.NAME: no ROI_POOLER is called 'RoiAlign'; did you mean RoIAlign?",
    ),
    "a part where its section belongs": (
        ["MODEL.ROI_HEADS.POOLER", "RoIAlign"],
        "command line: MODEL.ROI_HEADS.POOLER is a section of keys, got 'RoIAlign'; "
        "write MODEL.ROI_HEADS.POOLER.NAME RoIAlign",
    ),
    "a key without a value": (
        ["SEED", "1", "SOLVER.MAX_ITER"],
        "command line: the key SOLVER.MAX_ITER has no value after it",
    ),
    "KEY=VALUE": (
        ["SOLVER.MAX_ITER=5"],
        "command line: 'SOLVER.MAX_ITER=5' is not a key; write KEY VALUE, with a space",
    ),
    "a list without quotes": (
        ["MODEL.CLASSES", "[circle,", "square,", "triangle]"],
        "command line: 'square,' (after '[circle,') is not a key; keys look like SOLVER.MAX_ITER, "
        "and a value with spaces needs quotes",
    ),
    "a word for a number": (
        ["SOLVER.MAX_ITER", "ten"],
        "command line: SOLVER.MAX_ITER: expected a whole number or null, got 'ten'",
    ),
    "nothing for a number": (
        ["SOLVER.MAX_ITER", ""],
        "command line: SOLVER.MAX_ITER: expected a whole number or null, got ''",
    ),
    "an entry that the list has not": (
        ["TRANSFORMS.TRAIN.3.P", "1"],
        "command line: TRANSFORMS.TRAIN.3: there is no such entry; the list has length 1, counted from 0",
    ),
    "a negative learning rate": (["SOLVER.OPTIMIZER.LR", "-1e-3"], "SOLVER.OPTIMIZER: SGD: "),
    "an unknown option": (
        ["--gpus", "2"],
        "unrecognized arguments: --gpus; did you mean --num-gpus? (there are: --config-file, ",
    ),
    "a typo in an option": (["--confg-file", "x"], "unrecognized arguments: --confg-file; did you mean --config-file?"),
    "an option without its value": (["--import"], "argument --import: expected one argument (see "),
    "an import that is not installed": (
        ["--import", "no_such_package"],
        "--import: no module is called 'no_such_package'; install its package, or name a file, such as ",
    ),
    "a section whole and by its keys": (
        ["MODEL.ROI_HEADS.POOLER", "{NAME: RoIAlign}", "MODEL.ROI_HEADS.POOLER.RESOLUTION", "7"],
        "command line: MODEL.ROI_HEADS.POOLER.RESOLUTION: it (or a parent section) is set both",
    ),
}

COMMANDS = {
    "a size without room for anything": ("init", ["data", "--size", "5"], "--size 5: expected 32 pixels or more"),
    "a folder that is called otherwise": ("init", ["dta"], "dta: no such folder"),
    "--config-file without its value": (
        "train",
        ["--config-file"],
        "argument --config-file: expected one argument (see ",
    ),
    "a config file that is not there": (
        "train",
        ["--config-file", "bse.yaml"],
        "bse.yaml: No such file or directory (config file); did you mean {folder}/base.yaml?",
    ),
    "a folder for a config file": (
        "train",
        ["--config-file", "images"],
        "images: Is a directory (config file)",
    ),
    "an empty name for a config file": (
        "train",
        ["--config-file", ""],
        ".: Is a directory (config file)",
    ),
    "weights for a config file": (
        "train",
        ["--config-file", "code.pth"],
        "code.pth: expected a YAML file; weights are given by --weights, or by the key MODEL.WEIGHTS",
    ),
    "test without weights": ("test", ["--config-file", "base.yaml"], "--weights"),
    "weights that are not there": (
        "test",
        ["--config-file", "base.yaml", "--weights", "garbag.pth"],
        "garbag.pth: no such file of weights; did you mean {folder}/garbage.pth?",
    ),
    "weights that are none": ("test", ["--config-file", "base.yaml", "--weights", "garbage.pth"], "garbage.pth: "),
    "weights that hold code": (
        "test",
        ["--config-file", "base.yaml", "--weights", "code.pth"],
        "code.pth: not loaded: ",
    ),
    "weights that hold code and no config": ("test", ["--weights", "code.pth"], "code.pth: not loaded: "),
    "an option of the other tool": (
        "test",
        ["--weights", "code.pth", "--resume"],
        "unrecognized arguments: --resume (there are: ",
    ),
    "a typo in a key in test": (
        "test",
        ["--config-file", "base.yaml", "--weights", "code.pth", "EVALUATION.PICTURE", "3"],
        "command line: EVALUATION.PICTURE: EVALUATION has no key PICTURE; did you mean PICTURES?",
    ),
    "no such command": (
        None,
        ["trian"],
        "no command 'trian'; did you mean train? (there are: ",
    ),
}


# In the message on a command line that cannot be parsed, which ends with status 2.
UNPARSED = re.compile(
    "unrecognized arguments|expected one argument|one of the arguments|no command|is not a key;|no value after it"
)


def check(folder, capsys, words, command, message):
    status = main(words, command)
    said = capsys.readouterr().err
    assert status == (2 if UNPARSED.search(said) else 1)
    assert said.startswith("error: ") and said.count("error: ") == 1
    assert message.replace("{folder}", str(folder)) in said
    assert "Traceback" not in said
    assert not (folder / "it_ran").exists()


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_wrong_file_is_answered_with_one_message(folder, capsys, text, message):
    first_line = "# no base" if text.startswith(("_BASE_", "-")) else "_BASE_: base.yaml"
    (folder / "own.yaml").write_text(f"{first_line}\n{text}\n", encoding="utf-8")
    check(folder, capsys, ["--config-file", "own.yaml"], "train", message)


@pytest.mark.parametrize(("words", "message"), WORDS.values(), ids=WORDS)
def test_a_wrong_command_line_is_answered_with_one_message(folder, capsys, words, message):
    check(folder, capsys, ["--config-file", "base.yaml", *words], "train", message)


@pytest.mark.parametrize(("command", "words", "message"), COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_call_is_answered_with_one_message(folder, capsys, command, words, message):
    check(folder, capsys, words, command, message)


def test_with_debug_a_mistake_shows_its_traceback(folder):
    with pytest.raises(UserError, match="SOLVER.MAX_ITER: expected a whole number or null"):
        main(["--debug", "--config-file", "base.yaml", "SOLVER.MAX_ITER", "ten"], "train")


@pytest.mark.parametrize("tool", ["train_net.py", "test_net.py"])
def test_the_tools_end_with_status_2_and_the_message_alone(folder, tool):
    process = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--config-file", "base.yaml", "--weights"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert f"(see {tool} --help)" in process.stderr


def test_a_tool_that_has_read_a_wrong_config_ends_with_status_1_and_the_message_alone(folder):
    process = subprocess.run(
        [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", "base.yaml", "SEEED", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("error: command line: SEEED: the config has no key SEEED; did you mean SEED?")
    assert process.stderr.count("\n") == 1
