"""Config files for a test, written where it says."""

import textwrap

import pytest


@pytest.fixture
def write(tmp_path):
    """A function: (file name, text) -> path of a file in the test's own folder."""

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    return write
