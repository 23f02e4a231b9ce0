"""Good inputs that the generators copy and spoil: data sets, the folder of a training, a config."""

import os
import shutil
import sys
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "data"))
from tiny import TINY

from corruptions import node, write_sets
from detlite.cli import main
from detlite.config import load_config

SMALL = TINY | {
    "DATASETS.TRAIN": [{"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 4}],
    "DATASETS.TEST": {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 3},
    "SOLVER.MAX_ITER": 2,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "EVALUATION.PICTURES": 1,
}


def key_values(values):
    """Return {key: value} as words of a command line."""
    return [str(word) for pair in values.items() for word in pair]


def small_config():
    """Return the whole config of a tiny detector, as dicts and lists."""
    return yaml.safe_load(load_config(opts=key_values(SMALL)).dump())


def write_inputs(folder):
    """Write good inputs into a folder.

    These are the data sets ``coco``, ``voc`` and ``yolo``; ``small.yaml``, the config of a tiny detector; and ``run``,
    the OUTPUT_DIR of its training of two steps.
    """
    write_sets(folder)
    config = small_config()
    del config["MODEL"]["CLASSES"]  # the data set's
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    pid = os.fork()
    if pid == 0:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(main(["train", *small(folder), "OUTPUT_DIR", str(folder / "run")]))
    if os.waitpid(pid, 0)[1]:
        raise SystemExit((folder / "log").read_text())


def small(good):
    """Return the words of a command line that name the tiny detector's config."""
    return ["--config-file", str(good / "small.yaml")]


def copy_data(good, form, draw):
    """Copy a data set to ``data``. Return its folder, and the words of a command line that train and test on it."""
    folder = Path("data").absolute()
    shutil.copytree(good / form, folder)
    dataset = node(folder, form) | {"BAD_BOXES": draw.choice(["error", "skip"])}
    keys = {"DATASETS.TRAIN": [dataset], "DATASETS.TEST": dataset, "SOLVER.BATCH_SIZE": 1}
    keys |= {"DATASETS.BAD_IMAGE": draw.choice(["error", "skip"]), "DATASETS.NUM_WORKERS": draw.choice([0, 0, 0, 2])}
    return folder, [*small(good), *key_values(keys)]
