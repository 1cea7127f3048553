"""The numbers of the reproduction are those its points give by our code of today."""

import os
import shutil
import subprocess
import sys

import pytest

from .pages import ROOT

FOLDER = ROOT / "docs" / "reproduction"


@pytest.mark.slow
def test_every_page_of_results_is_what_the_analysis_writes(tmp_path):
    for file in FOLDER.glob("points-*.jsonl"):
        shutil.copy(file, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, str(FOLDER / "analyse.py"), str(tmp_path)], env=environment, check=True)
    made = {page.name: page.read_text() for page in tmp_path.glob("results*.md")}
    assert made == {page.name: page.read_text() for page in FOLDER.glob("results*.md")}, (
        "run analyse.py, see what changed"
    )
    assert {figure.name for figure in tmp_path.glob("*.png")} == {figure.name for figure in FOLDER.glob("*.png")}
