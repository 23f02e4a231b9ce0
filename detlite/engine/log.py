"""Built-in hooks that log the progress of a training, and write metrics.jsonl."""

import json
import logging
import os
import statistics
import time
from collections import deque

import torch
from tqdm import tqdm

from detlite.engine.advice import advice
from detlite.engine.averages import add_pairs, means_of
from detlite.logs import on_terminal, progress
from detlite.memory import peak_memory
from detlite.writing import explain_write_errors

logger = logging.getLogger("detlite")


class LogHook:
    """Logs averages after the first step and every ``period`` steps, and shows a progress bar."""

    def __init__(self, trainer, period):
        self.trainer = trainer
        self.period = period
        self.sums = {}
        self.step_seconds = deque(maxlen=100)  # of the latest steps; their median is the time of a typical step
        self.bad_images = self.bad_images_in_all = 0  # since the last line; in the whole run
        self.advised = set()

    def before_train(self):
        """Open the progress bar."""
        trainer = self.trainer
        self.device = next(trainer.model.parameters()).device
        self.begin = time.perf_counter()
        self.bar = progress(total=trainer.max_iter, initial=trainer.start, unit="step", desc="train")

    def after_step(self, result):
        """Add a step to the averages, and write them at the end of each period."""
        values = {
            "loss": sum(result.losses.values()),
            **result.losses,
            "gradient_norm": result.gradient_norm,
            "seconds_per_step": result.seconds,
            "data_seconds_per_step": result.data_seconds,
        }
        add_pairs(self.sums, {name: (value, 1) for name, value in values.items()})
        add_pairs(self.sums, result.statistics)
        self.bad_images += result.bad_images
        done = self.trainer.steps_done
        if done > self.trainer.start + 1:  # the first step is slower
            self.step_seconds.append(result.seconds)
            self.bar.typical_seconds = statistics.median(self.step_seconds)
        self.bar.update()
        if done == 1 or done % self.period == 0 or done == self.trainer.max_iter:
            self.write(result.lr)

    def write(self, lr):
        """Record and log the averages since the last line, and warn about numbers that look wrong."""
        trainer, sums = self.trainer, self.sums
        self.sums = {}
        means = means_of(sums)
        line = {"lr": lr, **means, "bad_images": self.bad_images, "memory_mb": peak_memory() / 1e6}
        if self.device.type == "cuda":
            line["gpu_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 1e6
        trainer.record(line)

        # On a terminal the bar shows the progress, and the line goes to the log file only.
        line = f"step {trainer.steps_done}/{trainer.max_iter}  {describe_means(means)}  lr {lr:.2g}"
        if self.step_seconds:
            left = tqdm.format_interval((trainer.max_iter - trainer.steps_done) * self.bar.typical_seconds)
            line += f"  {left} left"
        if self.bad_images:
            line += f"  {self.bad_images} bad images replaced"
        self.bad_images_in_all += self.bad_images
        self.bad_images = 0
        self.bar.set_postfix_str(f"loss {means['loss']:.3f}", refresh=False)
        logger.log(logging.DEBUG if on_terminal() else logging.INFO, "%s", line)
        self.bar.last_print_t = time.time()  # no line of progress soon after this one

        for name, text in advice(trainer, sums):
            if name not in self.advised:
                logger.warning(text)
            self.advised.add(name)

    def after_train(self):
        """Close the bar and log the total time."""
        self.bar.close()
        seconds = time.perf_counter() - self.begin
        logger.info("trained to step %d in %s", self.trainer.steps_done, tqdm.format_interval(seconds))
        if self.bad_images_in_all:
            logger.warning("%d bad images were replaced by others", self.bad_images_in_all)

    def state_dict(self):
        """Return the sums of the log line in progress."""
        return {
            "sums": {name: list(pair) for name, pair in self.sums.items()},
            "bad_images": self.bad_images,
            "bad_images_in_all": self.bad_images_in_all,
        }

    def load_state_dict(self, state):
        """Continue the log line in progress."""
        self.sums = {name: tuple(pair) for name, pair in state["sums"].items()}
        self.bad_images, self.bad_images_in_all = state["bad_images"], state["bad_images_in_all"]


def describe_means(means):
    """Format the averages of a log line. Numbers that the model does not report are left out."""
    words = [f"{name.removeprefix('loss_')} {value:.4f}" for name, value in means.items() if name.startswith("loss")]
    words.append(f"{means['seconds_per_step']:.3f} s/step ({means['data_seconds_per_step']:.3f} data)")
    for text, name in (("anchors match", "objects_matched"), ("recall", "proposal_recall")):
        if means.get(name) is not None:
            words.append(f"{text} {means[name]:.0%}")
    for text in ("rpn", "roi"):
        if f"{text}_foreground" in means:
            words.append(f"{text} {means[f'{text}_foreground']:.3g}+{means[f'{text}_background']:.3g}")
    return "  ".join(words)


class MetricsHook:
    """Appends recorded numbers to metrics.jsonl, one JSON object per line."""

    def __init__(self, path):
        self.path = path

    def record(self, line):
        """Append a line."""
        with explain_write_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def state_dict(self):
        """Return the size of the file."""
        return {"bytes": self.path.stat().st_size if self.path.is_file() else 0}

    def load_state_dict(self, state):
        """Truncate lines written after the checkpoint. The resumed run writes them again."""
        if self.path.is_file():
            whole = self.path.read_bytes()[: state["bytes"]].rfind(b"\n") + 1
            os.truncate(self.path, whole)
