"""The cards of model_cards/ are those our code makes today, and their laws load."""

import importlib.util

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


@pytest.mark.parametrize("name", NAMES)
def test_a_law_in_the_folder_is_the_one_its_card_speaks_of(made, name):
    ours, again = (ScalingLaw.from_pretrained(folder) for folder in (CARDS / name, made[name].parent))
    known = {key: value for key, value in again.params_.items() if value is not None}
    assert {key: ours.params_[key] for key in known} == pytest.approx(known, rel=1e-6)
