"""``detlite export``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config

HELP = f"""Write a trained detector as an ONNX or torch.export file that runs without detlite.

NMS is inside. The file takes any number and size of images:

  images (N, 3, H, W) uint8 RGB -> boxes (N, D, 4), scores (N, D), labels (N, D), counts (N,)

The detections of image i are its first counts[i] rows. The file resizes images as TRANSFORMS.TEST says, and its boxes
are in pixels of the given images. ONNX needs `pip install onnx onnxscript`.

{KEYS_HELP}
examples:
  %(prog)s --weights output/quickstart/model_final.pth --output model.onnx
  %(prog)s --weights model_final.pth --output model.pt2 MODEL.ROI_HEADS.SCORE_THRESHOLD 0.5
"""


def parser(prog):
    """Return the command's parser."""
    parser = config_parser(prog, HELP, without_config="the weights' config")
    parser.add_argument("--weights", metavar="W", required=True, help="trained weights, such as model_final.pth")
    help = "file to write, .onnx or .pt2 (torch.export); default: %(default)s"
    parser.add_argument("--output", metavar="F", default="model.onnx", help=help)
    return parser


def run(options):
    """Export the detector."""
    from detlite.checkpoint import read_weights
    from detlite.prediction.export import export

    weights = read_weights(options.weights)
    export(read_config(options, weights), weights, options.output)
