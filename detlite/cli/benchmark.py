"""``detlite benchmark``."""

import itertools

from detlite.cli.arguments import KEYS_HELP, config_parser
from detlite.cli.runtime import keep_freed_memory
from detlite.errors import UserError

HELP = f"""Time the detector of a config on this machine: a detection, a training step, and their stages.

Images and weights are random. The detector runs on MODEL.DEVICE. Every combination of --modes, --sizes, --batches,
--objects, --classes and --vary is measured, each in a separate process.

{KEYS_HELP}
examples:
  %(prog)s --config-file configs/quickstart.yaml --sizes 128x128
  %(prog)s --modes training --sizes 600x800 --rounds 7 --json training.json MODEL.BACKBONE.FREEZE_AT 0
  %(prog)s --modes inference --vary MODEL.RPN.POST_NMS_TOP_N_TEST 100 300 1000
"""


def parser(prog, description=HELP):
    """Return the command's arguments."""
    parser = config_parser(prog, description)

    def add(name, default, help, **kwargs):
        shown = default
        if isinstance(default, list):
            kwargs = {"nargs": "+"} | kwargs
            shown = " ".join(map(str, default))
        parser.add_argument(name, default=default, help=f"{help}; default: {shown}", **kwargs)

    add("--modes", ["inference", "training"], "what to time", choices=["inference", "training"], metavar="M")
    add("--sizes", ["600x800"], "heights x widths of the images", metavar="HxW")
    add("--batches", [1], "images per batch", type=int, metavar="B")
    add("--objects", [8], "objects per image in training", type=int, metavar="O")
    add("--classes", [0], "numbers of classes; 0 keeps the config's", type=int, metavar="C")
    add("--threads", 0, "threads per process; 0 takes torch's choice", type=int, metavar="T")
    add("--rounds", 5, "timed runs", type=int, metavar="R")
    parser.add_argument("--vary", nargs="+", metavar="V", help="a config key, and the values to try for it")
    parser.add_argument("--json", metavar="F", help="file to write the results to")
    return parser


def _size(text):
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UserError(f"--sizes {text}: expected HEIGHTxWIDTH, such as 600x800")
    return int(height), int(width)


def tasks(options):
    """Yield a :class:`~detlite.inspection.speed.Task` for every combination that the command line asks for."""
    import torch

    from detlite.inspection.speed import Task

    threads = options.threads or torch.get_num_threads()
    key, *values = options.vary or ["", None]
    if not values:
        raise UserError(f"--vary {key}: expected values after the key")
    lists = (options.modes, options.sizes, options.batches, options.objects, options.classes, values)
    for mode, size, batch, objects, classes, value in itertools.product(*lists):
        opts = list(options.opts)
        if key:
            opts += [key, value]
        if classes:
            opts += ["MODEL.CLASSES", [f"class {number}" for number in range(1, classes + 1)]]
        imports = tuple(options.imports)
        yield Task(options.config_file, tuple(opts), imports, mode, _size(size), batch, objects, threads)


def run(options):
    """Time, print the tables, and write the results."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from detlite.files import write_json
    from detlite.inspection.speed import format_result

    results = []
    for task in tasks(options):
        # A new process for each, so that none starts with memory that an earlier one has taken.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            results.append(pool.submit(_measure, task, options.rounds).result())
        print(format_result(results[-1]), end="\n\n", flush=True)
        if options.json:
            write_json(results, options.json)  # after each, so that none is lost


def _measure(task, rounds):
    from detlite.inspection.speed import measure

    keep_freed_memory()  # of malloc, as in every command's process
    return measure(task, rounds)
