"""A hook that sends the numbers of a training to MLflow (pip install mlflow).

detlite train --config-file detlite:quickstart --import examples/mlflow_hook.py HOOKS "[{NAME: MLflowHook}]"
"""

import re

from detlite import distributed
from detlite.files import flatten
from detlite.registry import HOOKS


@HOOKS.register()
class MLflowHook:
    """Sends the numbers of metrics.jsonl and config.yaml to MLflow. A resumed training continues its run.

    Args:
        experiment: experiment of the run.
        run_name: name of the run; empty for that of OUTPUT_DIR.
        tracking_uri: address of the server; empty for MLflow's own choice, such as MLFLOW_TRACKING_URI.
    """

    def __init__(self, trainer, *, experiment: str = "detlite", run_name: str = "", tracking_uri: str = ""):
        self.trainer = trainer
        self.experiment = experiment
        self.run_name = run_name
        self.tracking_uri = tracking_uri
        self.mlflow = self.run_id = None

    def before_train(self):
        """Begin a run, or continue it, in the main process."""
        if not distributed.is_main():
            return
        import mlflow

        folder = self.trainer.folder
        if self.tracking_uri:
            mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_experiment(self.experiment)
        run = mlflow.start_run(run_id=self.run_id, run_name=self.run_name or folder.resolve().name)
        self.run_id = run.info.run_id
        mlflow.log_artifact(str(folder / "config.yaml"))
        self.mlflow = mlflow

    def record(self, line):
        """Send a line's numbers, ``bbox/AP`` for a number in a dict. MLflow ends the run with the process."""
        if self.mlflow:
            # MLflow refuses other characters, which a class may have in its name.
            numbers = {re.sub(r"[^\w/. :-]", "_", name): value for name, value in flatten(line).items()}
            self.mlflow.log_metrics(numbers, step=line["step"])

    def after_failure(self, error):
        """Mark the run as failed."""
        if self.mlflow:
            self.mlflow.end_run("FAILED")

    def state_dict(self):
        """Return the run's id for a checkpoint."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state):
        """On resume, continue the run of the checkpoint."""
        self.run_id = state["run_id"]
