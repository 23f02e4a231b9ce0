"""Look inside a detector: python tools/visualize.py --what anchors --config-file F."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="visualize"))
