"""``detlite test``."""

from detlite.cli.arguments import KEYS_HELP, add_num_gpus, config_parser, read_config
from detlite.errors import UserError

HELP = (
    """Test trained weights on DATASETS.TEST; prints COCO mAP, and writes evaluation.json, predictions.json and pictures
to OUTPUT_DIR.

"""
    + KEYS_HELP
    + """
The weights bring their config; --config-file replaces it. Saved predictions need only the config's data.

examples:
  %(prog)s --weights output/quickstart/model_final.pth
  %(prog)s --weights output/quickstart/model_final.pth --report
  %(prog)s --config-file output/quickstart/config.yaml --predictions output/quickstart/predictions.json
  %(prog)s --config-file output/a/config.yaml --predictions output/a --compare output/b
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP, without_config="the one that the weights carry")
    add_num_gpus(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--weights", metavar="W", help="weights to test, such as model_final.pth")
    given.add_argument(
        "--predictions", metavar="P", help="COCO results to score, predictions.json or its run's folder; no model"
    )
    parser.add_argument("--report", action="store_true", help="write OUTPUT_DIR/report.html, too, to look at")
    parser.add_argument(
        "--compare", metavar="P", help="a report beside these predictions on the same data, a file or a run's folder"
    )
    return parser


def run(options):
    """Test weights, or score predictions."""
    from detlite.checkpoint import read_weights
    from detlite.distributed.launcher import is_launched
    from detlite.engine.test import score, test

    page = {"page": options.report, "compare": options.compare}
    if options.predictions:
        if is_launched():
            raise UserError("--predictions are scored by one process: leave out torchrun and --num-gpus")
        if not options.config_file and not any(key.startswith("DATASETS.TEST") for key in options.opts[::2]):
            raise UserError("--predictions are scored on a config's DATASETS.TEST: give --config-file, too")
        score(read_config(options), options.predictions, **page)
    else:
        # Without --config-file the config is in the weights.
        weights = read_weights(options.weights) if options.config_file is None else options.weights
        test(read_config(options, weights), weights, **page)
