"""Time a detector and its stages: python tools/benchmark.py --config-file F."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="benchmark"))
