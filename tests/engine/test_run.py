import json
import os
from types import SimpleNamespace

import pytest
import torch

from detlite.agreement import require_model_classes
from detlite.checkpoint import load_checkpoint
from detlite.config import load_config
from detlite.engine.output_dir import open_output
from detlite.engine.test import test as run_test
from detlite.engine.train import train
from detlite.errors import UserError


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(metrics):
    return [
        {name: value for name, value in line.items() if not {"seconds", "memory"} & {*name.split("_")}}
        for line in metrics
    ]


def same_weights(first, second):
    first, second = (load_checkpoint(path)["model"] for path in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_leaves_all_that_the_readme_promises(tiny_opts, tmp_path):
    results = train(load_config(opts=tiny_opts()))
    folder = tmp_path / "output"
    names = {"config.yaml", "log.txt", "metrics.jsonl", "model_final.pth", "predictions.json", "evaluation.json"}
    assert names <= {file.name for file in folder.iterdir()}
    assert len(list((folder / "pictures").glob("*.png"))) == 2
    assert json.loads((folder / "evaluation.json").read_text()) == results
    assert 0 <= results["bbox"]["AP"] <= 1
    metrics = read_metrics(folder)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    parts = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    for line in metrics:
        assert line["loss"] == pytest.approx(sum(line[part] for part in parts))


def test_the_written_config_is_complete_and_has_the_data_sets_classes(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)))
    path = tmp_path / "output" / "config.yaml"
    cfg = load_config(path)
    assert cfg.MODEL.CLASSES == ["circle", "square", "triangle"]
    assert cfg.dump() == path.read_text()


def test_testing_the_saved_weights_gives_the_training_s_own_result_to_the_last_digit(tiny_opts, tmp_path):
    results = train(load_config(opts=tiny_opts()))
    folder = tmp_path / "output"
    predictions = (folder / "predictions.json").read_text()
    cfg = load_config(folder / "config.yaml", ["OUTPUT_DIR", str(tmp_path / "again")])
    assert run_test(cfg, folder / "model_final.pth") == results
    assert (tmp_path / "again" / "predictions.json").read_text() == predictions


def test_the_same_seed_gives_the_same_run_with_and_without_workers(tiny_opts, tmp_path):
    for name, workers in (("a", 0), ("b", 2)):
        train(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / name), DATASETS__NUM_WORKERS=workers)))
    assert without_times(read_metrics(tmp_path / "a")) == without_times(read_metrics(tmp_path / "b"))
    assert same_weights(tmp_path / "a" / "model_final.pth", tmp_path / "b" / "model_final.pth")


def test_another_seed_gives_another_run(tiny_opts, tmp_path):
    for seed in (0, 1):
        train(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / str(seed)), SEED=seed, SOLVER__MAX_ITER=1)))
    assert read_metrics(tmp_path / "0")[0]["loss"] != read_metrics(tmp_path / "1")[0]["loss"]


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_never_stopped(tiny_opts, tmp_path, monkeypatch):
    train(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / "whole"))))

    from detlite.engine.trainer import Trainer

    compute_gradients = Trainer.compute_gradients

    def stop_at_step_5(trainer, images, targets):
        if trainer.step == 5:
            raise KeyboardInterrupt
        return compute_gradients(trainer, images, targets)

    cfg = load_config(opts=tiny_opts(SOLVER__CHECKPOINT_PERIOD=3))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "compute_gradients", stop_at_step_5)
        train(cfg)
    train(cfg, resume=True)
    assert same_weights(tmp_path / "whole" / "model_final.pth", tmp_path / "output" / "model_final.pth")
    metrics = [read_metrics(tmp_path / name) for name in ("whole", "output")]
    assert without_times(metrics[0]) == without_times(metrics[1])


def test_resuming_where_there_is_nothing_begins_anew_and_says_so(tiny_opts, tmp_path, capsys):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)), resume=True)
    assert "--resume: there is no checkpoint in" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(tmp_path / "output")] == [1]


def test_an_earlier_run_in_the_same_folder_is_kept(tiny_opts, tmp_path):
    cfg = load_config(opts=tiny_opts(SOLVER__MAX_ITER=1))
    train(cfg)
    first = (tmp_path / "output" / "metrics.jsonl").read_text()
    train(cfg)
    (kept,) = (tmp_path / "output" / "earlier").iterdir()
    assert (kept / "metrics.jsonl").read_text() == first
    assert (kept / "model_final.pth").is_file()


def test_runs_that_began_in_the_same_second_are_all_kept(tmp_path):
    for text in ("first", "second", "third"):
        open_output(tmp_path, keep=False)
        (tmp_path / "config.yaml").write_text(text)
        os.utime(tmp_path / "config.yaml", (1e9, 1e9))
    kept = sorted(file.read_text() for file in tmp_path.glob("earlier/*/config.yaml"))
    assert kept == ["first", "second"]


def test_evaluation_while_training_changes_no_weights(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / "without"))))
    train(load_config(opts=tiny_opts(EVALUATION__PERIOD=2)))
    assert same_weights(tmp_path / "without" / "model_final.pth", tmp_path / "output" / "model_final.pth")
    assert [line["step"] for line in read_metrics(tmp_path / "output") if "bbox" in line] == [2, 4, 6]


def test_classes_that_are_not_the_data_sets_are_refused(tiny_opts):
    with pytest.raises(UserError, match=r"command line: MODEL.CLASSES is \['cat', 'dog'\].*circle"):
        train(load_config(opts=tiny_opts(MODEL__CLASSES=["cat", "dog"])))


def test_classes_in_another_order_are_told_from_other_classes(tiny_opts):
    cfg = load_config(opts=tiny_opts(MODEL__CLASSES=["circle", "square", "triangle"]))
    dataset = SimpleNamespace(classes=["square", "circle", "triangle"])
    with pytest.raises(UserError, match="the same names in another order; set CLASSES of the data set"):
        require_model_classes(cfg, dataset)
    dataset.classes = ["square", "circle", "star"]
    with pytest.raises(UserError, match=r"'triangle'\]: test data must have the same classes"):
        require_model_classes(cfg, dataset)


def test_weights_of_another_detector_are_refused_in_test(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)))
    other = load_config(opts=tiny_opts(MODEL__ROI_HEADS__BOX_HEAD__FC_DIM=8))
    with pytest.raises(UserError, match=r"model_final.pth"):
        run_test(other, tmp_path / "output" / "model_final.pth")


def test_resuming_a_finished_run_trains_nothing_and_loses_no_step(tiny_opts, tmp_path, capsys):
    train(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / "whole"))))
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=3)))
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=3)), resume=True)
    assert load_checkpoint(tmp_path / "output" / "checkpoint_0000003.pth")["step"] == 3
    assert "the config has changed" not in capsys.readouterr().out
    train(load_config(opts=tiny_opts()), resume=True)
    said = capsys.readouterr().out
    assert "From step 4 on, the new values apply:\n  SOLVER.MAX_ITER\n    - 3" in said and said.count("\n    + ") == 1
    assert same_weights(tmp_path / "whole" / "model_final.pth", tmp_path / "output" / "model_final.pth")
    metrics = [without_times(read_metrics(tmp_path / name)) for name in ("whole", "output")]
    assert metrics[0] == metrics[1]


def test_resuming_a_run_that_went_further_says_so(tiny_opts):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=2)))
    with pytest.raises(UserError, match=r"trained for 2 steps, more than SOLVER.MAX_ITER, 1"):
        train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)), resume=True)


def test_mistakes_in_the_test_data_are_told_before_the_training(tiny_opts, tmp_path):
    test_data = {"NAME": "CocoDataset", "ANNOTATIONS": "none.json", "IMAGES": str(tmp_path)}
    with pytest.raises(UserError, match="none.json"):
        train(load_config(opts=tiny_opts(DATASETS__TEST=test_data)))
    assert not (tmp_path / "output").exists()


def test_a_run_that_cannot_start_leaves_the_earlier_one_where_it_was(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)))
    before = {file.name: file.read_bytes() for file in (tmp_path / "output").iterdir() if file.is_file()}
    with pytest.raises(UserError, match="MODEL.CLASSES"):
        train(load_config(opts=tiny_opts(MODEL__CLASSES=["cat", "dog"])))
    assert {file.name: file.read_bytes() for file in (tmp_path / "output").iterdir() if file.is_file()} == before


def test_frozen_layers_without_weights_are_warned_of_in_the_log(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1, MODEL__BACKBONE__FREEZE_AT=2)))
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "MODEL.WEIGHTS is empty, but some layers are frozen" in log
    assert log.index("training on") < log.index("MODEL.WEIGHTS") < log.index("step 1/1")
