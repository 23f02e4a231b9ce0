"""What happens around the steps of a training: logs, checkpoints, evaluation."""

import json
import logging
import sys
import time

from tqdm import tqdm

from detlite.checkpoint import save_checkpoint
from detlite.engine import distributed

logger = logging.getLogger("detlite")


class LogHook:
    """A line in the log and one in metrics.jsonl every ``period`` steps; on a terminal a progress bar instead.

    Args:
        trainer: the :class:`~detlite.engine.trainer.Trainer`.
        path: metrics.jsonl; lines are appended.
        period: steps averaged in a line.
    """

    def __init__(self, trainer, path, period):
        self.trainer = trainer
        self.path = path
        self.period = period
        self.sums, self.count = {}, 0
        self.bad_images = self.bad_images_in_all = 0

    def before_train(self):
        """Open the progress bar, if there is a terminal."""
        trainer = self.trainer
        self.begin = time.perf_counter()
        self.bar = tqdm(
            total=trainer.max_iter,
            initial=trainer.start,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def after_step(self):
        """Add the step to the averages; write them when the period is over."""
        trainer = self.trainer
        values = {
            "loss": sum(trainer.losses.values()),
            **trainer.losses,
            "seconds_per_step": trainer.step_seconds,
            "data_seconds_per_step": trainer.data_seconds,
        }
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}
        self.count += 1
        self.bad_images += trainer.bad_images
        self.bar.update()
        done = trainer.steps_done
        if done % self.period and done != trainer.max_iter:
            return
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        append_metrics(self.path, {"step": done, "lr": trainer.lr, **means, "bad_images": self.bad_images})
        left = (trainer.max_iter - done) * (time.perf_counter() - self.begin) / (done - trainer.start)
        losses = "  ".join(
            f"{name.removeprefix('loss_')} {value:.4f}" for name, value in means.items() if "loss" in name
        )
        line = (
            f"step {done}/{trainer.max_iter}  {losses}  lr {trainer.lr:.2g}  {means['seconds_per_step']:.3f} s/step "
            f"({means['data_seconds_per_step']:.3f} data)  {format_seconds(left)} left"
        )
        if self.bad_images:
            line += f"  {self.bad_images} bad images replaced"
        self.bad_images_in_all += self.bad_images
        self.bad_images = 0
        self.bar.set_postfix_str(f"loss {means['loss']:.3f}", refresh=False)
        logger.log(logging.INFO if self.bar.disable else logging.DEBUG, line)

    def after_train(self):
        """Close the progress bar."""
        self.bar.close()
        logger.info(
            "trained to step %d in %s", self.trainer.steps_done, format_seconds(time.perf_counter() - self.begin)
        )
        if self.bad_images_in_all:
            logger.warning("%d times another image took the place of a bad one", self.bad_images_in_all)


class CheckpointHook:
    """Saves the whole training state every ``period`` steps, and at the end the final weights.

    Args:
        trainer: the trainer.
        folder: OUTPUT_DIR.
        period: steps between checkpoints.
        about: what a checkpoint carries besides weights: its config and class names.
    """

    def __init__(self, trainer, folder, period, about):
        self.trainer = trainer
        self.folder = folder
        self.period = period
        self.about = about

    def after_step(self):
        """Save ``checkpoint.pth`` when the period is over."""
        if (self.trainer.steps_done) % self.period == 0:
            self.save("checkpoint.pth", optimizer=self.trainer.optimizer.state_dict())

    def after_train(self):
        """Save ``model_final.pth``, without the optimizer's state, and the training state."""
        self.save("checkpoint.pth", optimizer=self.trainer.optimizer.state_dict())
        self.save("model_final.pth")

    def save(self, name, **more):
        """Write the model, the step and ``more`` to a file in the folder."""
        path = self.folder / name
        content = {"model": self.trainer.model.state_dict(), "step": self.trainer.steps_done, **self.about, **more}
        save_checkpoint(content, path)
        logger.debug("saved %s", path)


class EvaluationHook:
    """Evaluates every ``period`` steps while training; the end of the run evaluates by itself.

    Args:
        trainer: the trainer.
        path: metrics.jsonl.
        period: steps between evaluations; 0 for none.
        evaluate: () -> results.
    """

    def __init__(self, trainer, path, period, evaluate):
        self.trainer = trainer
        self.path = path
        self.period = period
        self.evaluate = evaluate

    def after_step(self):
        """Evaluate when the period is over, unless training is."""
        done = self.trainer.steps_done
        if self.period and done % self.period == 0 and done < self.trainer.max_iter:
            results = self.evaluate()
            if distributed.is_main():
                append_metrics(self.path, {"step": done, **results})


def append_metrics(path, values):
    """Add one JSON object as a line to a file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def format_seconds(seconds):
    """A time in a reader's units.

    >>> format_seconds(3725)
    '1:02:05'
    """
    return tqdm.format_interval(seconds)
