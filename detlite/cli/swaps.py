"""``detlite swaps``."""

from detlite.cli.arguments import command_parser
from detlite.errors import UserError

HELP = """Does every part work with every other? Builds random combinations of the registered parts, narrow and on small
images, trains each a step, lets it detect, and prints what ran, what was refused as it was built and why, and what
failed: an error, a loss that is not finite, a parameter without gradient. Exit status 1 if anything failed.

examples:
  %(prog)s --count 300 --seed 0
  %(prog)s --import my_parts.py --only MATCHER=MyMatcher --count 50
"""


def parser(prog):
    """The command's arguments."""
    parser = command_parser(prog, HELP)
    parser.add_argument("--count", type=int, default=100, metavar="N", help="combinations; 100 by default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which ones; 0 by default")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="SLOT=NAME",
        help="a part that every combination has, such as MATCHER=MyMatcher; may be repeated",
    )
    return parser


def run(options):
    """Try combinations; a UserError if any failed."""
    from detlite.testing.swaps import swaps

    only = [words.partition("=") for words in options.only]
    for slot, equals, name in only:
        if not (slot and equals and name):
            raise UserError(f"--only takes SLOT=NAME, such as MATCHER=MyMatcher, got {slot + equals + name!r}")
    only = {slot: name for slot, _, name in only}
    outcomes = swaps(options.count, options.seed, only, options.imports)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise UserError(f"{failed} of {len(outcomes)} combinations failed, see above")
