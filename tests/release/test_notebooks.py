"""The notebooks, converted from their plain sources, run from the first cell to the last."""

from pathlib import Path

import jupytext
import nbclient
import pytest

SOURCES = sorted((Path(__file__).parents[2] / "examples/notebooks").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_computes(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the kernel imports the installed package
    notebook = jupytext.read(source)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 4 and all(cell.execution_count for cell in code)
    assert any("image/png" in str(cell.outputs) for cell in code)
    jupytext.write(notebook, tmp_path / f"{source.stem}.ipynb")
    assert (tmp_path / f"{source.stem}.ipynb").stat().st_size > 10_000
