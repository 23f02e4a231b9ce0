"""Train a detector from a config: python tools/train_net.py --config-file configs/quickstart.yaml."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="train"))
