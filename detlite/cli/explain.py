"""``detlite explain``."""

import json

from detlite.cli.arguments import command_parser, read_config, whole_number
from detlite.errors import UserError

HELP = """Show the values of a config, with the layer that set each and its default.

A KEY limits the output to a value or a part, and adds types, meanings, and the class that receives the value.

examples:
  %(prog)s --config-file detlite:quickstart                            all values
  %(prog)s --config-file detlite:quickstart MODEL.RPN.MATCHER          one part
  %(prog)s --config-file detlite:quickstart SEED TRANSFORMS.TRAIN.0    a value, and the first entry of a list
  %(prog)s SOLVER --set SOLVER.MAX_ITER 200 SEED 1                     with changes; --set comes last
  %(prog)s --weights model_final.pth MODEL.CLASSES TRANSFORMS.TEST     of a model that you received
  %(prog)s --diff detlite:quickstart output/quickstart/config.yaml     differences in meaning; KEYs limit them
  %(prog)s --cost --config-file detlite:quickstart                     parameters, FLOPs, shapes of each part
  %(prog)s --list                                                      all slots and their parts
  %(prog)s --list MATCHER --import my_parts.py                         one slot's parts with their keys
  %(prog)s --schema > detlite.schema.json                              for an editor: completes and checks keys
"""


def parser(prog):
    parser = command_parser(prog, HELP)
    add = parser.add_argument
    add("--config-file", metavar="F", help="YAML config; default: the weights' config, or the default config")
    add("--weights", metavar="W", help="trained weights, which contain their config, such as model_final.pth")
    add("keys", nargs="*", metavar="KEY", help="part, section or value, such as MODEL.RPN.MATCHER")
    help = "changes to the config, as at the end of a training's command"
    add("--set", dest="opts", nargs="+", action="extend", default=[], metavar="KEY VALUE", help=help)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare the meaning of two configs")
    instead.add_argument("--cost", action="store_true", help="show parameters, FLOPs and output shapes of each part")
    instead.add_argument("--list", nargs="?", const="", metavar="SLOT", help="list the slots, or one slot's parts")
    instead.add_argument("--schema", action="store_true", help="print a JSON schema of configs, for editors")
    instead.add_argument("--parts", action="store_true", help="print docs/parts.md: all keys of detlite's parts")
    help = "size of the network's input for --cost; default: 600 800"
    add("--image-size", nargs=2, type=whole_number(1), metavar=("H", "W"), default=(600, 800), help=help)
    return parser


def run(options):
    print(_text(options))


def _text(options):
    from detlite.checkpoint import read_weights
    from detlite.config.catalog import format_parts, format_slots, parts_page
    from detlite.config.explain import explain, format_selection, format_tree, select
    from detlite.config.schema import config_schema

    # Each of these options replaces the explanation.
    if options.diff:
        return _difference(options)
    cfg = read_config(options, read_weights(options.weights) if options.weights else None)
    if options.parts:
        return parts_page()
    if options.schema:
        return json.dumps(config_schema(), indent=1)
    if options.list is not None:
        return format_parts(options.list) if options.list else format_slots()
    if options.cost:
        from detlite.inspection.cost import format_cost

        return format_cost(cfg, options.image_size)

    entries = explain(cfg)
    if not options.keys:
        return format_tree(entries) + _note_on_pixels(cfg, entries)
    parts = [select(entries, key) for key in options.keys]
    return "\n\n".join(map(format_selection, parts)) + _note_on_pixels(cfg, sum(parts, []))


def _difference(options):
    """Compare the two configs of --diff, below the KEYs if there are any."""
    from detlite.config import load_config
    from detlite.config.explain import explain, format_difference, select

    if options.config_file or options.weights:
        raise UserError("--diff names both configs; remove --config-file and --weights")
    sides = []
    for path in options.diff:
        entries = explain(load_config(path, options.opts, options.imports))
        if options.keys:
            entries = sum((select(entries, key) for key in options.keys), [])
        sides.append(entries)
    one, other = options.diff
    text = format_difference(*sides)
    return f"- {one}\n+ {other}\n\n{text}" if text else f"no difference: {one} and {other} mean the same"


def _note_on_pixels(cfg, entries):
    """Return a note on shown defaults that the weights will replace, or an empty text."""
    keys = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.CHANNEL_ORDER")
    shown = [entry.path for entry in entries if entry.path in keys and entry.source == "default"]
    if not cfg.MODEL.WEIGHTS or not shown:
        return ""
    return f"\n\n{', '.join(shown)}: {cfg.MODEL.WEIGHTS} replaces the default if it contains these values."
