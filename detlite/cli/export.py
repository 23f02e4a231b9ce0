"""``detlite export``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

HELP = (
    """Write a trained detector as a file that runs without detlite, NMS inside, for any number and size of images:

  images (N, 3, H, W) uint8 RGB -> boxes (N, D, 4), scores (N, D), labels (N, D), counts (N,)

An image's detections are its first counts[i] rows. It does not resize: give images as the transforms for testing leave
them. Needs the extra "export".

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s --weights output/quickstart/model_final.pth --output model.onnx
  %(prog)s --weights model_final.pth --output model.pt2 MODEL.ROI_HEADS.SCORE_THRESHOLD 0.5
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP, without_config="the one that the weights carry")
    parser.add_argument("--weights", metavar="W", required=True, help="trained weights, such as model_final.pth")
    parser.add_argument(
        "--output",
        metavar="F",
        default="model.onnx",
        help="file to write, .onnx or .pt2 (torch.export); default: %(default)s",
    )
    return parser


def run(options):
    """Export."""
    from detlite.checkpoint import read_weights
    from detlite.prediction.export import export

    weights = read_weights(options.weights)
    export(read_config(options, weights), weights, options.output)
