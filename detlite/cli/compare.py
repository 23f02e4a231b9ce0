"""``detlite compare``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config, whole_number

HELP = f"""Train a config and variants of it on the same data, steps and seeds, and print a table of their scores.

Each training runs in a separate process and writes to OUTPUT_DIR/compare. A finished training is not repeated.

--variants is a YAML file of labels. Each label has the keys that differ from the config:

  atss: {{MODEL.RPN.MATCHER: {{NAME: ATSSMatcher, K: 81}}}}
  wide: {{MODEL.BACKBONE.WIDTH: 0.5, SOLVER.OPTIMIZER.LR: 0.01}}

{KEYS_HELP}
examples:
  %(prog)s --config-file detlite:quickstart --variants detlite:swaps --jobs 2
  %(prog)s --config-file detlite:quickstart --seeds 0 1 2 --variants my.yaml SOLVER.MAX_ITER 300
  %(prog)s --config-file cells.yaml --folds 5
"""


def parser(prog):
    parser = config_parser(prog, HELP)
    parser.add_argument("--variants", metavar="V", help="YAML file of the variants; default: only the config itself")
    help = "train each variant with each of these SEEDs; the table has the means; default: the config's SEED"
    parser.add_argument("--seeds", metavar="S", type=whole_number(0), nargs="+", default=[], help=help)
    help = "train each variant on each of N divisions of the images, see SPLIT; the table has the means"
    parser.add_argument("--folds", metavar="N", type=whole_number(2), default=0, help=help)
    help = "trainings at a time; default: %(default)s"
    parser.add_argument("--jobs", metavar="J", type=whole_number(1), default=1, help=help)
    return parser


def run(options):
    from detlite.engine.compare import compare, format_table, read_variants
    from detlite.errors import UserError

    variants = read_variants(options.variants) if options.variants else {}
    rows = compare(read_config(options), variants, options.seeds, options.jobs, options.folds)
    print(format_table(rows))
    if failed := [row["variant"] for row in rows if "error" in row]:
        raise UserError(f"failed: {', '.join(failed)}")
