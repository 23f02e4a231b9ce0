"""Config files for tests."""

import textwrap

import pytest


@pytest.fixture
def write(tmp_path):
    """Return a function (file name, text) -> path, which writes a file in the test's folder."""

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    return write
