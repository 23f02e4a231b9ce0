import pytest

from detlite.config import load_config
from detlite.engine.steps import check_division, count_steps, describe_schedule, never_falls
from detlite.errors import UserError


def solver(**keys):
    return load_config(opts=[word for key, value in keys.items() for word in (f"SOLVER.{key}", value)]).SOLVER


@pytest.mark.parametrize(
    ("epochs", "batch_size", "num_images", "steps"),
    [(1, 2, 205, 103), (12, 16, 118287, 88716), (0.5, 2, 10, 3), (1.1, 1, 100, 110)],
)
def test_epochs_are_rounded_up_to_whole_steps(epochs, batch_size, num_images, steps):
    assert count_steps(solver(EPOCHS=epochs, BATCH_SIZE=batch_size), num_images) == steps


def test_without_epochs_the_steps_are_max_iter():
    assert count_steps(solver(MAX_ITER=7), num_images=1000) == 7


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "fitting"),
    [(8, 1, 3, "6 or 9"), (8, 2, 3, "6 or 12"), (2, 1, 4, "4"), (8, 4, 4, "16")],
)
def test_a_batch_that_does_not_divide_is_refused_with_what_fits(batch_size, accumulation, processes, fitting):
    with pytest.raises(UserError, match=rf"BATCH_SIZE is {batch_size}, .*, such as {fitting}$"):
        check_division(solver(BATCH_SIZE=batch_size, ACCUMULATION=accumulation), processes)


def test_a_batch_that_divides_is_taken():
    check_division(solver(BATCH_SIZE=12, ACCUMULATION=2), processes=3)


def test_the_logs_first_line_says_what_came_out():
    keys = {"BATCH_SIZE": 16, "ACCUMULATION": 2, "REFERENCE_BATCH_SIZE": 2, "EPOCHS": 12, "OPTIMIZER.LR": 0.001}
    assert describe_schedule(solver(**keys), num_images=4952, processes=4) == (
        "batch 16 (4 processes x 2 passes x 2), lr 0.008 (0.001 x 16/2), 309.5 steps per epoch, 3714 steps, 12 epochs"
    )
    assert describe_schedule(solver(BATCH_SIZE=2, MAX_ITER=50), num_images=100, processes=1) == (
        "batch 2, lr 0.001, 50 steps per epoch, 50 steps, 1 epochs"
    )
    assert describe_schedule(solver(BATCH_SIZE=2, MAX_ITER=70000), num_images=7, processes=1).endswith(", 20000 epochs")


def test_whole_steps_beyond_an_epochs_run_are_noticed_and_fractions_follow_it():
    assert never_falls(solver(EPOCHS=2), max_iter=1000)
    assert not never_falls(solver(EPOCHS=2, **{"LR_SCHEDULER.STEPS": [0.7]}), max_iter=1000)
    assert not never_falls(solver(MAX_ITER=10), max_iter=10)  # a trial run of a config
    assert not never_falls(solver(EPOCHS=2, **{"LR_SCHEDULER.NAME": "CosineLR"}), max_iter=1000)
