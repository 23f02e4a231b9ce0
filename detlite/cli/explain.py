"""``detlite explain``."""

import os
import sys

from detlite.cli.arguments import command_parser
from detlite.errors import UserError

HELP = """Show what a config means: every value, which layer set it, and the default.

A KEY shows less, and more of it: a value or a part with type, default, meaning, and the class that takes it.

examples:
  %(prog)s --config-file configs/quickstart.yaml                           the whole tree
  %(prog)s --config-file configs/quickstart.yaml MODEL.RPN.MATCHER         a part
  %(prog)s --config-file configs/quickstart.yaml SEED TRANSFORMS.TRAIN.0   a value, and a list's first entry
  %(prog)s --config-file configs/quickstart.yaml SOLVER --set SOLVER.MAX_ITER 200 SEED 1
                                                           with a training's KEY VALUE pairs: --set goes last
  %(prog)s --diff configs/quickstart.yaml output/quickstart/config.yaml    what differs by meaning, maybe below a KEY
  %(prog)s --cost --config-file configs/quickstart.yaml                    parameters, FLOPs, shapes of each part
  %(prog)s --list                                                          the slots and their parts
  %(prog)s --list MATCHER --import my_parts.py                             a slot's parts, yours too, with their keys
"""


def parser(prog):
    """The command's arguments."""
    parser = command_parser(prog, HELP)
    parser.add_argument("--config-file", metavar="F", help="YAML config; without it, the default tree")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="a part, section or value, such as MODEL.RPN.MATCHER")
    parser.add_argument(
        "--set",
        dest="opts",
        nargs="+",
        action="extend",
        default=[],
        metavar=("KEY VALUE", "KEY VALUE"),
        help="changes to the config, as a training has them at its end",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare two configs by meaning")
    instead.add_argument("--cost", action="store_true", help="parameters, FLOPs and output shapes of each part")
    instead.add_argument("--list", nargs="?", const="", metavar="SLOT", help="the slots, or one slot's parts")
    instead.add_argument("--parts", action="store_true", help="print docs/parts.md: all keys of all of detlite's parts")
    parser.add_argument(
        "--image-size", nargs=2, type=int, metavar=("H", "W"), help="for --cost; else a test image's, transformed"
    )
    return parser


def run(options):
    """Explain, compare, list or count."""
    try:
        print(_text(options), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _text(options):
    from detlite.config import load_config
    from detlite.config.catalog import format_parts, format_slots, parts_page
    from detlite.config.explain import explain, format_difference, format_selection, format_tree, select

    if options.diff:
        if options.config_file:
            raise UserError("--diff names both its configs; leave --config-file out")
        entries = [explain(load_config(path, options.opts, options.imports)) for path in options.diff]
        if options.keys:
            entries = [[entry for part in select(side, options.keys) for entry in part] for side in entries]
        one, other = options.diff
        text = format_difference(*entries)
        return f"- {one}\n+ {other}\n\n{text}" if text else f"no difference: {one} and {other} mean the same"
    cfg = load_config(options.config_file, options.opts, options.imports)
    if options.parts:
        return parts_page()
    if options.list is not None:
        return format_parts(options.list) if options.list else format_slots()
    if options.cost:
        from detlite.inspection.cost import format_cost

        return format_cost(cfg, options.image_size)
    entries = explain(cfg)
    if options.keys:
        parts = select(entries, options.keys)
        shown = [entry for part in parts for entry in part]
        return "\n\n".join(map(format_selection, parts)) + _about_pixels(cfg, shown)
    return format_tree(entries) + _about_pixels(cfg, entries)


def _about_pixels(cfg, entries):
    """What the entries shown cannot tell without reading weights."""
    shown = {entry.path for entry in entries if entry.source == "default"}
    free = [key for key in ("PIXEL_MEAN", "PIXEL_STD", "CHANNEL_ORDER") if f"MODEL.{key}" in shown]
    if not cfg.MODEL.WEIGHTS or not free:
        return ""
    return f"\n\nMODEL's {', '.join(free)} will be those that {cfg.MODEL.WEIGHTS} was trained with, if it tells."
