"""The command line before a command runs."""

import pytest

from detlite.cli import COMMANDS, main


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_all_are_listed_with_a_sentence(arguments, capsys):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(COMMANDS)
    assert all(line.endswith(".") for line in lines[2:])
