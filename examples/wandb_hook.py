"""A hook that sends the numbers of a training to Weights & Biases (pip install wandb).

detlite train --config-file detlite:quickstart --import examples/wandb_hook.py HOOKS "[{NAME: WandbHook}]"
"""

from detlite import distributed
from detlite.config.yaml import parse_yaml
from detlite.files import flatten
from detlite.registry import HOOKS


@HOOKS.register()
class WandbHook:
    """Sends the numbers of metrics.jsonl and the config to Weights & Biases. A resumed training continues its run.

    Args:
        project: project of the run.
        run_name: name of the run; empty for that of OUTPUT_DIR.
    """

    def __init__(self, trainer, *, project: str = "detlite", run_name: str = ""):
        self.trainer = trainer
        self.project = project
        self.run_name = run_name
        self.run = self.run_id = None

    def before_train(self):
        """Begin a run, or continue it, in the main process."""
        if not distributed.is_main():
            return
        import wandb

        folder = self.trainer.folder
        config = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"), "config.yaml")
        name = self.run_name or folder.resolve().name
        self.run = wandb.init(
            project=self.project, name=name, dir=str(folder), config=config, id=self.run_id, resume="allow"
        )
        self.run_id = self.run.id

    def record(self, line):
        """Send a line's numbers, ``bbox/AP`` for a number in a dict. wandb ends the run with the process."""
        if self.run:
            self.run.log(flatten(line), step=line["step"])

    def after_failure(self, error):
        """Mark the run as failed."""
        if self.run:
            self.run.finish(exit_code=1)

    def state_dict(self):
        """Return the run's id for a checkpoint."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state):
        """On resume, continue the run of the checkpoint."""
        self.run_id = state["run_id"]
