"""``python -m detlite.cli train ...``."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
