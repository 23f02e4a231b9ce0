"""``detlite benchmark``."""

import argparse
import importlib.util

from detlite.cli.arguments import KEYS_HELP, config_parser

VARIANTS = ["torchvision", "detlite", "bare", "bare, best"]
VARIANTS += ["detectron2"] if importlib.util.find_spec("detectron2") else []

HELP = (
    """Time the detector that a config describes on this machine's CPU, beside torchvision's with the same weights and
the bare convolutions and matrix products of the same shapes ("best": channels last, fully connected layers by oneDNN,
fused SGD). Each variant has a process of its own, and they take turns. Images and weights are random.

Of --sizes, --batches, --objects, --classes and --vary every combination is measured.

"""
    + KEYS_HELP
    + """
examples:
  %(prog)s
  %(prog)s --modes training --sizes 600x800 --rounds 7 --json training.json MODEL.BACKBONE.FREEZE_AT 0
  %(prog)s --variants detlite --vary MODEL.RPN.POST_NMS_TOP_N_TEST 100 300 1000
  %(prog)s --variants torchvision detlite "detlite bf16" "bare, best, bf16"
"""
)


def parser(prog):
    """The command's arguments."""
    parser = config_parser(prog, HELP)

    def add(name, shown, help, **kwargs):
        kwargs = {"nargs": "+", "metavar": name[2].upper()} | kwargs
        default = shown
        if isinstance(shown, list):  # argparse converts a default only if it is one word
            default, shown = [kwargs.get("type", str)(word) for word in shown], " ".join(map(str, shown))
        parser.add_argument(name, default=default, help=f"{help}; default: {shown}", **kwargs)

    add("--modes", ["inference", "training"], "what is timed", choices=["inference", "training"])
    add("--sizes", ["600x800"], "heights x widths of the images", type=_size)
    add("--batches", [1], "images in a batch", type=int)
    add("--objects", [8], "objects of an image in training", type=int)
    add("--classes", [0], "numbers of classes; 0: those of the config", type=int)
    add("--variants", VARIANTS, "what is compared, ratios are to the first; also: detlite bf16; bare, best, bf16")
    add("--threads", 0, "threads of each process; 0: as many as torch takes", type=int, nargs=None)
    add("--rounds", 5, "runs of each", type=int, nargs=None)
    parser.add_argument("--vary", nargs="+", metavar="V", help="a config key, and the values to give it in turn")
    parser.add_argument("--json", metavar="F", help="file that the results are written to")
    return parser


def _size(text):
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 600x800, got {text!r}")
    return int(height), int(width)


def run(options):
    """Time, print the tables, and write the results."""
    import itertools
    from pathlib import Path

    import torch

    from detlite.engine.benchmark import Task, benchmark, format_result
    from detlite.files import write_json

    key, *values = options.vary or [None]
    results = []
    for mode, size, batch, objects, classes, value in itertools.product(
        options.modes, options.sizes, options.batches, options.objects, options.classes, values or [None]
    ):
        opts = [*options.opts, *([key, value] if values else [])]
        if classes:
            opts += ["MODEL.CLASSES", [f"class {number}" for number in range(1, classes + 1)]]
        task = Task(
            options.config_file,
            tuple(opts),
            tuple(options.imports),
            mode,
            size,
            batch,
            objects,
            options.threads or torch.get_num_threads(),
        )
        results.append(benchmark(task, options.variants, options.rounds))
        print(format_result(results[-1]), end="\n\n", flush=True)
        if options.json:
            write_json(results, Path(options.json))  # after each, so that none is lost
