"""``detlite configs``."""

from detlite.cli.arguments import command_parser

HELP = """List the configs that detlite contains, for --config-file and _BASE_.

Each file begins with a comment on its cost and its expected result.
"""


def parser(prog):
    return command_parser(prog, HELP)


def run(options):
    from detlite.config.load import OWN_CONFIGS, own_configs

    for name, path in own_configs().items():
        print(f"detlite:{name:50} {path.read_text(encoding='utf-8').splitlines()[0][2:]}")
    print(f"\nfolder: {OWN_CONFIGS}")
