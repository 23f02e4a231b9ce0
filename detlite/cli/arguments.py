"""Arguments that several commands have."""

import argparse
import re

from detlite.errors import UserError, suggest

KEYS_HELP = """\
KEY VALUE pairs change single values of the config:
  SOLVER.MAX_ITER 2000                        a number
  MODEL.RPN.MATCHER.FOREGROUND_IOU 0.6        a key of a part
  MODEL.ROI_HEADS.POOLER.NAME RoIAlign        another part, with its own defaults
  TRANSFORMS.TRAIN.0.SIZE 240                 a key of the first entry of a list
  MODEL.CLASSES "[cat, dog]"                  a list
"""


class Parser(argparse.ArgumentParser):
    """argparse with detlite's one-line errors, and with numbers such as -1e-3."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse knows no exponents before Python 3.14

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

    help = "processes on this machine, one per GPU; with MODEL.DEVICE cpu they share the cores; use torchrun for "
    help += "several machines"
    parser.add_argument("--num-gpus", type=positive, default=1, metavar="N", help=help)


def command_parser(prog, description):
    """Return a parser with the arguments of every command: --import and --debug."""
    parser = Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    help = "module or .py file with your parts, which is imported; repeatable"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="M", help=help)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def config_parser(prog, description, without_config="the default config"):
    """Return a parser with the arguments of every command on a config: --config-file, KEY VALUE, --import, --debug.

    ``without_config`` names, in the help text, the config that is used without --config-file.
    """
    parser = command_parser(prog, description)
    parser.add_argument("--config-file", metavar="F", help=f"YAML config; default: {without_config}")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config, see above")
    return parser


def read_config(options, weights=None):
    """Load the config that the options of :func:`config_parser` describe.

    Without --config-file it is the config of ``weights``, a :class:`~detlite.checkpoint.weights.Weights`, if given.
    """
    if weights is not None and options.config_file is None:
        return weights.load_config(options.opts, options.imports)
    from detlite.config import load_config

    return load_config(options.config_file, options.opts, options.imports)
