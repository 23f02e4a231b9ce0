"""Custom parts outside the repository, each with at most 20 lines and one line of YAML, in every tool."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detlite.checkpoint import load_checkpoint
from detlite.config.yaml import format_yaml

ROOT = Path(__file__).parents[1]

FOCAL = '''
import torch
from torch.nn import functional as F

from detlite.registry import CLASS_LOSSES


@CLASS_LOSSES.register()
class OwnFocalLoss:
    """Cross-entropy with a small weight for easy examples (Lin et al. 2017).

    Args:
        gamma: how fast the weight falls with the score of the label.
    """

    def __init__(self, *, gamma: float = 2.0):
        self.gamma = gamma

    def __call__(self, logits, labels):
        loss = F.cross_entropy(logits, labels, reduction="none")
        return (1 - torch.exp(-loss)) ** self.gamma * loss
'''
TOP_K = '''
import torch

from detlite.registry import MATCHERS


@MATCHERS.register()
class OwnTopKMatcher:
    """The k boxes whose centers are closest to an object's are positive.

    Args:
        k: boxes per object.
    """

    def __init__(self, *, k: int = 9):
        self.k = k

    def __call__(self, boxes, gt_boxes):
        labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        if len(boxes) == 0 or len(gt_boxes) == 0:
            return labels.clone(), labels
        distances = torch.cdist(*((b[:, :2] + b[:, 2:]) / 2 for b in (gt_boxes, boxes)))
        labels[distances.topk(min(self.k, len(boxes)), largest=False).indices.flatten()] = 1
        return distances.argmin(dim=0), labels
'''
BACKBONE = '''
from torch import nn

from detlite.registry import BACKBONES


@BACKBONES.register()
class OwnBackbone(nn.Module):
    """Four strided convolutions.

    Args:
        width: channels.
    """

    def __init__(self, *, width: int = 32):
        super().__init__()
        sizes = [(3, width)] + [(width, width)] * 3
        self.layers = nn.Sequential(*(nn.Conv2d(*size, 3, stride=2, padding=1) for size in sizes))
        self.channels, self.strides = {"last": width}, {"last": 16}

    def forward(self, images):
        return {"last": self.layers(images).relu()}
'''
TRANSFORM = '''
import multiprocessing
from pathlib import Path

from detlite.registry import TRANSFORMS


@TRANSFORMS.register()
class OwnWitness:
    """Notes in a file how the process that it runs in was started.

    Args:
        file: where.
    """

    def __init__(self, *, file: str = ""):
        self.file = Path(file)

    def __call__(self, image, target):
        self.file.write_text(f"{multiprocessing.get_start_method()} {multiprocessing.parent_process() is not None}")
        return image, target
'''
PARTS = {"own_focal.py": FOCAL, "own_top_k.py": TOP_K, "own_backbone.py": BACKBONE, "own_transform.py": TRANSFORM}
LINES = {
    "own_focal.yaml": "{IMPORTS: [own_focal.py], MODEL: {RPN: {CLASS_LOSS: {NAME: OwnFocalLoss, GAMMA: 1.5}}}}",
    "own_top_k.yaml": "{IMPORTS: [own_top_k.py], MODEL: {RPN: {MATCHER: {NAME: OwnTopKMatcher, K: 5}}}}",
    "own_backbone.yaml": "{IMPORTS: [own_backbone.py], MODEL: {BACKBONE: {NAME: OwnBackbone, WIDTH: 12}}}",
}
SPAWN = """
import multiprocessing
import sys

from detlite.cli import main

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main(command="train"))
"""


def run(*words, cwd):
    """Run a Python program on one thread and return its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, words)]
    process = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def folder(tmp_path, tiny_opts):
    """Write custom parts with a YAML line each, and own.yaml, which adds all of them to tiny.yaml."""
    for name, text in (PARTS | LINES).items():
        (tmp_path / name).write_text(text)
    words = tiny_opts(SOLVER__MAX_ITER=2, EVALUATION__PICTURES=0)
    values = {}
    for key, value in zip(words[::2], words[1::2], strict=True):
        *parents, leaf = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    (tmp_path / "tiny.yaml").write_text(format_yaml(values))
    (tmp_path / "own.yaml").write_text(f"_BASE_: [tiny.yaml, {', '.join(LINES)}]")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_each_part_is_at_most_20_lines_and_one_line_of_yaml():
    for text in PARTS.values():
        assert len([line for line in text.splitlines() if line.strip()]) <= 20
    assert all(len(line.splitlines()) == 1 for line in LINES.values())


def test_a_loss_a_matcher_and_a_backbone_train_in_two_processes_and_are_tested_from_the_weights_alone(folder):
    away = folder / "elsewhere"
    run(ROOT / "tools/train_net.py", "--config-file", "../own.yaml", "--num-gpus", "2", cwd=away)
    output = folder / "output"
    config = (output / "config.yaml").read_text()
    assert all(name in config for name in ("OwnFocalLoss", "OwnTopKMatcher", "OwnBackbone"))
    weights = load_checkpoint(output / "model_final.pth")["model"]
    assert weights["backbone.layers.3.weight"].shape == (12, 12, 3, 3)
    results = json.loads((output / "evaluation.json").read_text())

    imports = [word for name in list(PARTS)[:3] for word in ("--import", f"../{name}")]
    words = ["--weights", output / "model_final.pth", *imports, "OUTPUT_DIR", "tested"]
    run(ROOT / "tools/test_net.py", *words, cwd=away)
    assert json.loads((away / "tested" / "evaluation.json").read_text()) == results


def test_parts_are_there_in_workers_that_are_spawned(folder):
    (folder / "spawn.py").write_text(SPAWN)
    transform = f"[{{NAME: OwnWitness, FILE: {folder / 'witness'}}}]"
    words = ["TRANSFORMS.TRAIN", transform, "DATASETS.NUM_WORKERS", "1"]
    run("spawn.py", "--config-file", "own.yaml", "--import", "own_transform.py", *words, cwd=folder)
    assert (folder / "witness").read_text() == "spawn True"
    assert (folder / "output" / "evaluation.json").is_file()


def test_the_readmes_matcher_of_at_most_20_lines_runs_unchanged(tmp_path):
    section = re.search(r"\n## A custom part\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    part = re.search(r"`my_parts\.py`.*?```python\n(.*?)```", section, re.DOTALL)[1]
    config = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1]
    assert len([line for line in part.splitlines() if line.strip()]) <= 20
    (tmp_path / "my_parts.py").write_text(part)
    (tmp_path / "own.yaml").write_text(config)
    (tmp_path / "detlite").symlink_to(ROOT)
    less = "SOLVER.MAX_ITER 1 SOLVER.BATCH_SIZE 2 DATASETS.TEST.NUM_IMAGES 2 EVALUATION.PICTURES 0 MODEL.DEVICE cpu"
    run(ROOT / "tools/train_net.py", "--config-file", "own.yaml", *less.split(), cwd=tmp_path)
    (output,) = tmp_path.glob("output/*/config.yaml")
    assert "NAME: TopIoUMatcher\n      K: 5" in output.read_text()
    assert (output.parent / "evaluation.json").is_file()
