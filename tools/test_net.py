"""Test trained weights: python tools/test_net.py --config-file F --weights W."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="test"))
