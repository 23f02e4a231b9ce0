"""Command-line arguments that several commands share."""

import argparse
import re

from detlite.errors import CommandLineError, suggest

KEYS_HELP = """\
KEY VALUE pairs change single values of the config:
  SOLVER.MAX_ITER 2000                        a number
  MODEL.RPN.MATCHER.FOREGROUND_IOU 0.6        a key of a part
  MODEL.ROI_HEADS.POOLER.NAME RoIAlign        another part, with its own defaults
  TRANSFORMS.TRAIN.0.SIZE 240                 a key of the first entry of a list
  MODEL.CLASSES "[cat, dog]"                  a list
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that accepts values such as -1e-3, and reports errors in one line."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Before Python 3.14, argparse takes -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message):
        """Raise a CommandLineError with the message. For an unknown option, name its counterpart or a similar one."""
        hint = ""
        if message.startswith("unrecognized arguments: "):
            from detlite.config.foreign import counterpart  # imported late, because --help does not need it

            option = message.split(" ")[2].split("=")[0]  # may be empty
            foreign = counterpart(option)
            hint = f": {foreign}" if foreign else suggest(option, self._option_string_actions)
        elif re.search(r"expected a whole number.*got '[A-Z][A-Z_.0-9]+'", message):
            hint = "; KEY VALUE pairs come before an option that takes several values"
        raise CommandLineError(f"{message}{hint} (see {self.prog} --help)")


def whole_number(minimum):
    """Return the type of an argument that is a whole number of at least ``minimum``."""

    def read(text):
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}, got {text!r}")
        return int(text)

    return read


def number_or_text(text):
    """Return the number that an argument is, or its text."""
    try:
        return float(text)
    except ValueError:
        return text


def add_num_gpus(parser):
    """Add --num-gpus to a command that :func:`detlite.cli.main` can start in several processes."""
    help = "number of processes, one per GPU; on the CPU they share the cores. For several machines, use torchrun"
    parser.add_argument("--num-gpus", type=whole_number(1), default=1, metavar="N", help=help)


def command_parser(prog, description):
    """Return a parser with the arguments of every command: --import and --debug."""
    parser = Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    help = "import this module or .py file with your parts; repeatable"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="M", help=help)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def config_parser(prog, description, without_config="the default config"):
    """Return a parser with the arguments of every command on a config: --config-file, KEY VALUE, --import, --debug."""
    parser = command_parser(prog, description)
    parser.add_argument("--config-file", metavar="F", help=f"YAML config; default: {without_config}")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config, see above")
    return parser


def read_config(options, weights=None):
    """Load the config of a command. Without --config-file, the config in ``weights`` is used, if there are any."""
    if weights is not None and options.config_file is None:
        return weights.load_config(options.opts, options.imports)
    from detlite.config import load_config  # imported late, because --help does not need it

    return load_config(options.config_file, options.opts, options.imports)
