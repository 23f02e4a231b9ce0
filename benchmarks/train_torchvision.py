"""Train torchvision's Faster R-CNN instead of a detector: python benchmarks/train_torchvision.py --help."""

import itertools
import signal
import sys

from detlite.cli import run_command
from detlite.cli.arguments import KEYS_HELP, config_parser, read_config, whole_number

HELP = f"""Train torchvision's Faster R-CNN instead of a config's detector, to compare the two.

The data, their order, the initial weights, the schedule, the evaluators and the files in OUTPUT_DIR are those of
`detlite train`: metrics.jsonl has the learning curve, evaluation.json the scores.

A long training can run in pieces. SIGTERM, or the limit of --steps, ends a piece after its step, with status 143; the
same command with --resume continues as if there had been no stop. --detector detlite trains the config's detector.

{KEYS_HELP}
examples:
  %(prog)s --config-file configs/quickstart.yaml OUTPUT_DIR output/torchvision
  %(prog)s --config-file configs/quickstart.yaml --steps 100 --resume OUTPUT_DIR output/torchvision
  torchrun --nproc-per-node 2 benchmarks/%(prog)s --config-file configs/quickstart.yaml OUTPUT_DIR output/torchvision
"""


def parser(prog):
    """Return the script's arguments."""
    parser = config_parser(prog, HELP)
    help = "default: %(default)s"
    parser.add_argument("--detector", choices=["torchvision", "detlite"], default="torchvision", help=help)
    parser.add_argument("--steps", metavar="S", type=whole_number(1), help="stop after this many steps")
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in OUTPUT_DIR")
    return parser


def run(options):
    """Train."""
    from detlite.engine.train import train
    from torchvision_twin import TorchvisionTwin

    cfg = read_config(options)

    def adapt(model):
        model = model if options.detector == "detlite" else TorchvisionTwin(model)
        if options.steps:
            stop_after(model, options.steps * cfg.SOLVER.ACCUMULATION)
        return model

    train(cfg, resume=options.resume, adapt=adapt)


def stop_after(model, passes):
    """Send SIGTERM to this process in the last of a number of training passes: the step is finished and saved."""
    counter = itertools.count(1)

    def count(module, inputs, losses):
        if module.training and next(counter) == passes:
            signal.raise_signal(signal.SIGTERM)

    model.register_forward_hook(count)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__], sys.argv[1:], "train_torchvision.py"))
