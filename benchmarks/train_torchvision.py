"""Train torchvision's Faster R-CNN instead of a detector: python benchmarks/train_torchvision.py --help."""

import sys

from detlite.cli import run_command
from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

HELP = f"""Train torchvision's Faster R-CNN instead of a config's detector, to compare the two.

The data, their order, the initial weights, the steps and the files in OUTPUT_DIR are those of `detlite train`.

{KEYS_HELP}
examples:
  %(prog)s --config-file configs/quickstart.yaml OUTPUT_DIR output/torchvision
  torchrun --nproc-per-node 2 benchmarks/%(prog)s --config-file configs/quickstart.yaml OUTPUT_DIR output/torchvision
"""


def parser(prog):
    """Return the script's arguments."""
    parser = config_parser(prog, HELP)
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in OUTPUT_DIR")
    return parser


def run(options):
    """Train."""
    from detlite.engine.train import train
    from torchvision_twin import TorchvisionTwin

    train(read_config(options), resume=options.resume, adapt=TorchvisionTwin)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__], sys.argv[1:], "train_torchvision.py"))
