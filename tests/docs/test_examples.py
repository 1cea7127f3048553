"""Every example runs as a person would run it: offline, in a folder of its own, without an argument."""

import os
import subprocess
import sys

import pytest

from .pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# On a small machine that does other things too; one that takes longer is no example.
_MOST_SECONDS = 240


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs(example, tmp_path):
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env=offline,
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "an example shows something"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_page_and_says_what_it_shows(example):
    text = example.read_text(encoding="utf-8")
    assert text.lstrip().startswith(('"""', "#!"))
    assert len(text.splitlines()) <= 180
