"""``detlite anchors``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config, whole_number

HELP = f"""Find the anchors that fit DATASETS.TRAIN, by k-means over the sizes of its boxes.

The sizes are measured after the ResizeShortSide of TRANSFORMS.TRAIN. For the config's anchors and the found ones, on
the grid of the feature levels, the command prints the fraction of objects that have an anchor with an IoU of 0.5 or
more, or of FOREGROUND_IOU or more. Then it prints the YAML lines that use the found ones.

{KEYS_HELP}
examples:
  %(prog)s --config-file detlite:quickstart --num 6
  %(prog)s --config-file detlite:finetune_coco DATASETS.TRAIN.0.ROOT data/cells
"""


def parser(prog):
    parser = config_parser(prog, HELP)
    help = "number of anchors, over all feature levels together; default: %(default)s"
    parser.add_argument("--num", metavar="A", type=whole_number(1), default=9, help=help)
    return parser


def run(options):
    from tabulate import tabulate

    from detlite.preparation.anchor_recall import find_anchors

    anchors, judged = find_anchors(read_config(options), options.num)
    for title, (rows, remedy) in zip(("the config's anchors", "the found anchors"), judged, strict=True):
        print(f"{title}:\n{tabulate(rows, headers='keys', tablefmt='github', floatfmt='.3f')}")
        print(f"poor: {remedy}\n" if remedy else "")
    recalls = [list(rows[0].values())[2:] for rows, _ in judged]  # of all objects
    if all(own >= found for own, found in zip(*recalls, strict=True)):
        print("the config's anchors cover as many objects as the found ones: keep them\n")
    values = anchors[0] if len(anchors) == 1 else anchors  # one list per feature level
    print(f"MODEL:\n  RPN:\n    ANCHOR_GENERATOR:\n      NAME: ListAnchorGenerator\n      ANCHORS: {values}")
