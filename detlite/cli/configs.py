"""``detlite configs``."""

from detlite.cli.arguments import command_parser

HELP = """List the configs that detlite contains.

--config-file and _BASE_ take these names, such as detlite:quickstart. Each file begins with a comment on its cost and
its expected result.
"""


def parser(prog):
    """Return the command's parser."""
    return command_parser(prog, HELP)


def run(options):
    """Print each config's name with the first line of its comment."""
    from detlite.config.shipped import FOLDER, PREFIX, shipped_configs

    configs = shipped_configs()
    width = max(map(len, configs))
    for name, path in configs.items():
        description = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        print(f"{PREFIX}{name:{width}}  {description}")
    print(f"\nfolder: {FOLDER}")
