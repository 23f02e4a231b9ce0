"""Compare variants of a config: python tools/compare.py --config-file F --variants V."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="compare"))
