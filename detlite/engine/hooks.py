"""Built-in hooks: checkpoints, failed steps and evaluation."""

import logging
import time

from detlite import distributed
from detlite.checkpoint import save_checkpoint
from detlite.checkpoint.files import check_loadable
from detlite.checkpoint.run_checkpoints import CheckpointSeries
from detlite.engine.results import NonFiniteError
from detlite.errors import UserError, suggest
from detlite.evaluation.inference import EvaluationStopped
from detlite.writing import write_json

logger = logging.getLogger("detlite")


class CheckpointHook:
    """Saves the training state every ``period`` steps and at the end, then the final weights.

    ``metadata`` are extra entries of each file: config, class names, pixel statistics.
    """

    def __init__(self, trainer, folder, period, keep, metadata):
        self.trainer = trainer
        self.folder = folder
        self.period = period
        self.series = CheckpointSeries(folder, keep)
        self.metadata = metadata
        self.saved = None

    def before_train(self):
        """On resume, note that the loaded step has been saved."""
        self.saved = self.trainer.start or None  # None at step 0

    def after_step(self):
        """Save the training state at the end of each period. After the first step, check that it could be saved."""
        if self.trainer.steps_done == self.trainer.start + 1:
            check_loadable(self.trainer.state_dict())
        if self.trainer.steps_done % self.period == 0:
            self.save_state()

    def after_failure(self, error):
        """Save the state before the step that failed."""
        self.save_state()

    def after_train(self):
        """Save the training state and, unless the training was interrupted, ``model_final.pth``."""
        self.save_state()
        if self.trainer.interrupted:
            logger.info("interrupted: saved %s; --resume continues from there", self.series.path(self.saved))
        else:
            self.save_weights("model_final.pth")

    def save_state(self):
        """Write the checkpoint of the current step, unless it has been saved already."""
        step = self.trainer.steps_done
        if self.saved == step:
            return
        self._save(lambda content: self.series.save(content, step), self.trainer.state_dict(), self.series.path(step))
        self.saved = step

    def save_weights(self, name):
        """Write the weights, or their average, without optimizer and hooks, to a file in the folder."""
        path = self.folder / name
        content = {"model": self.trainer.evaluated_model.state_dict(), "step": self.trainer.steps_done}
        self._save(lambda content: save_checkpoint(content, path), content, path)

    def _save(self, write, content, path):
        """Create the file ``path`` by ``write(content with metadata)``, and log the file's size and the time."""
        begin = time.perf_counter()
        try:
            write({**self.metadata, **content})
        except UserError as error:
            last = ""
            if self.saved is not None:
                last = f"; {self.series.path(self.saved)} is intact, and --resume continues from there"
            raise UserError(f"{error}{last}") from None
        logger.info("saved %s, %.1f MB in %.2f s", path, path.stat().st_size / 1e6, time.perf_counter() - begin)


class FailureHook:
    """Saves the batch of a step whose losses or gradients are not finite."""

    def __init__(self, trainer, folder):
        self.trainer = trainer
        self.folder = folder

    def after_failure(self, error):
        """Write the numbers to ``failed_step_N.json``, and the images and targets to ``failed_step_N.pt``."""
        if isinstance(error, NonFiniteError) and error.report:
            process = f"_process_{distributed.rank()}" if distributed.rank() else ""
            path = self.folder / f"failed_step_{self.trainer.step:07d}{process}"
            write_json(error.report, f"{path}.json")
            save_checkpoint(error.batch, f"{path}.pt")
            logger.info("the images and targets of the step are in %s.pt, its numbers in %s.json", path, path)


class EvaluationHook:
    """Evaluates every ``period`` steps, keeps the best weights, and stops a training that no longer improves.

    If an evaluation is interrupted, the run that resumes from its step repeats it.

    ``evaluate(stop)`` returns results, {"bbox": {"AP": 0.5, ...}, ...}, or raises EvaluationStopped if ``stop()`` is
    true. ``save_best()`` saves the weights. The other arguments are keys of EVALUATION. If the name ``best`` contains
    "loss", lower is better.
    """

    def __init__(self, trainer, period, evaluate, *, best="", patience=0, save_best=lambda: None):
        self.trainer = trainer
        self.period = period
        self.evaluate = evaluate
        self.best = best
        self.patience = patience
        self.save_best = save_best
        self.state = {"evaluated": 0, "value": None, "step": 0, "waited": 0}
        self.results = None

    def before_train(self):
        """On resume, do the evaluation of this step if the stopped run did not finish it."""
        if self.trainer.start:
            self.after_step()  # returns early if the step has been evaluated; the patience may be used up anyway
            self._stop_without_improvement()

    def after_step(self):
        """Evaluate at the end of each period. The last step is evaluated by :meth:`finish`."""
        done = self.trainer.steps_done
        is_due = self.period and done % self.period == 0 and done < self.trainer.max_iter
        if not is_due or self.state["evaluated"] == done:
            return
        try:
            with self.trainer.unchanging():
                self.results = self.evaluate(self._is_interrupted)
        except EvaluationStopped:
            return
        self._record_results()
        self._stop_without_improvement()

    def finish(self):
        """Return the results of the trained model. Evaluate it first, unless the last step has been evaluated."""
        if self.results is None or self.state["evaluated"] != self.trainer.steps_done:
            self.results = self.evaluate(lambda: False)
            if self.period:
                self._record_results()
        return self.results

    def _is_interrupted(self):
        """Return whether to give up an evaluation. With several processes never: one cannot stop alone."""
        return distributed.count() == 1 and self.trainer.signals.received is not None

    def _record_results(self):
        """Record the results, and save the weights if they are the best."""
        self.state["evaluated"] = self.trainer.steps_done
        self.trainer.record(self.results)
        if not self.best:
            return

        # An undefined value, such as the AP without objects, is never better.
        value = find_metric(self.results, self.best)
        old = self.state["value"]
        sign = -1 if "loss" in ".".join(self.best.split(".")[-2:]) else 1
        if value is not None and (old is None or sign * value > sign * old):
            self.state |= {"value": float(value), "step": self.trainer.steps_done, "waited": 0}
            self.save_best()
        else:
            self.state["waited"] += 1
        best_value = "n/a" if self.state["value"] is None else format(self.state["value"], ".4f")
        logger.info("%s: the best is %s, at step %d", self.best, best_value, self.state["step"])

    def _stop_without_improvement(self):
        """End the training if ``patience`` evaluations in a row brought no improvement."""
        if self.patience and self.state["waited"] >= self.patience:
            logger.info("%d evaluations without a better %s: training stops", self.state["waited"], self.best)
            self.trainer.stopped = True

    def state_dict(self):
        """Return the best value, its name and step, and the number of evaluations since then."""
        return {**self.state, "best": self.best}

    def load_state_dict(self, state):
        """Restore what :meth:`state_dict` returned. The best value of another result is dropped."""
        evaluated = {"evaluated": state["evaluated"]}
        self.state |= evaluated if state.get("best", self.best) != self.best else state


def find_metric(results, path):
    """Look up a result by its dotted name, such as "bbox.AP". Return None if it is undefined."""
    numbers = {}
    for group, values in results.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if value is None or isinstance(value, (int, float)):
                numbers[f"{group}.{name}"] = value
    if path not in numbers:
        raise UserError(f"EVALUATION.BEST: no evaluator returns {path!r}{suggest(path, numbers)}")
    return numbers[path]
