"""``detlite init``."""

import os
import shlex

from detlite.cli.arguments import command_parser
from detlite.console import one_line
from detlite.errors import UserError

HELP = """Write a config that trains a detector on a folder of your data, in COCO's, Pascal VOC's or YOLO's format.

The command derives classes, image size, anchors and schedule from the data, and explains each value in a comment. Edit
the file as you like. Keys that are not in it keep their defaults.

examples:
  %(prog)s data/cells
  %(prog)s data/cells --weights torchvision/vgg16 --output cells_vgg16.yaml
  detlite train --config-file cells.yaml
  detlite test --weights output/cells/model_final.pth --report
"""


def parser(prog):
    parser = command_parser(prog, HELP)
    parser.add_argument("folder", metavar="FOLDER", help="folder of the data")
    parser.add_argument("--output", metavar="F", help="config to write; default: <folder's name>.yaml")
    help = "start from a pretrained VGG, or torchvision's or detectron2's Faster R-CNN: a file, torchvision/vgg16 "
    help += "(528 MB, fetched once) or torchvision/fasterrcnn_resnet50_fpn (160 MB). Default: a narrow, random VGG"
    parser.add_argument("--weights", metavar="W", default="", help=help)
    help = "short side of the network's input in pixels; default: chosen by the sizes of the objects"
    parser.add_argument("--size", type=int, metavar="N", help=help)
    help = "the classes to use; objects of all others are dropped. Default: all classes"
    parser.add_argument("--classes", nargs="+", metavar="NAME", default=(), help=help)
    help = "the format to read, if the folder holds several"
    parser.add_argument("--format", choices=("coco", "voc", "yolo"), help=help)
    return parser


def run(options):
    from tabulate import tabulate

    from detlite.files import user_path
    from detlite.preparation.choose_input import add_times
    from detlite.preparation.write_config import new_config
    from detlite.writing import explain_write_errors, open_atomically

    name = os.path.basename(os.path.realpath(user_path(options.folder))) or "data"
    if options.size is not None and options.size < 32:
        raise UserError(f"--size {options.size}: expected 32 pixels or more")
    output = user_path(options.output or f"{name}.yaml")
    if output.exists():
        raise UserError(f"{output} exists already, perhaps with your changes; use --output to write another file")

    choices = options.weights, options.format, options.size, options.classes
    text, remarks, rows = new_config(options.folder, output, *choices)
    with explain_write_errors(output), open_atomically(output) as file:
        file.write(text.encode())

    # The inputs to choose from, the first one chosen; the remarks; and the commands to run next.
    chosen = rows[0]
    rows.sort(key=lambda row: row["pixels"])
    print(tabulate(add_times(rows, output), headers="keys", tablefmt="github", disable_numparse=True))
    print(f"\nchosen: {chosen['input']} ({chosen['choice']}); the config says why, and --size changes it")
    for remark in remarks:
        print(f"note: {one_line(remark)}")
    file, weights = shlex.quote(str(output)), shlex.quote(f"output/{output.stem}/model_final.pth")
    print(f"\nwrote {output}; read it, then run:")
    print(f"  detlite check --config-file {file}    # finds faults in the data before the training")
    print(f"  detlite train --config-file {file}")
    print(f"  detlite test --weights {weights} --report")
