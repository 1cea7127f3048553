"""The cards of model_cards/ are those our code makes today, and their laws load."""

import importlib.util
import re
import struct

import pytest
import yaml

from hf_bootstrap import ScalingLaw

from .pages import ROOT

CARDS = ROOT / "model_cards"
NAMES = sorted(path.parent.name for path in CARDS.glob("*/README.md"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("make_cards", CARDS / "make_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {path.parent.name: path for path in module.make(tmp_path_factory.mktemp("cards"))}


def test_every_card_is_there(made):
    assert sorted(made) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_the_one_our_code_makes(made, name):
    card = (CARDS / name / "README.md").read_text(encoding="utf-8")
    assert made[name].read_text(encoding="utf-8") == card, "run `make cards` and look at what changed"
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "hf-bootstrap"


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_a_card_are_there(made, name):
    """As large as those made now; pixels are matplotlib's own, and change with its releases."""
    text = (CARDS / name / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert bool(shown) == name.startswith(("demo", "reproduction"))
    assert sorted(shown) == sorted(f"figures/{path.name}" for path in (CARDS / name).glob("figures/*"))
    for figure in shown:
        assert png_size(CARDS / name / figure) == pytest.approx(png_size(made[name].parent / figure), rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_law_in_the_folder_is_the_one_its_card_speaks_of(made, name):
    ours, again = (ScalingLaw.from_pretrained(folder) for folder in (CARDS / name, made[name].parent))
    known = {key: value for key, value in again.params_.items() if value is not None}
    assert {key: ours.params_[key] for key in known} == pytest.approx(known, rel=1e-6)
