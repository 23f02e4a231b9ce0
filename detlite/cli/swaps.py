"""``detlite swaps``."""

from detlite.cli.arguments import command_parser, whole_number
from detlite.errors import UserError

HELP = """Test whether parts work together: build random combinations of the registered parts and try each.

The detectors are narrow and the images small. Each detector trains one step and detects once. The command prints which
combinations ran, which were refused and why, and which failed: by an error, a loss that is not finite, or a parameter
without gradient. The exit status is 1 if any failed.

examples:
  %(prog)s --count 300 --seed 0
  %(prog)s --import my_parts.py --only MATCHER=MyMatcher --count 50
"""


def parser(prog):
    """Return the command's parser."""
    parser = command_parser(prog, HELP)
    parser.add_argument(
        "--count", type=whole_number(1), default=100, metavar="N", help="combinations; default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="of the random choice; default: %(default)s"
    )
    help = "part that every combination has, such as MATCHER=MyMatcher; repeatable"
    parser.add_argument("--only", action="append", default=[], metavar="SLOT=NAME", help=help)
    return parser


def run(options):
    """Try combinations; raise a UserError if any fails."""
    from detlite.testing.swaps import swaps

    only = {}
    for text in options.only:
        slot, _, name = text.partition("=")
        if not (slot and name):
            raise UserError(f"--only {text}: expected SLOT=NAME, such as MATCHER=MyMatcher")
        only[slot] = name
    outcomes = swaps(options.count, options.seed, only, options.imports)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise UserError(f"{failed} of {len(outcomes)} combinations failed, see above")
