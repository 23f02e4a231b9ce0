"""``detlite anchors``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

HELP = (
    """Find the anchors that fit DATASETS.TRAIN: k-means over the sizes of its boxes, as TRANSFORMS.TRAIN resizes them.
Prints how well they and the config's own anchors fit, and the lines of YAML that use them.

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s --config-file configs/quickstart.yaml --num 6
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP)
    parser.add_argument(
        "--num", metavar="A", type=int, default=9, help="how many, over all feature levels together; default: 9"
    )
    return parser


def run(options):
    """Find anchors."""
    from tabulate import tabulate

    from detlite.preparation.anchors import find_anchors, format_yaml_of

    cfg = read_config(options)
    anchors, rows = find_anchors(cfg, options.num)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f"))
    print(f"\n{format_yaml_of(anchors)}")
