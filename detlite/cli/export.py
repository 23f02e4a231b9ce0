"""``detlite export``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config, whole_number

HELP = f"""Write a trained detector as an ONNX or torch.export file that runs without detlite.

NMS is inside. The file takes any number and size of images:

  images (N, 3, H, W) uint8 RGB -> boxes (N, D, 4), scores (N, D), labels (N, D), counts (N,)

The detections of image i are its first counts[i] rows. The file resizes images as TRANSFORMS.TEST says, and its boxes
are in pixels of the given images. ONNX needs `pip install onnx onnxscript onnxruntime`.
`detlite predict` and `detlite test` take an ONNX file as --weights.

--int8 writes an ONNX file whose large layers compute in 8-bit integers, and prints the loss of AP on DATASETS.TEST.

{KEYS_HELP}
examples:
  %(prog)s --weights output/quickstart/model_final.pth --output model.onnx
  %(prog)s --weights output/quickstart/model_final.pth --output int8.onnx --int8
  %(prog)s --weights model_final.pth --output model.pt2 MODEL.ROI_HEADS.SCORE_THRESHOLD 0.5
"""


def parser(prog):
    parser = config_parser(prog, HELP, without_config="the weights' config")
    parser.add_argument("--weights", metavar="W", required=True, help="trained weights, such as model_final.pth")
    help = "file to write, .onnx or .pt2 (torch.export); default: %(default)s"
    parser.add_argument("--output", metavar="F", default="model.onnx", help=help)
    parser.add_argument("--int8", action="store_true", help="compute in 8-bit integers")
    help = "training images from which --int8 learns the ranges of values; default: %(default)s"
    parser.add_argument("--calibration-images", metavar="N", type=whole_number(1), default=64, help=help)
    return parser


def run(options):
    from detlite.checkpoint import read_weights
    from detlite.engine.int8 import export_int8
    from detlite.prediction.export import export

    weights = read_weights(options.weights)
    cfg = read_config(options, weights)
    if options.int8:
        export_int8(cfg, weights, options.output, options.calibration_images)
    else:
        export(cfg, weights, options.output)
