"""Each command in processes that resemble ones on Windows: tests/elsewhere/sitecustomize.py says in what."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tiny import TINY

from detlite.data import ShapesDataset

ROOT = Path(__file__).parents[2]
WEIGHTS = "output/tiny/model_final.pth"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function: words of a command -> its output, in a folder with a config and data whose paths have backslashes."""
    folder = tmp_path_factory.mktemp("windows")
    config = {"OUTPUT_DIR": "output/tiny"}
    for key, value in {**TINY, "DATASETS.NUM_WORKERS": 1, "SOLVER.CHECKPOINT_PERIOD": 2}.items():
        *parents, name = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    (folder / "variants.yaml").write_text("other: {SOLVER.OPTIMIZER.LR: 0.001}\n")

    shapes = ShapesDataset(num_images=6, image_size=64)
    truth = shapes.coco()
    (folder / "data/images").mkdir(parents=True)
    for row in truth["images"]:
        image, _ = shapes[row["id"]]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"data/images/{row['id']}.png")
        row["file_name"] = f"images\\{row['id']}.png"
    (folder / "data/shapes.json").write_text(json.dumps(truth))

    settings = {"PYTHONIOENCODING": "cp1252", "PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "ignore"}
    settings |= {"PYTHONPATH": f"{ROOT / 'tests/elsewhere'}{os.pathsep}{ROOT}"}

    def run(*words):
        command = [sys.executable, "-m", "detlite.cli", *words]
        done = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    run("train", "--config-file", "tiny.yaml")
    return run


def test_the_processes_differ_from_those_on_linux(run):
    code = "import fcntl"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/elsewhere")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --config-file tiny.yaml SOLVER.MAX_ITER 8 --resume", "resum"),
        ("train --config-file tiny.yaml", "earlier"),  # the files of the first run are moved
        ("train --config-file tiny.yaml --num-gpus 2 SOLVER.MAX_ITER 2 DATASETS.NUM_WORKERS 0", "trained to step 2"),
        ("init data", "data.yaml"),
        ("check --config-file tiny.yaml", "memory: unknown on this system"),
        (f"test --weights {WEIGHTS} --report --thresholds f1", "AP"),
        (f"predict --weights {WEIGHTS} data/images --output found --format voc --score-threshold 0", "6 images"),
        (f"export --weights {WEIGHTS} --output model.pt2", "wrote"),
        ("export --help", "usage"),
        ("explain --config-file tiny.yaml MODEL.RPN", "MATCHER"),
        ("configs", "detlite:quickstart"),
        (f"visualize --what detections --weights {WEIGHTS} --images 0 1", "output"),
        ("anchors --config-file tiny.yaml", "ANCHOR_GENERATOR"),
        ("compare --config-file tiny.yaml --variants variants.yaml SOLVER.MAX_ITER 2 DATASETS.NUM_WORKERS 0", "other"),
        ("benchmark --config-file tiny.yaml --sizes 64x64 --rounds 1 --modes inference", "peak memory"),
    ],
)
def test_a_command_works(run, words, said):
    assert said in run(*words.split())
