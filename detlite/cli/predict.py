"""``detlite predict``."""

from detlite.cli.arguments import command_parser, number_or_text, whole_number
from detlite.errors import UserError

HELP = """Detect objects in images and videos with trained weights.

IMAGES are files of images or videos, folders and patterns (in quotes). The command writes to --output:

  pictures/         the images with their detections
  predictions.json  COCO's format, with file names
  predictions.csv   one row per detection

A video, such as clip.avi, gives clip.mp4.csv and pictures/clip.mp4. This needs the extra video (PyAV).
With --format, there is also a file per image for annotation tools: labels/*.txt and classes.txt, or Annotations/*.xml.
Results of an earlier call are replaced, but no other files. Unreadable images are skipped and counted; the exit status
is then 1.

examples:
  %(prog)s --weights output/quickstart/model_final.pth photo.jpg
  %(prog)s --weights model_final.pth photos "more/**/*.png" clip.avi --score-threshold 0.7 --output found
  %(prog)s --weights model_final.pth photos --opts MODEL.DEVICE cpu MODEL.ROI_HEADS.NMS.IOU 0.5
"""


def parser(prog):
    parser = command_parser(prog, HELP)
    add = parser.add_argument
    add("images", help="files, folders (searched recursively) and patterns", nargs="+", metavar="IMAGES")
    add("--weights", help="trained weights, such as model_final.pth", metavar="W", required=True)
    add("--config-file", help="YAML config; default: the weights' config", metavar="F")
    add("--opts", help="changes to the config", metavar="KEY VALUE", nargs="*", default=[])
    add("--output", help="folder to write to; default: %(default)s", metavar="DIR", default="output/predict")
    help = "lowest score to keep, or a file that `test --thresholds` wrote; default: %(default)s"
    add("--score-threshold", help=help, type=number_or_text, default=0.5, metavar="S")
    add("--device", help="auto, cpu, cuda, cuda:1 or mps; default: %(default)s", default="auto")
    add("--batch-size", help="images of one size per pass; default: the config's", type=whole_number(1), metavar="N")
    add("--precision", help="auto, tf32, fp32, bf16 or fp16; default: the config's")
    add("--workers", help="processes that read images; default: 2", type=whole_number(0), default=2, metavar="N")
    add("--format", help="annotations; default: %(default)s", choices=["coco", "yolo", "voc"], default="coco")
    add("--no-labels", help="draw the boxes without names and scores", action="store_true")
    add("--no-pictures", help="write no pictures, which take the most time", action="store_true")
    return parser


def run(options):
    from detlite.prediction.detector import Detector
    from detlite.prediction.files import find_images, predict
    from detlite.prediction.videos import VIDEO_SUFFIXES, predict_videos

    paths = find_images(options.images)
    videos = [path for path in paths if path.lower().endswith(VIDEO_SUFFIXES)]
    images = [path for path in paths if path not in videos]
    if videos:
        try:
            import av
        except ImportError:
            raise UserError(f"{videos[0]}: needs the package av (detlite's extra video): pip install av") from None
    names = ("opts", "imports", "device", "batch_size", "score_threshold", "precision")
    given = {name: getattr(options, name) for name in names}
    detector = Detector.from_checkpoint(options.weights, config=options.config_file, **given)
    how, failures = {"pictures": not options.no_pictures, "labels": not options.no_labels}, []
    if images:
        more = how | {"format": options.format, "num_workers": options.workers}
        _, failures = predict(detector, images, options.output, **more)
    if videos:
        failures += predict_videos(av, detector, videos, options.output, **how)
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} files could not be read; the first: {failures[0]}")
