"""Try parts with each other: python tools/swap_matrix.py --count 300 --seed 0."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="swaps"))
