"""What the commands' arguments have in common."""

import argparse
import re

from detlite.errors import UserError, suggest

KEYS_HELP = """\
KEY VALUE pairs change single values of the config, for example
  SOLVER.MAX_ITER 2000                        a number
  MODEL.RPN.MATCHER.FOREGROUND_IOU 0.6        a key of a part
  MODEL.ROI_HEADS.POOLER.NAME RoIAlign        another part (its own defaults hold)
  TRANSFORMS.TRAIN.0.SIZE 240                 a key of a list's first entry
  "MODEL.CLASSES" "[cat, dog]"                a list
"""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are as the rest of detlite's, one line, status 1, and that takes -1e-3 for a number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own knows no exponents before Python 3.14

    def error(self, message):
        """Raise the message as a UserError."""
        word = message.removeprefix("unrecognized arguments: ")
        hint = suggest(word.split()[0], self._option_string_actions) if word != message else ""
        raise UserError(f"{message}{hint} (see {self.prog} --help)")


def add_num_gpus(parser):
    """Add --num-gpus to a command that :func:`detlite.cli.main` can start in several processes."""

    def positive(text):
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
        return int(text)

    parser.add_argument(
        "--num-gpus",
        type=positive,
        default=1,
        metavar="N",
        help="processes on this machine, one for each GPU; with MODEL.DEVICE cpu they share the cores (torchrun starts "
        "them on several machines)",
    )


def command_parser(prog, description):
    """A parser with what every command takes: --import and --debug; arguments as for :func:`config_parser`."""
    parser = Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="M",
        help="module or .py file that registers parts of your own; it is run; may be repeated",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def config_parser(prog, description, without_config="the default tree"):
    """A parser with what every command on a config takes: --config-file, --import, --debug and KEY VALUE pairs.

    Args:
        prog: the command's name in its help.
        description: its help text.
        without_config: what holds where no --config-file is given.
    """
    parser = command_parser(prog, description)
    parser.add_argument("--config-file", metavar="F", help=f"YAML config; without it, {without_config}")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config, see above")
    return parser


def read_config(options, weights=None):
    """Load the config that a command's options describe.

    Args:
        options: parsed by :func:`config_parser`.
        weights: :class:`~detlite.checkpoint.Weights` whose config is used without --config-file.
    """
    if weights is not None and options.config_file is None:
        return weights.load_config(options.opts, options.imports)
    from detlite.config import load_config

    return load_config(options.config_file, options.opts, options.imports)
