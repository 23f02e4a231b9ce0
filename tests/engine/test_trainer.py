from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detlite.engine.results import NonFiniteError
from detlite.engine.trainer import Trainer
from detlite.errors import UserError


class Slope(nn.Module):
    """A detector's face on one weight w: the loss is the mean over images of w * x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, images, targets):
        return {"loss": sum(self.weight * image for image in images) / len(images)}


def make_trainer(batches, lr=0.5, **options):
    model = Slope()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": lr}], lr=lr)
    return Trainer(model, optimizer, lambda step: 1.0, batches, max_iter=len(batches), **options)


def batch(*numbers):
    return [torch.tensor(float(number)) for number in numbers], [{}] * len(numbers)


def test_a_step_is_one_step_of_the_optimizer():
    trainer = make_trainer([batch(1, 3)])
    trainer.train()
    assert trainer.model.weight.item() == 1 - 0.5 * (1 + 3) / 2


def test_accumulated_parts_give_the_gradient_of_the_whole_batch():
    trainer = make_trainer([batch(1, 3, 5, 7)], accumulation=2)
    trainer.train()
    assert trainer.model.weight.item() == 1 - 0.5 * (1 + 3 + 5 + 7) / 4
    assert trainer.result.losses == {"loss": 4.0}


def test_the_learning_rate_is_the_initial_one_times_the_schedule():
    trainer = make_trainer([batch(1)] * 2)
    trainer.lr_schedule = lambda step: [1.0, 0.1][step]
    trainer.train()
    assert trainer.result.lr == pytest.approx(0.5 * 0.1)
    assert trainer.model.weight.item() == pytest.approx(1 - 0.5 - 0.05)


def test_gradients_are_clipped_by_their_norm():
    trainer = make_trainer([batch(10)], clip_gradient_norm=2.0)
    trainer.train()
    assert trainer.model.weight.item() == pytest.approx(1 - 0.5 * 2, abs=1e-6)


@pytest.mark.parametrize("clip_gradient_norm", [0.0, 1e9])
def test_a_step_whose_gradients_overflow_fp16_is_left_out_without_a_trace(clip_gradient_norm):
    model = Slope()
    model.precision = "fp16"
    groups = [{"params": model.parameters(), "initial_lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9, fused=True)
    trainer = Trainer(
        model, optimizer, lambda step: 1.0, [batch(2)] * 3, max_iter=3, clip_gradient_norm=clip_gradient_norm
    )
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # times 2: more than a float32 holds
    weights = []
    trainer.hooks = [type("Watch", (), {"after_step": lambda self: weights.append(model.weight.item())})()]
    trainer.train()
    assert weights == pytest.approx([1, 1 - 0.5 * 2, 1 - 0.5 * 2 - 0.5 * (0.9 * 2 + 2)])
    assert trainer.scaler.get_scale() == 2.0**126


def test_hooks_are_called_in_order_around_each_step():
    calls = []

    class Hook:
        def before_train(self):
            calls.append("before_train")

        def before_step(self):
            calls.append("before_step")

        def after_step(self):
            calls.append("after_step")

        def after_train(self):
            calls.append("after_train")

    trainer = make_trainer([batch(1)] * 2)
    trainer.hooks = [Hook()]
    trainer.train()
    assert calls == ["before_train", *["before_step", "after_step"] * 2, "after_train"]


def test_a_hook_may_stop_the_training():
    class Stop:
        def after_step(self):
            trainer.stopped = True

    trainer = make_trainer([batch(1)] * 5)
    trainer.hooks = [Stop()]
    trainer.train()
    assert trainer.step == 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    trainer = make_trainer([batch(float("nan"))])
    with pytest.raises(NonFiniteError, match="not finite at step 0: loss, .*nan"):
        trainer.train()
    assert trainer.model.weight.item() == 1 and trainer.model.weight.grad is None


def test_of_accumulated_passes_the_one_that_is_not_finite_names_its_images():
    images, _ = batch(1, 2, float("inf"), 4)
    trainer = make_trainer([(images, [{"image_id": number} for number in (10, 11, 12, 13)])], accumulation=2)
    with pytest.raises(NonFiniteError, match="for the images 10, 12 ") as raised:
        trainer.train()
    assert raised.value.report["image_ids"] == [10, 12] and raised.value.report["not_finite"] == ["loss"]
    assert len(raised.value.batch["images"]) == 4


class Root(Slope):
    """The loss is the root of w - 1 + BatchNorm's mean of nothing: finite at w = 1, its gradient is not."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images, targets):
        self.norm(torch.stack(images)[:, None])
        return {"loss": (self.weight - 1).sqrt()}


@pytest.mark.parametrize("clip_gradient_norm", [0.0, 1.0])
def test_gradients_that_are_not_finite_stop_before_weights_and_statistics_change(clip_gradient_norm):
    model = Root()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 1.0}])
    options = {"max_iter": 1, "clip_gradient_norm": clip_gradient_norm}
    trainer = Trainer(model, optimizer, lambda step: 1.0, [batch(3, 5)], **options)
    with pytest.raises(NonFiniteError, match="not finite at step 0: gradient norm, .*gradient norm inf"):
        trainer.train()
    assert model.weight.item() == 1
    assert model.norm.running_mean.item() == 0 and model.norm.num_batches_tracked.item() == 0


def test_the_gradients_norm_is_told_before_it_is_clipped():
    trainer = make_trainer([batch(10)], clip_gradient_norm=2.0)
    trainer.train()
    assert trainer.result.gradient_norm == 10


def test_statistics_are_summed_over_the_passes():
    trainer = make_trainer([batch(1, 3, 5, 7)], accumulation=2)
    trainer.model.statistics = {"foreground": (torch.tensor(3), 2)}
    trainer.train()
    assert trainer.result.statistics == {"foreground": (6, 4)}


def test_memory_that_runs_out_is_one_message_with_the_remedy():
    trainer = make_trainer([batch(1)])

    def forward(images, targets):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    trainer.model.forward = forward
    with pytest.raises(UserError, match=r"^CUDA out of memory.*GiB\. Raise SOLVER.ACCUMULATION, .*PRECISION bf16.$"):
        trainer.train()


def test_a_failed_step_leaves_batch_norms_statistics_as_they_were():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].eval()
    trainer = make_trainer([batch(1)])
    trainer.model.norms = model
    with pytest.raises(RuntimeError, match="stop"), trainer._undo_on_error():
        model[0](torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
        assert model[0].running_mean.tolist() != [0, 0]
        raise RuntimeError("stop")
    assert model[0].running_mean.tolist() == [0, 0] and model[0].num_batches_tracked == 0


def test_the_average_of_the_weights_is_a_loop_over_the_steps():
    trainer = make_trainer([batch(number) for number in (1, -3, 2, 5)], ema_decay=0.75)
    weights = []
    trainer.hooks = [type("Watch", (), {"after_step": lambda self: weights.append(trainer.model.weight.item())})()]
    trainer.train()
    average = weights[0]
    for weight in weights[1:]:
        average = 0.75 * average + 0.25 * weight
    assert trainer.evaluated_model.weight.item() == pytest.approx(average)
    assert trainer.model.weight.item() == weights[-1] != average


def test_an_average_that_begins_on_resume_begins_at_the_loaded_weights():
    trainer = make_trainer([batch(1)])
    trainer.train()
    resumed = make_trainer([], ema_decay=0.75)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.evaluated_model.weight.item() == trainer.model.weight.item() != make_trainer([]).model.weight.item()


def test_without_a_decay_the_model_is_evaluated():
    trainer = make_trainer([batch(1)])
    assert trainer.evaluated_model is trainer.model and "average" not in trainer.state_dict()


@pytest.mark.parametrize("factor", [float("nan"), -1, None, (1, 1), "text", 10**400])
def test_a_schedule_whose_factor_is_no_finite_number_is_named(factor):
    trainer = SimpleNamespace(lr_schedule=lambda step: factor, step=3)
    with pytest.raises(UserError, match=r"^SOLVER.LR_SCHEDULER: function returned .* at step 3; expected a finite"):
        Trainer._set_lr(trainer, factor)
