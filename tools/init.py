"""Write the config for a folder of your own data: python tools/init.py data/cells."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="init"))
