"""``detlite train``."""

from detlite.cli.arguments import KEYS_HELP, add_num_gpus, config_parser, read_config

HELP = f"""Train the detector of a config, and test it.

OUTPUT_DIR receives config.yaml (complete), log.txt, metrics.jsonl, model_final.pth, predictions.json, evaluation.json
and pictures.

Ctrl-C (SIGINT), SIGTERM, SIGHUP and SIGUSR1 end the run after the current step: a checkpoint is saved, and the exit
status is 130 or 143. A second Ctrl-C stops at once. A resumed run gives the same results as a run without a stop.

{KEYS_HELP}
examples:
  %(prog)s --config-file detlite:quickstart
  %(prog)s --config-file detlite:quickstart SOLVER.MAX_ITER 200 OUTPUT_DIR output/try SEED 1
  %(prog)s --config-file detlite:quickstart --resume
  %(prog)s --config-file detlite:quickstart --num-gpus 2
"""
RESUME_HELP = """resume from the newest complete checkpoint in OUTPUT_DIR; without a checkpoint, begin a new run. So a
scheduler, or torchrun --max-restarts, can always pass --resume"""


def parser(prog):
    parser = config_parser(prog, HELP)
    parser.add_argument("--resume", action="store_true", help=RESUME_HELP)
    add_num_gpus(parser)
    return parser


def run(options):
    from detlite.engine.train import train
    from detlite.preparation.anchor_recall import log_recall

    train(read_config(options), resume=options.resume, inspect=log_recall)
