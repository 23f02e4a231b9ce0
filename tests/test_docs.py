"""Every command and code block of README and docs runs, on tiny data; a block that no rule below is for fails.

Python blocks are run as they stand. Commands are run in this process, with keys that make them small, or, where they
would take long or need what a test has not, read as far as their config.
"""

import importlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

import detlite.config
import results
from detlite.cli import COMMANDS, main, run_command
from detlite.config import load_config
from detlite.data import ShapesDataset
from detlite.engine.compare import read_variants
from detlite.registry import CLASS_LOSSES, DATASETS
from detlite.testing import check_class_loss

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
MODEL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.RPN.HEAD.CONV_DIM": 16,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
    "DATASETS.NUM_WORKERS": 0,
    "SOLVER.MAX_ITER": 2,
    "EVALUATION.PICTURES": 1,
}
SHAPES = {
    **MODEL,
    "DATASETS.TRAIN.0.NUM_IMAGES": 8,
    "DATASETS.TRAIN.0.IMAGE_SIZE": 64,
    "DATASETS.TEST.NUM_IMAGES": 8,
    "DATASETS.TEST.IMAGE_SIZE": 64,
    "SOLVER.BATCH_SIZE": 2,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 1,
}
CELLS = {**MODEL, "TRANSFORMS.TRAIN.1.SIZE": 64, "TRANSFORMS.TEST.0.SIZE": 64, "SOLVER.BATCH_SIZE": 2}
NO_WORKERS = ["--workers", "0", "--device", "cpu"]


def words(values):
    return [str(word) for pair in values.items() for word in pair]


class Run(NamedTuple):
    """Run the command with more arguments."""

    more: tuple = ()


class Read(NamedTuple):
    """Only parse the command, and load its config."""

    why: str


class Known(NamedTuple):
    """No command of detlite's: what must be in which file for it to work."""

    file: str
    text: str


# The first rule whose pattern matches a command from its beginning is its rule.
RULES = [
    (r"make (quickstart|test)", Known("Makefile", ".PHONY: quickstart test")),
    (r"python3 -m venv", Known("Makefile", "-m venv")),
    (r"\S*python -m pip install -e \".\[test\]\"", Known("setup.py", '"test": TEST')),
    (r"\S*python -m pytest", Known("setup.py", '"pytest"')),
    (r"ruff (check|format)", Known("setup.py", '"ruff"')),
    (r"torchrun", Read("several processes")),
    (r".*--num-gpus", Read("several processes")),
    (r"detlite init data/cells", Run()),
    (r"detlite check --config-file cells.yaml", Run(("--data-only", *words(CELLS)))),
    (r"detlite train --config-file cells.yaml", Run(tuple(words(CELLS)))),
    (r"detlite test --weights output/cells", Run()),
    (r"detlite predict .* clip.avi", Known("detlite/prediction/videos.py", '".avi"')),
    (r"detlite (predict|explain) --weights model_final.pth", Read("the same as with other weights")),
    (r"cp -r photos relabeled/images", Known("docs/detecting.md", "to a folder `images`")),
    (r"detlite init relabeled", Known("detlite/cli/init.py", 'choices=("coco", "voc", "yolo")')),
    (r"python examples/service", Known("examples/service/service.py", "listening on")),
    (r"curl", Known("examples/service/service.py", "curl --data-binary @photo.jpg localhost:8000")),
    (r"detlite predict", Run(tuple(NO_WORKERS))),
    (r"python tools/test_net.py", Run()),
    (r"python tools/visualize.py --what anchors", Read("a full-width VGG16")),
    (r"python tools/visualize.py --what mistakes", Run()),
    (r"python tools/explain.py", Run()),
    (r"python tools/export.py", Read("tests/prediction/test_export.py runs it")),
    (r"detlite export", Read("tests/prediction/test_export.py runs it")),
    (r"python examples/openvino_without", Known("examples/openvino_without_detlite.py", "import openvino")),
    (r"python examples/onnx_without_detlite.py", Known("examples/onnx_without_detlite.py", "onnxruntime")),
    (r"detlite anchors", Run(tuple(words(SHAPES)))),
    (r"detlite compare", Read("fifteen trainings")),
    (r"python tools/benchmark.py", Read("a full-width VGG16, many times")),
    (r"python benchmarks/speed.py", Read("a full-width VGG16, many times")),
    (r"python benchmarks/deployment.py", Known("benchmarks/deployment.py", "--threads")),
    (r"python benchmarks/train_torchvision.py", Read("a full-width VGG16 on VOC")),
    (r"python benchmarks/swap_matrix.py", Run(("--count", "2"))),
    (r"python tests/attacks/run.py", Known("tests/attacks/run.py", "--count")),
    (r"python tools/train_net.py --config-file configs/finetune_coco.yaml", Read("a full-width VGG16")),
    (r"\S*python tools/train_net.py --config-file configs/quickstart.yaml", Run(tuple(words(SHAPES)))),
]
# The files that python and yaml blocks stand for, by a line that is in them.
FILES = {"class TopIoUMatcher": "my_parts.py", "IMPORTS: [./my_parts.py]": "my.yaml"}
OUTPUT_ONLY = {"training on 8000 images"}  # blocks without a language: what a command prints


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def blocks_of(page):
    found, language, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip().startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line.strip()[3:], number, []
        else:
            indent = min((len(text) - len(text.lstrip()) for text in lines if text.strip()), default=0)
            found.append(Block(page.name, start, language, "\n".join(text[indent:] for text in lines)))
            language = None
    assert language is None, f"{page}:{start}: a block without an end"
    return found


def as_program(blocks):
    """Join the python blocks of a page, which is one program."""
    code = [block for block in blocks if block.language == "python"]
    return [Block(code[0].page, code[0].line, "python", "\n\n".join(block.text for block in code))]


PROGRAM = ROOT / "docs/python.md"
BLOCKS = [block for page in PAGES if page != PROGRAM for block in blocks_of(page)] + as_program(blocks_of(PROGRAM))


def commands_of(block):
    text = re.sub(r"\\\n\s*", "", block.text)
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    return [command for line in lines for command in line.split(" && ") if command]


COMMAND_LINES = [
    pytest.param(command, id=f"{block.page}:{block.line}: {command[:60]}")
    for block in BLOCKS
    if block.language == "bash"
    for command in commands_of(block)
]


def rule_of(command):
    return next(((pattern, rule) for pattern, rule in RULES if re.match(pattern, command)), (None, None))


def parts_of(command):
    """(command or module of a benchmark, its arguments) of a line with ``detlite X``, ``tools/x.py`` and so on."""
    given = shlex.split(command)
    index = next(i for i, word in enumerate(given) if re.fullmatch(r"detlite|(tools|benchmarks)/\w+\.py", word))
    script, arguments = given[index], given[index + 1 :]
    if script == "detlite":
        return arguments[0], arguments[1:]
    if script.startswith("benchmarks/"):
        return Path(script).stem, arguments
    return re.search(r'command="(\w+)"', (ROOT / script).read_text())[1], arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader has: the repository's files, data, photographs, a part, and a detector of the quick start."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("configs", "tools", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "detlite").symlink_to(ROOT)
    shapes = ShapesDataset(num_images=6, image_size=64)
    truth = shapes.coco()
    for path in ("data/cells/images", "photos", "more/deep"):
        (folder / path).mkdir(parents=True)
    for row in truth["images"]:
        row["file_name"] = f"{row['id']}.png"
        Image.fromarray(shapes[row["id"]][0].permute(1, 2, 0).numpy()).save(
            folder / "data/cells/images" / row["file_name"]
        )
    for copy in ("photo.jpg", "photos/a.jpg", "more/deep/b.png"):
        Image.open(folder / "data/cells/images/0.png").save(folder / copy)
    (folder / "data/cells/cells.json").write_text(json.dumps(truth))
    for block in BLOCKS:
        for sign, name in FILES.items():
            if sign in block.text:
                (folder / name).write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        opts = words({**SHAPES, "OUTPUT_DIR": "output/quickstart", "MODEL.ROI_HEADS.SCORE_THRESHOLD": 0})
        assert main(["train", "--config-file", "configs/quickstart.yaml", *opts]) == 0
        for run in ("a", "b"):
            shutil.copytree("output/quickstart", f"output/{run}")
        assert main(["init", "data/cells"]) == 0
        assert main(["train", "--config-file", "cells.yaml", *words(CELLS)]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """The test runs in that folder."""
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_a_command_of_the_docs_works(command, here, capsys):
    pattern, rule = rule_of(command)
    assert rule, "no rule of this file is for this command"
    if isinstance(rule, Known):
        assert rule.text in (ROOT / rule.file).read_text()
        return
    name, arguments = parts_of(command)
    module = f"detlite.cli.{name}" if name in COMMANDS else name
    if isinstance(rule, Read):
        options = importlib.import_module(module).parser(name).parse_intermixed_args(arguments)
        load_config(options.config_file, options.opts, options.imports)
        return
    if name == "init":
        Path("cells.yaml").unlink(missing_ok=True)
    arguments += rule.more
    if name in COMMANDS:
        status = main([name, *arguments])
    else:
        status = run_command(importlib.import_module(module), arguments, name)
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: f"{b.page}:{b.line}")
def test_a_python_block_of_the_docs_runs(block, here, monkeypatch):
    def tiny_config(path=None, opts=(), imports=()):
        small = dict(CELLS if path == "cells.yaml" else SHAPES)
        if "SOLVER.EPOCHS" in opts:
            small["SOLVER.EPOCHS"] = small.pop("SOLVER.MAX_ITER") / 10
        return load_config(path, [*opts, *words(small)], imports)

    monkeypatch.setattr(detlite.config, "load_config", tiny_config)
    own = [name for sign, name in FILES.items() if sign in block.text]
    if own:  # a part's file, which other blocks import
        load_config(imports=[str(here / name) for name in own])
        return
    path = here / f"{block.page}_{block.line}.py"
    path.write_text(block.text)
    runpy.run_path(str(path))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: f"{b.page}:{b.line}")
def test_a_yaml_block_of_the_docs_is_a_config(block, here):
    path = here / "block.yaml"
    path.write_text(block.text)
    load_config(path)


def test_there_is_no_block_of_another_kind():
    for block in BLOCKS:
        assert block.language in ("bash", "python", "yaml", "mermaid") or any(
            sign in block.text for sign in OUTPUT_ONLY
        ), block


def test_every_rule_has_its_command():
    used = {rule_of(parameter.values[0])[0] for parameter in COMMAND_LINES}
    assert [pattern for pattern, _ in RULES if pattern not in used] == []


def test_the_table_of_public_names_has_those_that_the_packages_export():
    rows = re.findall(r"^\| `(detlite[\w.]*)` \| (.*?) \|", PROGRAM.read_text(encoding="utf-8"), re.M)
    listed = {}
    for module, names in rows:
        listed.setdefault(module, []).extend(re.findall(r"`(\w+)`", names))
    exported = {module: sorted(importlib.import_module(module).__all__) for module in listed}
    assert {module: sorted(names) for module, names in listed.items()} == exported and len(exported) == 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, link
    for name in re.findall(r"`((?:tools|benchmarks|configs|docs|examples|tests)/[\w/]+\.\w+)`", text):
        assert (ROOT / name).exists(), name


def test_the_tables_of_the_page_on_results_are_those_of_its_files():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines()
    tables = [line for length in results.LENGTHS for line in results.table(length)]
    assert len(tables) > 4 and set(tables) <= set(page)


def test_each_claim_of_the_page_on_safety_names_tests_that_are_there():
    text = (ROOT / "docs/safety.md").read_text(encoding="utf-8")
    claims = re.split(r"^- ", text.split("## What is safe to open")[1].split("\n## ")[0], flags=re.M)[1:]
    named = [re.findall(r"`([\w/]+\.py)::(\w+)`", claim) for claim in claims]
    assert len(named) > 8 and all(named)
    for path, name in sum(named, []):
        assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), name


def test_the_files_of_one_images_path_are_those_that_run():
    command = [sys.executable, str(ROOT / "benchmarks/trace_image.py"), "--list", "--checkout", str(ROOT)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    traced = re.findall(r"^ *\d+ +\d+ +(\S+\.py)$", process.stdout, re.M)
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## The path of one image")[1]
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", section.split("\n## ")[0], re.M)
    assert listed == traced and len(traced) > 20


def test_the_example_of_a_training_loop_runs(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["own_training_loop.py", *words(SHAPES)])
    torch.manual_seed(0)
    runpy.run_path(str(ROOT / "examples/own_training_loop.py"), run_name="__main__")
    assert "boxes" in capsys.readouterr().out


def test_the_example_of_a_plugin_keeps_its_contract_and_trains_as_its_docstring_says(here):
    text = re.sub(r"\\\n\s*", "", (ROOT / "examples/focal_loss_plugin.py").read_text())
    command = re.search(r"^detlite train .*", text, re.M)[0]
    name, arguments = parts_of(command)
    assert main([name, *arguments, *words(SHAPES), "OUTPUT_DIR", "output/plugin"]) == 0
    assert "SoftFocalLoss" in Path("output/plugin/config.yaml").read_text()
    check_class_loss(CLASS_LOSSES.get("SoftFocalLoss")())


def test_the_example_of_a_rare_class_has_one_circle_per_fifty_other_objects():
    module = runpy.run_path(str(ROOT / "examples/rare_class.py"))
    dataset = module["RareCircleDataset"](num_images=400)
    assert len(read_variants(ROOT / "examples/rare_class.yaml")) == 3
    objects = [annotation["category_id"] for annotation in dataset.coco()["annotations"]]
    circles = objects.count(1)
    assert 49 <= (len(objects) - circles) / circles <= 60
    del DATASETS._obj_map["RareCircleDataset"]
