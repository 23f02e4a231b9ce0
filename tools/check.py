"""Look at data and config before a training: python tools/check.py --config-file F."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="check"))
