"""Variants of a config, each trained in a process of its own, and the table of what they are worth."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from detlite.cli import main
from detlite.config import load_config, override
from detlite.engine import compare as comparison
from detlite.engine.compare import compare, format_table, given, read_variants
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.signals import EndedBySignal

CONFIGS = Path(__file__).parents[2] / "configs"
SWAPS = {  # (config, label) -> changes
    (config, label): changes
    for config, variants in (("quickstart.yaml", "swaps.yaml"), ("bccd.yaml", "bccd_swaps.yaml"))
    for label, changes in read_variants(CONFIGS / variants).items()
}


@pytest.fixture
def trainings(monkeypatch):
    """A function {label: AP or error} that stands for the processes that train; returns the configs that it got."""

    def stand_for(outcomes):
        configs = []

        def start(command, stdout, **kwargs):
            cfg = load_config(command[-1])
            configs.append(cfg)
            folder = Path(cfg.OUTPUT_DIR)
            outcome = outcomes[folder.parent.name]
            if isinstance(outcome, str):
                stdout.write(f"step 1\n{outcome}\n\n")
                return process(1)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(cfg.dump())
            scores = {"AP": outcome + cfg.SEED / 10, "AP50": 0.5, "AP75": None}
            (folder / "evaluation.json").write_text(json.dumps({"bbox": scores}))
            lines = [{"step": step, "seconds_per_step": 0.25 * step} for step in (1, 2, 3)] + [{"step": 3, "bbox": {}}]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            return process(0)

        def process(status):
            return SimpleNamespace(wait=lambda: status, returncode=status, terminate=lambda: None)

        monkeypatch.setattr(comparison.subprocess, "Popen", start)
        return configs

    return stand_for


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize(("config", "label"), SWAPS)
def test_every_swap_is_a_config_that_builds_and_differs_from_its_base(config, label):
    base = load_config(CONFIGS / config, ["MODEL.DEVICE", "cpu", "MODEL.CLASSES", "[a, b, c]"])
    cfg = override(base, SWAPS[config, label])
    assert cfg.plain() != base.plain()
    assert {key: cfg[key] for key in ("DATASETS", "TRANSFORMS", "EVALUATION")} == {
        key: base[key] for key in ("DATASETS", "TRANSFORMS", "EVALUATION")
    }
    build_model(cfg, initialize=False)


def test_a_row_is_trained_in_its_own_process_and_one_that_fails_leaves_the_others(
    tiny_opts, tmp_path, capfd, booby_trapped
):
    variants = tmp_path / "variants.yaml"
    variants.write_text("l1: {MODEL.ROI_HEADS.BOX_LOSS.NAME: L1Loss}\nlost: {MODEL: {WEIGHTS: nowhere.pth}}\n")
    words = ["compare", "--variants", str(variants), "--jobs", "2", *map(str, tiny_opts(SOLVER__MAX_ITER=1))]
    assert main(words) == 1
    folder = tmp_path / "output" / "compare"
    _, _, default, l1, lost = cells((folder / "table.md").read_text())
    results = json.loads((folder / "l1" / "seed0" / "evaluation.json").read_text())["bbox"]
    assert l1[:2] == ["l1", f"{results['AP']:.3f}"] and default[0] == "default"
    assert lost[0] == "lost" and "nowhere.pth" in lost[1] and "Traceback" not in lost[1]
    printed = capfd.readouterr()
    assert (folder / "table.md").read_text() in printed.out and printed.err == "error: failed: lost\n"
    model = build_model(load_config(folder / "l1" / "seed0" / "config.yaml"))
    assert l1[5] == f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    assert load_config(folder / "l1" / "seed0" / "config.yaml").MODEL.ROI_HEADS.BOX_LOSS.NAME == "L1Loss"


def test_the_table_has_means_each_seed_and_the_difference_to_the_config_itself(tiny_opts, tmp_path, trainings):
    configs = trainings({"default": 0.25, "better": 0.5, "broken": "CUDA: Kaputt"})
    variants = {"better": {"MODEL.RPN.NMS.IOU": 0.5}, "broken": {"MODEL": {"RPN": {"NMS": {"IOU": 0.6}}}}}
    rows = compare(load_config(opts=tiny_opts()), variants, seeds=[0, 2])
    assert sorted((cfg.MODEL.RPN.NMS.IOU, cfg.SEED) for cfg in configs) == [
        (iou, seed) for iou in (0.5, 0.6, 0.7) for seed in (0, 2)
    ]
    header, _, default, better, broken = cells(format_table(rows))
    assert header == ["variant", "AP", "difference", "AP50", "AP75", "parameters", "s/step"]
    assert default[:5] == ["default", "0.350 ± 0.141 (0.250, 0.450)", "", "0.500", "n/a"]
    assert better[:5] == ["better", "0.600 ± 0.141 (0.500, 0.700)", "+0.250", "0.500", "n/a"]
    assert better[6] == "0.500"
    assert broken[0] == "broken" and broken[1].startswith("failed: CUDA: Kaputt (")
    folder = tmp_path / "output" / "compare"
    assert json.loads((folder / "table.json").read_text()) == rows
    assert (folder / "table.md").read_text() == format_table(rows) + "\n"


def test_a_signal_ends_the_trainings_that_run(tiny_opts, monkeypatch):
    started, ended = threading.Event(), threading.Event()

    def start(*args, **kwargs):
        started.set()
        return SimpleNamespace(wait=ended.wait, returncode=143, terminate=ended.set)

    def interrupted(futures):
        assert started.wait(20)
        raise EndedBySignal(143)

    monkeypatch.setattr(comparison.subprocess, "Popen", start)
    monkeypatch.setattr(comparison, "as_completed", interrupted)
    with pytest.raises(EndedBySignal):
        compare(load_config(opts=tiny_opts()), {"a": {"MODEL.RPN.NMS.IOU": 0.5}})
    assert ended.is_set()


def test_a_variant_may_set_the_seed_and_have_a_number_as_label(tiny_opts, tmp_path, trainings):
    (tmp_path / "variants.yaml").write_text("1: {SEED: 3}\n")
    configs = trainings({"default": 0.25, "1": 0.25})
    compare(load_config(opts=tiny_opts()), read_variants(tmp_path / "variants.yaml"))
    assert sorted(cfg.SEED for cfg in configs) == [0, 3]


def test_what_is_finished_with_the_same_config_is_not_trained_again(tiny_opts, trainings):
    cfg, variants = load_config(opts=tiny_opts()), {"a": {"MODEL.RPN.NMS.IOU": 0.5}, "b": {"MODEL.RPN.NMS.IOU": 0.6}}
    trainings({"default": 0.25, "a": 0.5, "b": "Kaputt"})
    compare(cfg, variants)
    again = trainings({"default": 0.75, "a": 0.75, "b": 0.75})
    rows = compare(cfg, {**variants, "a": {"MODEL.RPN.NMS.IOU": 0.4}})
    assert [row["AP"] for row in rows] == [0.25, 0.75, 0.75]
    assert [cfg.MODEL.RPN.NMS.IOU for cfg in again] == [0.4, 0.6]


def test_a_row_leaves_to_the_data_and_the_weights_what_the_config_does():
    assert "CLASSES" not in given(load_config())["MODEL"] and "PIXEL_MEAN" not in given(load_config())["MODEL"]
    cfg = load_config(opts=["MODEL.CLASSES", "[cat]", "MODEL.RPN.MATCHER.NAME", "TopKMatcher"])
    assert given(cfg)["MODEL"]["CLASSES"] == ["cat"]
    assert given(cfg)["MODEL"]["RPN"] == cfg.MODEL.RPN.plain()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a, b]", "mapping from labels"),
        ("default: {SEED: 1}", "is not a valid label"),
        ("../a: {SEED: 1}", "is not a valid label"),
        ("a: {}", "a: expected keys"),
    ],
)
def test_what_is_no_file_of_variants_is_told(tmp_path, text, message):
    file = tmp_path / "variants.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_variants(file)
    with pytest.raises(UserError, match=r"none\.yaml: No such file or directory \(--variants\)"):
        read_variants(tmp_path / "none.yaml")


def test_a_wrong_key_in_a_variant_is_told_before_anything_is_trained(tiny_opts, trainings):
    configs = trainings({"default": 0.5})
    with pytest.raises(UserError, match=r"variant a: .*MIN_SZIE.*MIN_SIZE"):
        compare(load_config(opts=tiny_opts()), {"a": {"MODEL.RPN.MIN_SZIE": 4}})
    assert not configs


def test_folds_test_on_each_part_in_turn(tiny_opts, tmp_path, trainings):
    node = {"NAME": "YoloDataset", "IMAGES": [str(tmp_path)], "CLASSES": ["a"]}
    data = {"DATASETS": {"TRAIN": [node | {"SPLIT": "train"}], "TEST": node | {"SPLIT": "test"}}}
    cfg = override(load_config(opts=tiny_opts()), data)
    configs = trainings({"default": 0.25})
    (row,) = compare(cfg, {}, seeds=[1, 2], folds=3)
    assert row["AP"] == pytest.approx(0.4) and row["AP deviation"] == pytest.approx((6 * 0.05**2 / 5) ** 0.5)
    expected = [(seed, fold, 3) for seed in (1, 2) for fold in range(3)]
    for nodes in ([run.DATASETS.TRAIN[0] for run in configs], [run.DATASETS.TEST for run in configs]):
        assert [(run.SEED, node.FOLD, node.FOLDS) for run, node in zip(configs, nodes, strict=True)] == expected
    tiled = {"NAME": "TiledDataset", "SIZE": 32, "OVERLAP": 8, "DATASET": node | {"SPLIT": "train"}}
    configs = trainings({"default": 0.25})
    compare(override(cfg, {"DATASETS.TRAIN": [tiled], "OUTPUT_DIR": str(tmp_path / "tiled")}), {}, folds=2)
    assert [run.DATASETS.TRAIN[0].DATASET.FOLD for run in configs] == [0, 1]
    with pytest.raises(UserError, match=r"set DATASETS\.TEST\.SPLIT test"):
        compare(override(cfg, {"DATASETS.TEST.SPLIT": "all"}), {}, folds=3)
    several = override(cfg, {"DATASETS.TEST": [node | {"SPLIT": "test"}, node | {"SPLIT": "train"}]})
    with pytest.raises(UserError, match=r"set DATASETS\.TEST\.1\.SPLIT test"):
        compare(several, {}, folds=3)
