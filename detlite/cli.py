"""The command line: ``detlite train``, ``detlite test``. Nothing heavy is imported until a command runs."""

import argparse
import re
import sys

from detlite.errors import UserError, suggest

KEYS_HELP = """\
KEY VALUE pairs change single values of the config, for example
  SOLVER.MAX_ITER 2000                        a number
  MODEL.RPN.MATCHER.FOREGROUND_IOU 0.6        a key of a part
  MODEL.ROI_HEADS.POOLER.NAME RoIAlign        another part (its own defaults hold)
  TRANSFORMS.TRAIN.0.SIZE 240                 a key of a list's first entry
  "MODEL.CLASSES" "[cat, dog]"                a list
"""

TRAIN_HELP = (
    """Train the detector that a config describes, test it, and leave everything in OUTPUT_DIR: config.yaml (complete),
log.txt, metrics.jsonl, model_final.pth, predictions.json, evaluation.json and pictures.

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s --config-file configs/quickstart.yaml
  %(prog)s --config-file configs/quickstart.yaml SOLVER.MAX_ITER 200 OUTPUT_DIR output/try SEED 1
  %(prog)s --config-file configs/quickstart.yaml --resume
"""
)

TEST_HELP = (
    """Test trained weights on DATASETS.TEST; prints COCO mAP, and writes evaluation.json, predictions.json and pictures
to OUTPUT_DIR.

"""
    + KEYS_HELP
    + """
The weights bring their config; --config-file replaces it. Saved predictions need only the config's data.

examples:
  %(prog)s --weights output/quickstart/model_final.pth
  %(prog)s --config-file output/quickstart/config.yaml --predictions output/quickstart/predictions.json
"""
)


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are as the rest of detlite's, one line, status 1, and that takes -1e-3 for a number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own knows no exponents before Python 3.14

    def error(self, message):
        word = message.removeprefix("unrecognized arguments: ")
        hint = suggest(word.split()[0], self._option_string_actions) if word != message else ""
        raise UserError(f"{message}{hint} (see {self.prog} --help)")


def _parser(prog, description, without_config="the default tree"):
    parser = _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="F", help=f"YAML config; without it, {without_config}")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="M",
        help="module or .py file that registers parts of your own; it is run; may be repeated",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config, see above")
    return parser


def train_command(arguments, prog="detlite train"):
    """``train_net.py``: see TRAIN_HELP."""
    parser = _parser(prog, TRAIN_HELP)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--torchvision",
        action="store_true",
        help="train torchvision's own Faster R-CNN in the detector's place: same data, weights, steps; to compare",
    )
    options = parser.parse_intermixed_args(arguments)

    def run():
        from detlite.config import load_config
        from detlite.engine.run import train

        cfg = load_config(options.config_file, options.opts, options.imports)
        if options.torchvision:
            from detlite.modeling.torchvision_twin import TorchvisionTwin

            train(cfg, resume=options.resume, adapt=TorchvisionTwin)
        else:
            train(cfg, resume=options.resume)

    return run, options.debug


def test_command(arguments, prog="detlite test"):
    """``test_net.py``: see TEST_HELP."""
    parser = _parser(prog, TEST_HELP, without_config="the one that the weights carry")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--weights", metavar="W", help="weights to test, such as model_final.pth")
    given.add_argument("--predictions", metavar="P", help="COCO results to score, such as predictions.json; no model")
    options = parser.parse_intermixed_args(arguments)

    def run():
        from detlite.checkpoint import read_weights
        from detlite.config import load_config
        from detlite.engine.run import score, test

        if options.predictions:
            if not options.config_file and not any(key.startswith("DATASETS.TEST") for key in options.opts[::2]):
                raise UserError("--predictions are scored on a config's DATASETS.TEST: give --config-file, too")
            score(load_config(options.config_file, options.opts, options.imports), options.predictions)
        elif options.config_file is not None:
            test(load_config(options.config_file, options.opts, options.imports), options.weights)
        else:
            weights = read_weights(options.weights)
            test(weights.load_config(options.opts, options.imports), weights)

    return run, options.debug


COMMANDS = {"train": train_command, "test": test_command}


def main(arguments=None, command=None):
    """Run a command; returns the exit status: 0, or 1 after a user's mistake, which is printed as one message.

    Args:
        arguments: the command line without the program's name; None takes ``sys.argv``.
        command: a key of COMMANDS; None takes the first argument.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        if command:
            run, debug = COMMANDS[command](arguments, prog=sys.argv[0].rsplit("/", 1)[-1])
        elif not arguments or arguments[0] in ("-h", "--help"):
            print(f"usage: detlite {{{','.join(COMMANDS)}}} ...; `detlite train --help` teaches each")
            return 0
        elif arguments[0] in COMMANDS:
            run, debug = COMMANDS[arguments[0]](arguments[1:])
        else:
            raise UserError(f"no command {arguments[0]!r}{suggest(arguments[0], COMMANDS)}")
        run()
    except KeyboardInterrupt:
        print("interrupted; a training with a checkpoint goes on with --resume", file=sys.stderr)
        return 130
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
