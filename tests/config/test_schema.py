"""The JSON schema of configs, checked by an independent validator."""

import json
from pathlib import Path

import jsonschema
import pytest

from detlite.cli import main
from detlite.config import load_config
from detlite.config.schema import config_schema
from detlite.config.yaml import parse_yaml
from detlite.registry import HOOKS, registries

ROOT = Path(__file__).parents[2]
VARIANTS = ("swaps.yaml", "bccd_swaps.yaml", "augmentation.yaml")  # read by compare
CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.name not in VARIANTS]


@pytest.fixture(scope="module")
def validator():
    load_config()  # imports the parts
    schema = config_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def as_json(text):
    """The YAML of a config with JSON's keys."""
    return json.loads(json.dumps(parse_yaml(text, "test")))


def problems(validator, text):
    return [error.json_path for error in validator.iter_errors(as_json(text))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_fits(validator, path):
    assert problems(validator, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "SEED: 1e3",
        "MODEL:",
        "SOLVER: {EPOCHS: 1, MAX_ITER: null}",
        "TRANSFORMS: {TEST: {0: {SIZE: 300}}}",
        "DATASETS: {TEST: [{NAME: ShapesDataset, TITLE: a}, {NAME: ShapesDataset, SEED: 3}]}",
        "MODEL: {ROI_HEADS: {POOLER: {SAMPLING_RATIO: 2}}}  # of RoIAlign, which _BASE_ may name",
        "MODEL: {BACKBONE: {NAME: FPN, BOTTOM_UP: {NAME: VGG, DEPTH: 11}}}",
        "_BASE_: [a.yaml, detlite:modern]",
    ],
)
def test_a_right_value_fits(validator, text):
    assert problems(validator, text) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("SEEED: 1", "$"),
        ("SEED: one", "$.SEED"),
        ("SOLVER: {OPTIMIZER: {NAME: Adam}}", "$.SOLVER.OPTIMIZER"),
        ("MODEL: {RPN: {MATCHER: {NAME: MaxIoUMatcher, K: 9}}}", "$.MODEL.RPN.MATCHER"),
        ("MODEL: {RPN: {MATCHER: {NAME: ATSSMatcher, K: 1.5}}}", "$.MODEL.RPN.MATCHER.K"),
        ("MODEL: {RPN: {HEAD: {OBJECTNESS: softmx}}}", "$.MODEL.RPN.HEAD"),
        ("MODEL: {RPN: {SAMPLER: {NO_SUCH_KEY: 1}}}", "$.MODEL.RPN.SAMPLER"),
        ("TRANSFORMS: {TRAIN: [{SIZE: 300}]}", "$.TRANSFORMS.TRAIN"),
        ("DATASETS: {TRAIN: [{NAME: ShapesDataset, TITLE: a}]}", "$.DATASETS.TRAIN"),
    ],
)
def test_a_wrong_value_is_found_in_its_place(validator, text, place):
    found = problems(validator, text)
    deepest = []
    for error in validator.iter_errors(as_json(text)):
        while error.context:  # into the alternatives of an anyOf
            deepest += [context.json_path for context in error.context]
            error = max(error.context, key=lambda context: len(context.path))
    assert found and any((path + ".").startswith(place + ".") for path in found + deepest)


def test_each_key_has_its_type_its_default_and_its_meaning(validator):
    definitions = validator.schema["definitions"]
    key = definitions["MATCHER.MaxIoUMatcher"]["properties"]["FOREGROUND_IOU"]
    assert (key["type"], key["default"]) == ("number", 0.7) and "positive" in key["description"]
    rpn = definitions["META_ARCHITECTURE+Model.FasterRCNN"]["properties"]["RPN"]["properties"]
    assert rpn["POST_NMS_TOP_N_TEST"]["default"] == 300
    default = {"NAME": "MaxIoUMatcher", "FOREGROUND_IOU": 0.7, "BACKGROUND_IOU": 0.3, "KEEP_BEST": True}
    assert rpn["MATCHER"]["default"] == default
    assert validator.schema["properties"]["OUTPUT_DIR"]["default"] == "output"


def test_every_slot_is_there(validator):
    definitions = validator.schema["definitions"]
    titles = {title.partition("+")[0].partition(".")[0] for title in definitions}
    assert titles == {registry.slot for registry in registries().values()}


def test_the_command_prints_the_schema_with_the_users_parts(tmp_path, capsys):
    head = "from detlite.registry import HOOKS\n\n\n@HOOKS.register()\nclass HookForSchema:\n"
    keys = "every: int = 3, limit: float = float('inf')"  # JSON has no infinite number
    (tmp_path / "part_for_schema.py").write_text(f"{head}    def __init__(self, trainer, *, {keys}): ...\n")
    assert main(["explain", "--schema", "--import", str(tmp_path / "part_for_schema.py")]) == 0
    schema = json.loads(capsys.readouterr().out)
    del HOOKS._obj_map["HookForSchema"]
    properties = schema["definitions"]["HOOK.HookForSchema"]["properties"]
    assert properties["EVERY"] == {"description": "", "type": "integer", "default": 3}
    assert properties["LIMIT"] == {"description": "", "type": "number"}
