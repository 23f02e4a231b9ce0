"""The command line: ``detlite train``, ``detlite test``, ... .

A command is a module of this package, named in COMMANDS. Its ``parser(prog)`` returns the parser of its command line,
and ``run(options)`` runs it. Nothing heavy is imported until a command runs.
"""

import contextlib
import importlib
import os
import sys

from detlite import __version__
from detlite.cli.runtime import keep_freed_memory, wait_briefly
from detlite.console import keep_console, printable
from detlite.errors import CommandLineError, UserError, explain_error, suggest
from detlite.signals import EndedBySignal, EndingSignals

COMMANDS = "init train test compare anchors explain predict benchmark check visualize export configs".split()


def main(arguments=None, command=None):
    """Run a command and return the exit status.

    Args:
        arguments: the command line without the program's name; None takes ``sys.argv``.
        command: one of COMMANDS; None takes the first argument.
    """
    keep_console()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prog = os.path.basename(sys.argv[0])
    if command is None:
        if not arguments or arguments[0] in ("-h", "--help"):
            print("usage: detlite COMMAND ...; `detlite COMMAND --help` explains a command, `detlite --version`\n")
            for name in COMMANDS:
                print(f"  {name:10} {_module(name).HELP.splitlines()[0]}")
            return 0
        if arguments[0] == "--version":
            print(f"detlite {__version__}")
            return 0
        command = arguments.pop(0)
        prog = f"detlite {command}"
    if command not in COMMANDS:
        return _fail(CommandLineError(f"no command {command!r}{suggest(command, COMMANDS)}"))
    return run_command(_module(command), arguments, prog)


def run_command(command, arguments, prog):
    """Run a command and return the exit status: 0, a UserError's (1 or 2), which is printed, or 130 after Ctrl-C.

    SIGTERM, SIGHUP and SIGUSR1 raise SystemExit(143). ``command`` is a module with ``parser(prog)`` and
    ``run(options)``; ``prog`` is its name in help texts and errors.
    """
    try:
        options = command.parser(prog).parse_intermixed_args(arguments)
        keep_freed_memory()
        wait_briefly()
        with EndingSignals(), _naming_parts():
            return _run(command, options, arguments)
    except KeyboardInterrupt:
        print("interrupted; a training with a checkpoint resumes with --resume", file=sys.stderr)
        return 130
    except Exception as error:
        explained = explain_error(error)
        if explained is None or "--debug" in arguments:
            raise
        return _fail(explained)


@contextlib.contextmanager
def _naming_parts():
    """Turn an error in a part, or a call of sys.exit in it, into a UserError that names the part."""
    try:
        yield
    except (KeyboardInterrupt, EndedBySignal, UserError):  # torch may be half imported, and cannot be imported again
        raise
    except BaseException as error:
        from detlite.guard import part_error

        named = part_error(error)
        if named:
            raise named from error
        raise


def _run(command, options, arguments):
    """Run a command in this process, or in several that this one starts, and return the exit status."""
    if getattr(options, "num_gpus", 1) > 1 and not _is_launched():
        from detlite.distributed.launcher import launch

        return launch([command.__name__.rpartition(".")[2], *arguments], options.num_gpus)
    if _is_launched():
        from detlite.distributed.launcher import run_recorded

        # Only train and test run like this. They start the log once the processes know which one is the main one.
        run_recorded(command.run, options)
    else:
        from detlite.logs import start_log

        start_log()
        command.run(options)
    return 0


def _module(command):
    return importlib.import_module(f"detlite.cli.{command}")


def _is_launched():
    """Check whether torchrun, or :func:`detlite.distributed.launcher.launch`, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _fail(error):
    """Print a UserError, once per run, and return its exit status."""
    if _is_launched():
        from detlite.distributed.launcher import remember

        if remember(str(error)) > 1:  # another process has printed it
            return error.status
    text = str(error).replace("\n", "\n  ")  # a name with a line end cannot look like another message
    print(printable(f"error: {text}", sys.stderr), file=sys.stderr)
    return error.status
