"""``detlite predict``."""

from detlite.cli.arguments import command_parser
from detlite.errors import UserError

HELP = """Detect in images with trained weights. IMAGES are files, folders and patterns (in quotes). Into --output go
pictures/, the images with what was found; predictions.json, COCO's format with the images' names and scores; and
predictions.csv. Files that cannot be read are skipped and counted; the exit status is then 1.

examples:
  %(prog)s --weights output/quickstart/model_final.pth photo.jpg
  %(prog)s --weights model_final.pth photos "more/**/*.png" --score-threshold 0.7 --output found
  %(prog)s --weights model_final.pth photos --opts MODEL.DEVICE cpu MODEL.ROI_HEADS.NMS_IOU 0.5
"""


def parser(prog):
    """The command's arguments."""
    parser = command_parser(prog, HELP)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders (with all below them), patterns")
    parser.add_argument("--weights", metavar="W", required=True, help="trained weights, such as model_final.pth")
    parser.add_argument("--config-file", metavar="F", help="YAML config; without it, the one that the weights carry")
    parser.add_argument("--opts", metavar="KEY VALUE", nargs="*", default=[], help="changes to the config")
    parser.add_argument("--output", metavar="DIR", default="output/predict", help="folder; default: %(default)s")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="what scores less is left out; default: %(default)s",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps; default: %(default)s")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images of one size a pass; default: the config's")
    parser.add_argument("--precision", help="fp32, bf16 or fp16; default: the config's")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read; default: %(default)s")
    parser.add_argument("--no-pictures", action="store_true", help="write no pictures, which takes longest")
    return parser


def run(options):
    """Detect."""
    from detlite.prediction.detector import Detector
    from detlite.prediction.files import find_images, predict

    paths = find_images(options.images)
    detector = Detector.from_checkpoint(
        options.weights,
        config=options.config_file,
        opts=options.opts,
        imports=options.imports,
        device=options.device,
        batch_size=options.batch_size,
        score_threshold=options.score_threshold,
        precision=options.precision,
    )
    _, failures = predict(
        detector, paths, options.output, pictures=not options.no_pictures, num_workers=options.workers
    )
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} images could not be read; the first: {failures[0]}")
