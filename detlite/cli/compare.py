"""``detlite compare``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

HELP = (
    """Train a config and variants of it with the same data, steps and seeds, each in a process of its own, and print a
table of what each is worth. Everything is in OUTPUT_DIR/compare; what is finished there is not trained again.

The variants are a YAML file of labels, each with the keys that are laid over the config:

  atss: {MODEL.RPN.MATCHER: {NAME: ATSSMatcher, K: 81}}
  wide: {MODEL.BACKBONE.WIDTH: 0.5, SOLVER.OPTIMIZER.LR: 0.01}

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s --config-file configs/quickstart.yaml --variants configs/swaps.yaml --jobs 2
  %(prog)s --config-file configs/quickstart.yaml --variants my.yaml --seeds 0 1 2 --jobs 1 SOLVER.MAX_ITER 300
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP)
    parser.add_argument("--variants", metavar="V", required=True, help="YAML file of the variants")
    parser.add_argument(
        "--seeds",
        metavar="S",
        type=int,
        nargs="+",
        default=[],
        help="SEEDs to train each with; the table has their mean; default: the config's",
    )
    parser.add_argument("--jobs", metavar="J", type=int, default=1, help="trainings side by side; default: 1")
    return parser


def run(options):
    """Compare."""
    from detlite.engine.compare import compare, format_table, read_variants

    cfg = read_config(options)
    rows = compare(cfg, read_variants(options.variants), options.seeds, options.jobs)
    print(format_table(rows))
