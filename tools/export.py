"""Write a detector as ONNX or torch.export program: python tools/export.py --weights W --output model.onnx."""

import sys

from detlite.cli import main

if __name__ == "__main__":
    sys.exit(main(command="export"))
