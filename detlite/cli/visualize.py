"""``detlite visualize``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

WHAT = ("inputs", "anchors", "matches", "proposals", "detections", "mistakes")
HELP = f"""Write pictures that show how a detector processes images of its data, each with a legend and a caption.

The views of --what:
  inputs      the network's input, after transforms and padding, with boxes
  anchors     the anchors of one cell, and the anchors that match objects
  matches     the anchors and proposals that are sampled for training
  proposals   the RPN's best predictions before and after NMS (needs --weights)
  detections  ground truth next to detections (needs --weights)
  mistakes    the same, named by the kind of mistake (needs --weights)

{KEYS_HELP}
examples:
  %(prog)s --what anchors --config-file detlite:quickstart
  %(prog)s --what detections --weights output/quickstart/model_final.pth --images 0 5 7
"""


def parser(prog):
    parser = config_parser(prog, HELP, without_config="the weights' config, or the default config")
    add = parser.add_argument
    add("--what", help="the view to draw, see above", choices=WHAT, required=True)
    add("--weights", help="trained weights, such as model_final.pth", metavar="W")
    add("--images", help="indices in the data set; default: 0 to 3", type=int, nargs="+", default=[], metavar="I")
    add("--split", help="data set; default: train for the first three views, else test", choices=("train", "test"))
    add("--output", help="folder to write to; default: %(default)s", metavar="DIR", default="output/visualize")
    add("--score-threshold", help="lowest score to draw; default: %(default)s", type=float, default=0.5, metavar="S")
    return parser


def run(options):
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
