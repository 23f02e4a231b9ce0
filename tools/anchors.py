"""Find anchors that fit a data set: python tools/anchors.py --config-file F."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="anchors"))
