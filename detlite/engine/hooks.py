"""What happens around the steps of a training: checkpoints and evaluation."""

import logging
import time

from detlite import distributed
from detlite.checkpoint import CheckpointSeries, save_checkpoint
from detlite.engine.output import write_json
from detlite.engine.trainer import NonFiniteError
from detlite.errors import UserError, suggest
from detlite.evaluation.inference import EvaluationStopped

logger = logging.getLogger("detlite")


class CheckpointHook:
    """Saves the whole training state every ``period`` steps and where the training ends, and the final weights.

    Args:
        trainer: the trainer.
        folder: OUTPUT_DIR.
        period: steps between checkpoints.
        keep: how many of them are kept.
        metadata: what a checkpoint carries besides the training state: its config and class names.
    """

    def __init__(self, trainer, folder, period, keep, metadata):
        self.trainer = trainer
        self.folder = folder
        self.period = period
        self.series = CheckpointSeries(folder, keep)
        self.metadata = metadata
        self.saved = None

    def before_train(self):
        """Note what there is already."""
        self.saved = self.trainer.start or None

    def after_step(self):
        """Save the training state when the period is over."""
        if self.trainer.steps_done % self.period == 0:
            self.save_state()

    def after_failure(self, error):
        """Save the state before the step that failed."""
        self.save_state()

    def after_train(self):
        """Save the training state and, unless it was interrupted, ``model_final.pth``."""
        self.save_state()
        if self.trainer.interrupted:
            logger.info("interrupted: saved %s; --resume goes on from there", self.series.path(self.saved))
        else:
            self.save_weights("model_final.pth")

    def save_state(self):
        """Write the numbered checkpoint of the steps that are done, unless it is there."""
        step = self.trainer.steps_done
        if self.saved != step:
            self._save(
                lambda: self.series.save({**self.metadata, **self.trainer.state_dict()}, step), self.series.path(step)
            )
            self.saved = step

    def save_weights(self, name):
        """Write the weights, without what only training needs, to a file in the folder."""
        path = self.folder / name
        content = {**self.metadata, "model": self.trainer.model.state_dict(), "step": self.trainer.steps_done}
        self._save(lambda: save_checkpoint(content, path), path)

    def _save(self, write, path):
        begin = time.perf_counter()
        try:
            write()
        except OSError as error:
            last = (
                ""
                if self.saved is None
                else f"; {self.series.path(self.saved)} is intact, and --resume goes on from it"
            )
            raise UserError(f"{path}: cannot be saved: {error.strerror}{last}") from None
        logger.info("saved %s, %.1f MB in %.2f s", path, path.stat().st_size / 1e6, time.perf_counter() - begin)


class FailureHook:
    """Keeps the batch of a step whose numbers were not finite.

    Args:
        trainer: the trainer.
        folder: OUTPUT_DIR.
    """

    def __init__(self, trainer, folder):
        self.trainer = trainer
        self.folder = folder

    def after_failure(self, error):
        """Write ``failed_step_N.json`` and, with the images and targets, ``failed_step_N.pt``."""
        if isinstance(error, NonFiniteError) and error.report:
            process = f"_process_{distributed.rank()}" if distributed.rank() else ""
            path = self.folder / f"failed_step_{self.trainer.step:07d}{process}"
            write_json(error.report, f"{path}.json")
            save_checkpoint(error.batch, f"{path}.pt")
            logger.info("the images and targets of the step are in %s.pt, its numbers in %s.json", path, path)


class EvaluationHook:
    """Evaluates every ``period`` steps while training, keeps the best weights, and stops where nothing improves.

    An evaluation that was interrupted after its step's checkpoint was saved is done when the run goes on.

    Args:
        trainer: the trainer.
        period: steps between evaluations; 0 for none but that at the end.
        evaluate: (stop) -> results, {"bbox": {"AP": 0.5, ...}, ...}; ``stop()`` says whether to give up.
        best: the number that decides, such as "bbox.AP", or "" for none; of losses the lowest is best.
        patience: evaluations without a better number after which the training stops; 0 for never.
        save_best: () -> None, keeps the weights.
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
        """Do what the run that is gone on with would have done next."""
        if self.trainer.start:
            self.after_step()
            self._stop_if_waited()

    def after_step(self):
        """Evaluate when the period is over, unless training is."""
        done = self.trainer.steps_done
        if self.period and done % self.period == 0 and done < self.trainer.max_iter and self.state["evaluated"] != done:
            try:
                self.results = self.evaluate(self._is_interrupted)
            except EvaluationStopped:
                return
            self._note()
            self._stop_if_waited()

    def finish(self):
        """The results at the end of the training."""
        if self.results is None or self.state["evaluated"] != self.trainer.steps_done:
            self.results = self.evaluate(lambda: False)
            if self.period:
                self._note()
        return self.results

    def _is_interrupted(self):
        """Whether to give up an evaluation; of several processes none may while the others go on."""
        return distributed.count() == 1 and self.trainer.signals.received is not None

    def _note(self):
        """Record the results, and compare them with the best."""
        self.state["evaluated"] = self.trainer.steps_done
        self.trainer.record(self.results)
        if self.best:
            value, old = find_metric(self.results, self.best), self.state["value"]
            sign = -1 if "loss" in self.best else 1
            if value is not None and (old is None or sign * value > sign * old):
                self.state |= {"value": value, "step": self.trainer.steps_done, "waited": 0}
                self.save_best()
            else:
                self.state["waited"] += 1
            text = "%s: the best is %s, at step %d"
            best = "n/a" if self.state["value"] is None else format(self.state["value"], ".4f")
            logger.info(text, self.best, best, self.state["step"])

    def _stop_if_waited(self):
        if self.patience and self.state["waited"] >= self.patience:
            logger.info("%d evaluations without a better %s: training stops", self.state["waited"], self.best)
            self.trainer.stopped = True

    def state_dict(self):
        """The best so far, and how long ago it was."""
        return dict(self.state)

    def load_state_dict(self, state):
        """Go on with these."""
        self.state = dict(state)


def find_metric(results, path):
    """A number in results; None where it is undefined.

    Raises:
        UserError: there is none of that name.

    >>> find_metric({"bbox": {"AP": 0.5}}, "bbox.AP")
    0.5
    """
    groups = {group: values for group, values in results.items() if isinstance(values, dict)}
    names = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    numbers = {name: value for name, value in names.items() if value is None or isinstance(value, (int, float))}
    if path not in numbers:
        raise UserError(f"EVALUATION.BEST: no evaluator gives {path!r}{suggest(path, numbers)}")
    return numbers[path]
