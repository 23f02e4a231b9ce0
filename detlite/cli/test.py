"""``detlite test``."""

from detlite.cli.arguments import KEYS_HELP, add_num_gpus, config_parser, number_or_text, read_config
from detlite.errors import UserError

HELP = f"""Test trained weights, or score saved predictions, on DATASETS.TEST.

The command prints COCO's mAP and writes evaluation.json to OUTPUT_DIR; for weights also predictions.json and pictures.
Without --config-file the config is read from the weights, and OUTPUT_DIR is their folder. Predictions need a config
with their data.

{KEYS_HELP}
examples:
  %(prog)s --weights output/quickstart/model_final.pth
  %(prog)s --weights output/quickstart/model_final.pth --report
  %(prog)s --weights output/quickstart/model_final.pth --thresholds 0.9
  %(prog)s --config-file output/quickstart/config.yaml --predictions output/quickstart/predictions.json
  %(prog)s --config-file output/a/config.yaml --predictions output/a --compare output/b
"""


def parser(prog):
    parser = config_parser(prog, HELP, without_config="the weights' config")
    add_num_gpus(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--weights", metavar="W", help="weights to test, such as model_final.pth")
    help = "COCO results to score without a model: predictions.json, or the folder of its run"
    given.add_argument("--predictions", metavar="P", help=help)
    parser.add_argument("--report", action="store_true", help="write OUTPUT_DIR/report.html, a page on the mistakes")
    help = "write the report with these predictions on the same data next to it: a file, or the folder of a run"
    parser.add_argument("--compare", metavar="P", help=help)
    help = "write OUTPUT_DIR/thresholds.json, a score per class for `predict`: with the best F1 (f1), or this precision"
    parser.add_argument("--thresholds", metavar="f1|P", type=number_or_text, help=help)
    return parser


def run(options):
    import torch.distributed

    from detlite.checkpoint import read_weights
    from detlite.engine.test import score, test

    page = {"page": options.report, "compare": options.compare, "thresholds": options.thresholds}
    if options.predictions:
        # Scoring needs no model, and no second process.
        if torch.distributed.is_torchelastic_launched():
            raise UserError("--predictions are scored by one process; remove torchrun or --num-gpus")
        if not options.config_file and not any(key.startswith("DATASETS.TEST") for key in options.opts[::2]):
            raise UserError("--predictions need DATASETS.TEST; add the --config-file of their run")
        score(read_config(options), options.predictions, **page)
    else:
        weights = options.weights
        if options.config_file is None:
            weights = read_weights(weights)  # the config is inside
        test(read_config(options, weights), weights, **page)
