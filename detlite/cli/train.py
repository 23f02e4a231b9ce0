"""``detlite train``."""

from detlite.cli.arguments import KEYS_HELP, add_num_gpus, config_parser, read_config

HELP = (
    """Train the detector that a config describes, test it, and leave everything in OUTPUT_DIR: config.yaml (complete),
log.txt, metrics.jsonl, model_final.pth, predictions.json, evaluation.json and pictures.

"""
    + KEYS_HELP
    + """
SIGINT (Ctrl-C) and SIGTERM finish the step, save, and end with status 130 and 143; a second Ctrl-C stops at once.
--resume goes on as if nothing had been.

examples:
  %(prog)s --config-file configs/quickstart.yaml
  %(prog)s --config-file configs/quickstart.yaml SOLVER.MAX_ITER 200 OUTPUT_DIR output/try SEED 1
  %(prog)s --config-file configs/quickstart.yaml --resume
  %(prog)s --config-file configs/quickstart.yaml --num-gpus 2
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest whole checkpoint in OUTPUT_DIR; where there is none yet, begin anew, so that a "
        "scheduler or torchrun --max-restarts can always give it",
    )
    add_num_gpus(parser)
    return parser


def run(options):
    """Train."""
    from detlite.engine.train import train

    train(read_config(options), resume=options.resume)
