"""The notebooks run from top to bottom, in a fresh kernel, as they are."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from .pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
_MOST_SECONDS = 180  # for one cell, on a machine that does other things too

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"laws", "grow_and_continue"}


@each_notebook
def test_every_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=_MOST_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@each_notebook
def test_a_notebook_is_kept_with_what_it_shows_and_nothing_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "a figure"
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not re.search(r"/(tmp|home|root|Users)/", path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 400_000
