"""Show what a config means: python tools/explain.py --config-file configs/quickstart.yaml."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="explain"))
