"""The figures of the guides are those our code draws from the tables they name."""

import importlib.util
import os
from pathlib import Path

import pytest

from .pages import ROOT

GUIDES = ROOT / "docs" / "guides"
TABLES = Path(os.environ.get("HF_BOOTSTRAP_SHARED", ROOT / "../shared")) / "data" / "tables" / "miniature"


def test_every_figure_shown_is_one_the_script_draws(tmp_path):
    if not TABLES.exists():
        pytest.skip(f"{TABLES} is not here; set HF_BOOTSTRAP_SHARED to the folder with the pilot's tables")
    spec = importlib.util.spec_from_file_location("make_figures", GUIDES / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.draw(TABLES, tmp_path)
    assert sorted(path.name for path in made) == sorted(path.name for path in (GUIDES / "figures").iterdir())
    assert all(path.stat().st_size > 10_000 for path in made)
