"""The learning rate at every border, by arithmetic and beside fvcore's schedulers."""

import math
from types import SimpleNamespace

import pytest
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler, MultiStepParamScheduler

from detlite.errors import UserError
from detlite.registry import LR_SCHEDULERS
from detlite.solver import CosineLR, MultiStepLR, build_lr_scheduler


def test_a_named_step_is_the_first_with_the_new_rate():
    schedule = MultiStepLR(10, steps=[3, 7], gamma=0.5)
    assert [schedule(step) for step in range(10)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("max_iter", [7, 70_000, 490_000, 3_000_000])
def test_every_border_is_exact_in_runs_of_any_length(max_iter):
    for border in {1, max_iter // 7, max_iter * 5 // 7, max_iter - 1}:
        schedule = MultiStepLR(max_iter, steps=[border])
        assert schedule(border - 1) == 1 and schedule(border) == 0.1


def test_agrees_with_fvcore_at_every_step():
    schedule = MultiStepLR(1000, steps=[333, 667, 999], gamma=0.5)
    theirs = MultiStepParamScheduler([1, 0.5, 0.25, 0.125], num_updates=1000, milestones=[333, 667, 999])
    assert [schedule(step) for step in range(1000)] == [theirs(step / 1000) for step in range(1000)]


def test_cosine_and_warm_up_equal_fvcores_to_the_bit():
    cosine, line = CosineParamScheduler(1.0, 0.03), LinearParamScheduler(0.001, 1.0)
    schedule = CosineLR(997, final_factor=0.03, warmup_iters=70)
    expected = [cosine(step / 997) * (line(step / 70) if step < 70 else 1.0) for step in range(997)]
    assert [schedule(step) for step in range(997)] == expected


def test_warm_up_is_a_straight_line_that_ends_at_one():
    schedule = MultiStepLR(100, steps=[50], warmup_iters=4, warmup_factor=0.2)
    expected = [0.2, 0.2 + 0.8 * 1 / 4, 0.2 + 0.8 * 2 / 4, 0.2 + 0.8 * 3 / 4]
    assert [schedule(step) for step in range(4)] == pytest.approx(expected)
    assert schedule(0) == 0.2 and schedule(4) == 1 and schedule(49) == 1 and schedule(50) == 0.1


@pytest.mark.parametrize("warmup_iters", [1, 3, 7, 1000])
def test_warm_up_is_exact_at_both_ends_and_never_above_one(warmup_iters):
    schedule = MultiStepLR(10_000, warmup_iters=warmup_iters, warmup_factor=0.001)
    assert schedule(0) == 0.001 and schedule(warmup_iters) == 1
    assert all(schedule(step) < schedule(step + 1) for step in range(warmup_iters))


def test_a_step_within_the_warm_up_multiplies_it():
    schedule = MultiStepLR(100, steps=[2], gamma=0.1, warmup_iters=4, warmup_factor=0.0)
    assert [schedule(step) for step in range(5)] == pytest.approx([0, 0.25, 0.05, 0.075, 0.1])


def test_numbers_below_one_are_fractions_of_the_run():
    assert MultiStepLR(100, steps=[0.07, 0.29, 90]).steps == [7, 29, 90]


@pytest.mark.parametrize("steps", [[50000, 60000], [0.7, 0.9], [0.5, 60000], []])
@pytest.mark.parametrize("max_iter", [1, 2, 20])
def test_a_short_trial_of_any_recipe_runs(steps, max_iter):
    schedule = MultiStepLR(max_iter, steps=steps, warmup_iters=500)
    assert all(0 < schedule(step) <= 1 for step in range(max_iter))


@pytest.mark.parametrize(
    "keys",
    [
        {"STEPS": [7, 3]},
        {"STEPS": [3, 3]},
        {"STEPS": [0]},
        {"STEPS": [-5]},
        {"STEPS": [3.5]},
        {"STEPS": [0.9, 50]},  # 90, then 50
        {"GAMMA": 0.0},
        {"WARMUP_ITERS": -1},
        {"WARMUP_FACTOR": 1.5},
    ],
)
def test_an_impossible_schedule_is_refused_by_name(keys):
    (key,) = keys
    with pytest.raises(UserError, match=f"MultiStepLR: {key.lower()}"):
        LR_SCHEDULERS.build({"NAME": "MultiStepLR", **keys}, 100)


def test_build_lr_scheduler_reads_its_node_and_max_iter():
    solver = SimpleNamespace(LR_SCHEDULER={"NAME": "MultiStepLR", "STEPS": [0.5], "GAMMA": 0.25})
    schedule = build_lr_scheduler(SimpleNamespace(SOLVER=solver), 8)
    assert [schedule(3), schedule(4)] == [1, 0.25]


def test_the_default_is_the_classic_schedule_without_warm_up():
    schedule = MultiStepLR(70000)
    assert [schedule(0), schedule(49999), schedule(50000), schedule(69999)] == [1, 1, 0.1, 0.1]


def test_cosine_falls_from_one_to_its_last_value():
    schedule = CosineLR(200, final_factor=0.1)
    for step in (0, 1, 57, 100, 199):
        assert schedule(step) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * step / 200)) / 2)


def test_cosine_warms_up_in_a_straight_line():
    schedule, plain = CosineLR(200, warmup_iters=10, warmup_factor=0.5), CosineLR(200)
    assert [schedule(step) / plain(step) for step in (0, 5, 10, 11)] == pytest.approx([0.5, 0.75, 1, 1])


@pytest.mark.parametrize("keys", [{"final_factor": 2.0}, {"warmup_iters": -1}, {"warmup_factor": -0.1}])
def test_impossible_cosines_are_refused(keys):
    with pytest.raises(ValueError, match=next(iter(keys))):
        CosineLR(100, **keys)
