"""Detect in images: python tools/predict.py --weights W IMAGES."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="predict"))
