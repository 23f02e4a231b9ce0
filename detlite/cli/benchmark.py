"""``detlite benchmark``."""

import argparse
import itertools
import os
import sys

from detlite.cli.arguments import KEYS_HELP, config_parser, whole_number
from detlite.cli.runtime import keep_freed_memory

HELP = f"""Time a config's detector on this machine: a detection, a training step, and their stages.

Images and weights are random. The detector runs on MODEL.DEVICE. Every combination of --modes, --sizes and --batches is
measured, each in a separate process.

{KEYS_HELP}
examples:
  %(prog)s --config-file detlite:quickstart --sizes 128x128
  %(prog)s --modes training --sizes 600x800 --rounds 7 --json training.json MODEL.BACKBONE.FREEZE_AT 0
"""


def parser(prog, description=HELP):
    parser = config_parser(prog, description)
    add = parser.add_argument
    modes = ["inference", "training"]
    add("--modes", metavar="M", help="inference, training; default: both", default=modes, nargs="+", choices=modes)
    add("--sizes", metavar="HxW", help="of the images; default: 600x800", default=[(600, 800)], type=_size, nargs="+")
    add("--batches", metavar="B", help="images per batch; default: 1", default=[1], type=whole_number(1), nargs="+")
    add("--threads", metavar="T", help="threads per process; default: torch's choice", type=whole_number(1))
    add("--rounds", metavar="R", help="timed runs; default: 5", default=5, type=whole_number(1))
    add("--json", metavar="F", help="file to write the results to")
    return parser


def tasks(options):
    """Yield a :class:`~detlite.inspection.speed.Task` per combination that the command line asks for."""
    import torch

    from detlite.inspection.speed import Task

    source = options.config_file, tuple(options.opts), tuple(options.imports)
    threads = options.threads or torch.get_num_threads()
    for mode, size, batch in itertools.product(options.modes, options.sizes, options.batches):
        yield Task(*source, mode, size, batch, threads=threads)


def _size(text):
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 600x800, got {text!r}")
    return int(height), int(width)


def run(options):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from detlite.inspection.speed import format_result
    from detlite.writing import write_json

    results, folder = [], os.getcwd()
    for task in tasks(options):
        # A new process, so that its peak memory is of this task only. It must not import modules of the current folder.
        os.chdir(sys.prefix)
        try:
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            future = pool.submit(_measure, folder, task, options.rounds)
        finally:
            os.chdir(folder)
        with pool:
            results.append(future.result())
        print(format_result(results[-1]), end="\n\n", flush=True)
        if options.json:
            write_json(results, options.json)  # after each task, so that none is lost


def _measure(folder, task, rounds):
    from detlite.inspection.speed import measure

    os.chdir(folder)  # the paths of the config are relative to it
    keep_freed_memory()  # as in every command's process
    return measure(task, rounds)
