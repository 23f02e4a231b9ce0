"""The command line before a command runs."""

import errno
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from detlite import __version__
from detlite.cli import COMMANDS, _module, main, run_command
from detlite.cli.arguments import command_parser


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_all_are_listed_with_a_sentence(arguments, capsys):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(COMMANDS)
    assert all(line.endswith(".") for line in lines[2:])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_a_command_s_help_can_be_parsed(command):
    lines = _module(command).parser(f"detlite {command}").format_help().splitlines()
    examples = [line.strip().split("   ")[0] for line in lines if line.startswith("  detlite ")]  # without explanations
    for example in examples:
        _, name, *words = shlex.split(example)
        _module(name).parser(f"detlite {name}").parse_intermixed_args(words)
    assert examples or command == "configs"


def failing(error):
    """A command that raises an error."""

    def run(options):
        raise error

    return SimpleNamespace(parser=lambda prog: command_parser(prog, ""), run=run)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "data/x.xml"), "data/x.xml: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("Caught OSError in worker 0.\n  File ...\nOSError: [Errno 5] x"), "OSError: [Errno 5] x"),
        (MemoryError(), "not enough memory; smaller images, batches and parts need less"),
        (MemoryError("Unable to allocate 14.9 GiB for an array with"), "not enough memory to allocate 14.9 GiB; "),
        (
            RuntimeError("[enforce fail] can't allocate memory: you tried to allocate 9 bytes.\nframe #1"),
            "allocate 9 b",
        ),
    ],
)
def test_an_error_of_the_system_is_one_message_and_with_debug_a_traceback(error, message, capsys):
    assert run_command(failing(error), [], "detlite") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    with pytest.raises(type(error)):
        run_command(failing(error), ["--debug"], "detlite")


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a bug"):
        run_command(failing(RuntimeError("a bug")), [], "detlite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "x", ""], "unrecognized arguments: "),
        (["predict", "--weights", "x", "a.jpg", "--workers", "-1"], "--workers: expected a whole number of at least 0"),
        (["predict", "--weights", "x", "a.jpg", "--batch-size", "0"], "expected a whole number of at least 1, got '0'"),
        (
            ["compare", "--seeds", "0", "SEED", "3"],
            "expected a whole number of at least 0, got 'SEED'; KEY VALUE pairs",
        ),
        (["compare", "--variants", "x", "--jobs", "0"], "--jobs: expected a whole number of at least 1, got '0'"),
        (["init", "~nouser/x"], "x: no such folder"),
        (["test", "--weights", "~nouser/x"], "~nouser/x: no such file of weights"),
        (["test", "--weights", "a" * 300], "File name too long"),
        (["test", "--weights", "https://[::1/x"], "https://[::1/x: not an address: Invalid IPv6 URL"),
    ],
)
def test_a_wrong_argument_is_one_message(arguments, message, capsys):
    is_unparsed = "argument" in message or "expected a whole number" in message
    assert main(arguments) == (2 if is_unparsed else 1)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_version_prints_the_packages_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"detlite {__version__}\n"


def test_check_without_a_config_says_what_it_would_check_and_with_keys_alone_what_it_checks(monkeypatch, capsys):
    monkeypatch.setattr("detlite.preparation.check.check", lambda cfg, data_only: None)
    assert main(["check"]) == 1
    assert "the default config would be checked, a VGG16 on generated shapes." in capsys.readouterr().err
    assert main(["check", "SEED", "1"]) == 0
    assert capsys.readouterr().out.startswith(
        "without --config-file, the default config is checked: a VGG16 on generated"
    )


def test_a_signal_while_torch_is_imported_ends_a_command_which_does_not_import_it_again(tmp_path):
    (tmp_path / "torch.py").write_text("import signal\nprint('importing')\nsignal.raise_signal(signal.SIGTERM)\n")
    result = subprocess.run(
        [sys.executable, "-c", "import sys; from detlite.cli import main; sys.exit(main(['configs']))"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (143, "importing\n", "")
