"""``detlite check``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

HELP = (
    """Look at a config's data, image by image, and try out what a training with it would do: weights, two steps, one
evaluation, memory, disk space. Prints a line for each, pass, warning or error with the remedy; OUTPUT_DIR/check.json
has them all. The exit status is 1 if there is an error.

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s --config-file configs/finetune_coco.yaml DATASETS.TRAIN.0.ROOT data/cells DATASETS.TEST.ROOT data/cells
  %(prog)s --config-file configs/quickstart.yaml --data-only
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP)
    parser.add_argument("--data-only", action="store_true", help="stop after the data")
    return parser


def run(options):
    """Check."""
    from detlite.preparation.check import check

    check(read_config(options), data_only=options.data_only)
