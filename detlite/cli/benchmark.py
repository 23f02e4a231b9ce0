"""``detlite benchmark``."""

import argparse
import itertools

from detlite.cli.arguments import KEYS_HELP, config_parser
from detlite.cli.runtime import keep_freed_memory
from detlite.errors import UserError

HELP = f"""Time a config's detector on this machine: a detection, a training step, and their stages.

Images and weights are random. The detector runs on MODEL.DEVICE. Every combination of --modes, --sizes, --batches,
--objects, --classes and --vary is measured, each in a separate process.

{KEYS_HELP}
examples:
  %(prog)s --config-file configs/quickstart.yaml --sizes 128x128
  %(prog)s --modes training --sizes 600x800 --rounds 7 --json training.json MODEL.BACKBONE.FREEZE_AT 0
  %(prog)s --modes inference --vary MODEL.RPN.POST_NMS_TOP_N_TEST 100 300 1000
"""


def parser(prog, description=HELP):
    """Return the command's parser."""
    parser = config_parser(prog, description)

    def add(name, metavar, help, default, type=str, **kwargs):
        parser.add_argument(name, metavar=metavar, help=help, default=default, type=type, **kwargs)

    modes = ["inference", "training"]
    add("--modes", "M", "inference, training; default: both", modes, nargs="+", choices=modes)
    add("--sizes", "HxW", "heights x widths of the images; default: 600x800", [(600, 800)], _size, nargs="+")
    add("--batches", "B", "images per batch; default: 1", [1], int, nargs="+")
    add("--objects", "O", "objects per image in training; default: 8", [8], int, nargs="+")
    add("--classes", "C", "numbers of classes; 0 is the config's; default: 0", [0], int, nargs="+")
    add("--threads", "T", "threads per process; 0 is torch's choice; default: 0", 0, int)
    add("--rounds", "R", "timed runs; default: 5", 5, int)
    add("--vary", "V", "a config key, and the values to try", [], nargs="+")
    add("--json", "F", "file to write the results to", None)
    return parser


def tasks(options):
    """Yield a :class:`~detlite.inspection.speed.Task` per combination that the command line asks for."""
    import torch

    from detlite.inspection.speed import Task

    threads = options.threads or torch.get_num_threads()
    key, *values = options.vary or ["", None]
    if not values:
        raise UserError(f"--vary {key}: expected values after the key")

    # Later options vary faster.
    lists = (options.modes, options.sizes, options.batches, options.objects, options.classes, values)
    for mode, size, batch, objects, classes, value in itertools.product(*lists):
        opts = [*options.opts]
        if key:
            opts += [key, value]
        if classes:
            opts += ["MODEL.CLASSES", [f"class {number}" for number in range(1, classes + 1)]]
        source = options.config_file, tuple(opts), tuple(options.imports)
        yield Task(*source, mode, size, batch, objects, threads)


def _size(text):
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 600x800, got {text!r}")
    return int(height), int(width)


def run(options):
    """Time, print the tables, and write the results."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from detlite.inspection.speed import format_result
    from detlite.writing import write_json

    results = []
    for task in tasks(options):
        # A new process, so that its peak memory is of this task only.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            results.append(pool.submit(_measure, task, options.rounds).result())
        print(format_result(results[-1]), end="\n\n", flush=True)
        if options.json:
            write_json(results, options.json)  # after each task, so that none is lost


def _measure(task, rounds):
    from detlite.inspection.speed import measure

    keep_freed_memory()  # as in every command's process
    return measure(task, rounds)
