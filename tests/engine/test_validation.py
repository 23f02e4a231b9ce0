"""Evaluation while training: what is measured, that measuring changes nothing, the best weights, and patience."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from detlite.checkpoint import load_checkpoint
from detlite.config import load_config
from detlite.data import build_dataset, build_transforms, test_loader
from detlite.engine.hooks import EvaluationHook
from detlite.engine.train import train
from detlite.engine.trainer import Trainer
from detlite.engine.validation import validation_loss
from detlite.errors import UserError
from detlite.modeling import build_model

LIVELY = {"MODEL__BACKBONE__NORM": "BatchNorm", "MODEL__ROI_HEADS__BOX_HEAD__DROPOUT": 0.5}


def loader(cfg, batch_size):
    transforms = build_transforms(cfg.TRANSFORMS.TEST)
    return test_loader(build_dataset(cfg.DATASETS.TEST), transforms, batch_size=batch_size, num_workers=0)


def test_measuring_changes_no_weights_and_no_line_of_the_training(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / "without"), **LIVELY)))
    measures = {"EVALUATION__PERIOD": 2, "EVALUATION__LOSS": True, "EVALUATION__BEST": "validation.loss"}
    results = train(load_config(opts=tiny_opts(**measures, **LIVELY)))
    states = [load_checkpoint(tmp_path / name / "checkpoint_0000006.pth") for name in ("without", "output")]
    assert states[0]["model"].keys() == states[1]["model"].keys()
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("without", "output")
    ]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1] if "lr" in line]
    evaluations = [line for line in lines[1] if "bbox" in line]
    assert [line["step"] for line in evaluations] == [2, 4, 6]
    assert evaluations[-1] == {"step": 6, **results} == {"step": 6, **json.loads(
        (tmp_path / "output" / "evaluation.json").read_text()
    )}  # fmt: skip
    best = min(evaluations, key=lambda line: line["validation"]["loss"])
    assert load_checkpoint(tmp_path / "output" / "model_best.pth")["step"] == best["step"]


def test_the_validation_loss_is_the_mean_over_images_of_the_training_losses(tiny_opts):
    torch.manual_seed(0)
    cfg = load_config(opts=tiny_opts(MODEL__CLASSES=["circle", "square", "triangle"]))
    model = build_model(cfg)  # without dropout and BatchNorm, so that training mode is the same
    model.roi_heads.box_head.dropout = nn.Identity()
    found = validation_loss(model, loader(cfg, 1))
    expected = [model(images, targets) for images, targets in loader(cfg, 1)]
    for name in ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"):
        assert found[name] == pytest.approx(sum(losses[name].item() for losses in expected) / 5, rel=1e-6)
    assert found["loss"] == pytest.approx(sum(value for name, value in found.items() if name != "loss"))


class Batchy(nn.Module):
    """The loss is the number of images of the batch, which BatchNorm and dropout in training mode would change."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(1), nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(1).eval()

    def forward(self, images, targets):
        assert self.training
        random.random(), np.random.rand(), torch.rand(1)
        values = self.frozen(self.dropout(self.norm(torch.full((4, 1), float(len(images))))))
        return {"loss_a": values.mean()}


def test_it_touches_neither_mode_nor_statistics_nor_random_states_and_weighs_images_equally():
    model = Batchy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    batches = [([0, 0], [{}, {}]), ([], []), ([0], [{}])]
    found = validation_loss(model, batches)
    assert found["loss"] == pytest.approx((2 * 2 + 1 * 1) / 3, rel=1e-4)  # BatchNorm's own eps is 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def run_evaluations(values, *, best="bbox.AP", patience=0, start_state=None, start=0):
    """Training with an evaluation of the given value after each step; the trainer, its hook, and the best's steps."""
    saved = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images, targets):
            return {"loss": self.weight.sum()}

    model = Model()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.0}])
    steps = len(values) + 1
    trainer = Trainer(model, optimizer, lambda step: 1.0, [([0], [{}])] * steps, max_iter=steps, start=start)

    def evaluate(stop):
        return {"bbox": {"AP": values[trainer.steps_done - 1]}, "validation": {"loss": values[trainer.steps_done - 1]}}

    hook = EvaluationHook(
        trainer, 1, evaluate, best=best, patience=patience, save_best=lambda: saved.append(trainer.steps_done)
    )
    trainer.hooks = [hook]
    if start_state:
        hook.load_state_dict(start_state)
    trainer.train()
    return trainer, hook, saved


def test_the_highest_ap_and_the_lowest_loss_are_kept_and_what_is_undefined_is_none():
    assert run_evaluations([None, 0.1, 0.3, 0.2, 0.3])[2] == [2, 3]
    assert run_evaluations([0.5, 0.7, 0.2, None, 0.1], best="validation.loss")[2] == [1, 3, 5]


def test_patience_stops_after_so_many_evaluations_without_a_better_one():
    trainer, hook, saved = run_evaluations([0.1, 0.3, 0.2, 0.3, 0.9], patience=2)
    assert trainer.steps_done == 4 and saved == [1, 2]
    assert run_evaluations([0.1, 0.3, 0.2, 0.4, 0.3, 0.4], patience=2)[0].steps_done == 6


def test_patience_goes_on_where_the_run_was_interrupted():
    state = {"evaluated": 3, "value": 0.3, "step": 2, "waited": 1}
    trainer, hook, saved = run_evaluations([0.1, 0.3, 0.2, 0.3, 0.9], patience=2, start=3, start_state=state)
    assert trainer.steps_done == 4 and not saved
    assert run_evaluations([0.1, 0.3, 0.2, 0.3, 0.9], patience=2, start=4, start_state=hook.state)[0].steps_done == 4


def test_a_run_that_patience_ended_has_its_final_weights_and_results(tiny_opts, tmp_path):
    keys = {"EVALUATION__PERIOD": 1, "EVALUATION__BEST": "bbox.APl", "EVALUATION__PATIENCE": 2}  # no large objects: n/a
    results = train(load_config(opts=tiny_opts(**keys)))
    folder = tmp_path / "output"
    assert load_checkpoint(folder / "model_final.pth")["step"] == 2 and not (folder / "model_best.pth").exists()
    assert results == json.loads((folder / "evaluation.json").read_text())
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"EVALUATION__PERIOD": 2, "EVALUATION__BEST": "bbox.AP5"}, "returns 'bbox.AP5'; did you mean bbox.AP"),
        ({"EVALUATION__PERIOD": 2, "EVALUATION__BEST": "validation.loss"}, "needs EVALUATION.LOSS"),
        ({"EVALUATION__BEST": "bbox.AP"}, "BEST needs a PERIOD"),
        ({"EVALUATION__PERIOD": 2, "EVALUATION__PATIENCE": 3}, "PATIENCE needs BEST"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_told_before_the_training(tiny_opts, tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        train(load_config(opts=tiny_opts(**keys)))
    assert not (tmp_path / "output").exists()
