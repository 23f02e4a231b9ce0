"""``detlite visualize``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

WHAT = ("inputs", "anchors", "matches", "proposals", "detections", "mistakes")
HELP = (
    """Write pictures of what happens to a data set's images inside a detector, each with a legend and a caption:

  inputs      what the network is given, after transforms and padding, with boxes
  anchors     the anchors of a cell, and which anchors match which object
  matches     which anchors and proposals were sampled for training
  proposals   the RPN's best predictions before and after NMS (needs --weights)
  detections  what was found, beside ground truth (needs --weights)
  mistakes    what is wrong with it (needs --weights)

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s --what anchors --config-file configs/finetune_coco.yaml
  %(prog)s --what mistakes --weights output/quickstart/model_final.pth --images 0 5 7
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP, without_config="the one that the weights carry, or the default tree")
    parser.add_argument("--what", choices=WHAT, required=True, help="one of the above")
    parser.add_argument("--weights", metavar="W", help="trained weights, such as model_final.pth")
    parser.add_argument(
        "--images", type=int, nargs="+", default=[], metavar="I", help="places in the data set; default: 0 to 3"
    )
    parser.add_argument(
        "--split", choices=("train", "test"), help="data set; default: train for the first three, test for the others"
    )
    parser.add_argument("--output", metavar="DIR", default="output/visualize", help="folder; default: %(default)s")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, metavar="S", help="of detections shown; default: %(default)s"
    )
    return parser


def run(options):
    """Draw."""
    from detlite.checkpoint import read_weights
    from detlite.inspection.visualize import visualize

    weights = read_weights(options.weights) if options.weights else None
    visualize(
        read_config(options, weights),
        options.what,
        weights=weights,
        indices=options.images,
        split=options.split,
        folder=options.output,
        score_threshold=options.score_threshold,
    )
