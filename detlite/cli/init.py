"""``detlite init``."""

from detlite.cli.arguments import command_parser
from detlite.errors import UserError

HELP = """Write the config that trains a detector on a folder of your own data: COCO's, Pascal VOC's or YOLO's files.

Classes, image size, anchors and schedule come from the data; the config says beside each value why it is so, and is
yours to edit. All that it does not say is as in the default tree.

examples:
  %(prog)s data/cells
  %(prog)s data/cells --weights torchvision/vgg16 --output cells_vgg16.yaml
  detlite train --config-file cells.yaml
  detlite test --weights output/cells/model_final.pth --report
"""


def parser(prog):
    """The command's arguments."""
    parser = command_parser(prog, HELP)
    parser.add_argument("folder", metavar="FOLDER", help="the data's folder")
    parser.add_argument("--output", metavar="F", help="the config to write; default: the folder's name and .yaml, here")
    parser.add_argument(
        "--weights",
        metavar="W",
        default="",
        help="pretrained VGG to start from: a file, or torchvision/vgg16 (fetched once, 528 MB); without, a narrow net "
        "from scratch",
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="short side of the network's input; default: from the objects' sizes"
    )
    parser.add_argument("--format", choices=("coco", "voc", "yolo"), help="which to take where there are several")
    return parser


def run(options):
    """Write a config."""
    from pathlib import Path

    from detlite.preparation.write_config import new_config

    name = Path(options.folder).expanduser().resolve().name or "data"
    if options.size is not None and options.size < 32:
        raise UserError(f"--size {options.size}: expected pixels, 32 or more")
    output = Path(options.output or f"{name}.yaml")
    if output.exists():
        raise UserError(f"{output}: is there already, and may have been edited; --output names another file")
    text, remarks = new_config(options.folder, output, options.weights, options.format, options.size)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from None
    for remark in remarks:
        print(f"note: {remark}")
    print(f"\n{output} is written; read it, and then:")
    print(f"  detlite check --config-file {output}    # what is wrong in the data, and would spoil a training")
    print(f"  detlite train --config-file {output}")
    print(f"  detlite test --weights output/{output.stem}/model_final.pth --report")
