"""The command line: ``detlite train``, ``detlite test``, ... . Nothing heavy is imported until a command runs.

A command is a module of this package, named in COMMANDS, with ``parser(prog)`` and ``run(options)``.
"""

import importlib
import os
import sys

from detlite.cli.runtime import keep_freed_memory, wait_briefly
from detlite.errors import UserError, suggest

COMMANDS = (
    "init",
    "train",
    "test",
    "compare",
    "anchors",
    "swaps",
    "explain",
    "predict",
    "benchmark",
    "check",
    "visualize",
    "export",
)


def main(arguments=None, command=None):
    """Run a command; returns the exit status: 0, or 1 after a user's mistake, which is printed as one message.

    Args:
        arguments: the command line without the program's name; None takes ``sys.argv``.
        command: one of COMMANDS; None takes the first argument.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    launched = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun, or by launch() below
    try:
        if command:
            prog = sys.argv[0].rsplit("/", 1)[-1]
        elif not arguments or arguments[0] in ("-h", "--help"):
            print(f"usage: detlite {{{','.join(COMMANDS)}}} ...; `detlite train --help` teaches each")
            return 0
        elif arguments[0] in COMMANDS:
            command = arguments.pop(0)
            prog = f"detlite {command}"
        else:
            raise UserError(f"no command {arguments[0]!r}{suggest(arguments[0], COMMANDS)}")
        module = importlib.import_module(f"detlite.cli.{command}")
        options = module.parser(prog).parse_intermixed_args(arguments)
        debug = options.debug
        keep_freed_memory()
        wait_briefly()
        if launched:
            from torch.distributed.elastic.multiprocessing.errors import record

            record(module.run)(options)  # leaves what is raised for the launcher's summary
        elif getattr(options, "num_gpus", 1) > 1:
            from detlite.distributed.launcher import launch

            return launch([command, *arguments], options.num_gpus)
        else:
            module.run(options)
    except KeyboardInterrupt:
        print("interrupted; a training with a checkpoint goes on with --resume", file=sys.stderr)
        return 130
    except UserError as error:
        if debug:
            raise
        if launched:
            from detlite.distributed.launcher import says_first

            if not says_first(str(error)):
                return 1
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
