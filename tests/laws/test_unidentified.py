"""Questions whose answer the points do not determine are refused; those they do determine are answered."""

import re

import numpy as np
import pytest

from hf_bootstrap import FORMS, ScalingLaw, compare_forms
from hf_bootstrap.errors import LawError, PredictionError
from hf_bootstrap.laws.card import card_text
from hf_bootstrap.laws.decisions import Decision
from hf_bootstrap.laws.planner import planner_page
from hf_bootstrap.laws.sensitivity import objective_sensitivity

from .grids import gemstones as gemstones_rows

LEVELS = np.geomspace(1e8, 1e10, 12)
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
TWO_STAGE = {"A": 900.0, "alpha1": 0.25, "alpha2": 0.42, "alpha3": 0.012, "E": 1.6}
# Form -> parameters, a design that leaves some unknown, a question it answers, and one it cannot.
DESIGNS = {
    "bootstrap": (
        TWO_STAGE,
        {"base_tokens": LEVELS, "tokens": LEVELS / 10},
        {"base_tokens": 2e9, "tokens": 2e8},
        {"base_tokens": 2e9, "tokens": 8e8},
    ),
    "bootstrap at one D1": (
        TWO_STAGE,
        {"base_tokens": np.full(12, 1e9), "tokens": LEVELS},
        {"base_tokens": 1e9, "tokens": 3e9},
        {"base_tokens": 3e9, "tokens": 3e9},
    ),
    "multiplicative": (
        {"A": 200.0, "alpha1": 0.06, "alpha2": 0.28, "E": 1.5},
        {"base_tokens": LEVELS, "tokens": LEVELS / 10},
        {"base_tokens": 2e9, "tokens": 2e8},
        {"base_tokens": 2e8, "tokens": 2e8},
    ),
    "gadre": (
        {"a": 3000.0, "b": 6000.0, "eta": 0.17, "E": 1.7},
        {"tokens": 20 * LEVELS, "n_params": LEVELS},
        {"tokens": 4e10, "n_params": 2e9},
        {"tokens": 4e10, "n_params": 2e8},
    ),
    "cross_lingual": (
        {**CHINCHILLA, "gamma": 0.1},
        {"tokens": LEVELS, "n_params": np.full(12, 1e9)},
        {"tokens": 2e9, "n_params": 1e9},
        {"tokens": 2e9, "n_params": 4e9},
    ),
    "data_constrained": (
        {**CHINCHILLA, "R_D": 15.0, "R_N": 5.0},
        {
            "tokens": np.tile(LEVELS, 4),
            "n_params": np.repeat([1e6, 3e6, 1e7, 3e7], 12),
            "unique_tokens": np.tile(LEVELS, 4),
        },
        {"tokens": 2e9, "n_params": 2e6, "unique_tokens": 2e9},
        {"tokens": 2e10, "n_params": 2e6, "unique_tokens": 2e8},
    ),
    "d_cpt": (
        {**CHINCHILLA, "eta": 0.3, "C": 0.5, "gamma": 0.4, "epsilon": 0.1},
        {
            "tokens": np.tile(LEVELS, 4),
            "n_params": np.repeat([1e8, 3e8, 1e9, 3e9], 12),
            "mixture_ratio": np.full(48, 0.5),
        },
        {"tokens": 2e9, "n_params": 2e8, "mixture_ratio": 0.5},
        {"tokens": 2e9, "n_params": 2e8, "mixture_ratio": 0.05},
    ),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_what_the_points_determine_is_answered_and_the_rest_refused(name, tmp_path):
    form = name.partition(" ")[0]
    params, design, known, unknown = DESIGNS[name]
    truth = ScalingLaw.from_params(form, **params)
    rows = {**design, "loss": truth.predict(**design, extrapolate=True).value}
    law = ScalingLaw(form, resamples=20).fit(rows)
    assert law.fitted.unidentified
    assert law.predict(**known).value == pytest.approx(truth.predict(**known, extrapolate=True).value, rel=1e-3)
    with pytest.raises(PredictionError, match="rests on parameters these points cannot tell apart"):
        law.predict(**unknown, extrapolate=True)
    law.save_pretrained(tmp_path)
    again = ScalingLaw.from_pretrained(tmp_path)
    assert again.predict(**known).value == law.predict(**known).value
    with pytest.raises(PredictionError, match="cannot tell apart"):
        again.predict(**unknown, extrapolate=True)


def test_a_grid_leaves_no_question_open():
    first, second = (axis.ravel() for axis in np.meshgrid(LEVELS[::3], LEVELS[::3] / 10))
    truth = ScalingLaw.from_params("bootstrap", **TWO_STAGE)
    loss = truth.predict(base_tokens=first, tokens=second).value
    law = ScalingLaw(resamples=20).fit({"base_tokens": first, "tokens": second, "loss": loss})
    assert law.fitted.unidentified == ()
    assert law.fitted.moves.shape == (0, 5)
    assert law.predict(base_tokens=1e11, tokens=1e6, extrapolate=True).value > 1.6


@pytest.fixture(scope="module")
def gemstone_rows():
    """Runs before and after a cooldown of a tenth of their tokens, at 22 model sizes."""
    return gemstones_rows()


@pytest.fixture(scope="module")
def gemstones(gemstone_rows):
    return ScalingLaw("bootstrap_n", resamples=60).fit(gemstone_rows)


@pytest.mark.parametrize("form", ["bootstrap_n", "bootstrap"])
def test_nothing_said_of_gemstones_gives_a_lost_parameter_a_number(form, gemstones, gemstone_rows):
    """Neither as a value, nor as a second optimum, nor by how far another objective or one row less moves it."""
    law = gemstones if form == "bootstrap_n" else ScalingLaw(form, resamples=60).fit(gemstone_rows)
    page = planner_page(law)
    texts = {"summary": law.summary(nulls=False), "card": card_text(law), "page": page[: page.index("<script")]}
    for name, text in texts.items():
        found = re.findall(r"\b(?:A|alpha1|alpha2)(?: =| by| moves by)? [-+]?\d\S*", " ".join(text.split()))
        assert not found, name
        assert "cannot be told apart" in text, name


def test_a_comparison_shows_no_alpha3_where_the_points_cannot_tell_it():
    params, design, *_ = DESIGNS["bootstrap at one D1"]
    loss = ScalingLaw.from_params("bootstrap", **params).predict(**design, extrapolate=True).value
    (score,) = compare_forms({**design, "loss": loss}, ["bootstrap"]).scores
    assert score.alpha3 is None
    assert score.floor == pytest.approx(params["E"], rel=1e-3)
    law = ScalingLaw(resamples=20).fit({**design, "loss": loss})
    assert "=" not in str(law.saturation_test(n=10))
    assert all(moved["alpha3"] is None for moved in objective_sensitivity(law).moved.values())


def test_gemstones_are_predicted_on_their_line_and_refused_off_it(gemstones):
    assert {"A", "alpha1", "alpha2"} <= set(gemstones.fitted.unidentified)
    points = gemstones.points_
    on = gemstones.predict(base_tokens=points.base_tokens, tokens=points.tokens, n_params=points.n_params)
    assert np.mean(np.abs(on.value / points.loss - 1)) < 0.02
    told = gemstones.predict(base_tokens=5e10, tokens=5e9, n_params=5e8)
    assert told.low < told.value < told.high < 1.1 * told.value
    for off in (2e9, 1e10):
        with pytest.raises(PredictionError, match="A, alpha1, alpha2"):
            gemstones.predict(base_tokens=5e10, tokens=off, n_params=5e8)


def test_exponents_and_decisions_of_gemstones_are_refused_with_the_reason(gemstones):
    with pytest.raises(PredictionError, match="This exponent rests on"):
        gemstones.exponent(5e10)
    with pytest.raises(PredictionError, match="This number of tokens rests on"):
        gemstones.tokens_for(loss=2.8, base_tokens=5e10, n_params=5e8)
    with pytest.raises(LawError, match="does not know its exponents here"):
        gemstones.plot("three_panels")
    found = gemstones.saturation()
    assert isinstance(found, Decision)
    assert found.value is None
    assert not any("exponent of" in sentence for sentence in gemstones.checks_)
    assert "at its points (x), unknown off them" in gemstones.plot().axes[0].get_title(loc="left")


def test_decisions_that_do_not_depend_on_what_is_lost_are_taken():
    """At one mixture ratio nothing is known of others, but the best size at that ratio is."""
    params, design, *_ = DESIGNS["d_cpt"]
    truth = ScalingLaw.from_params("d_cpt", **params)
    law = ScalingLaw("d_cpt", resamples=20).fit({**design, "loss": truth.predict(**design, extrapolate=True).value})
    found = law.compute_optimal(flops=1e19, mixture_ratio=0.5)
    assert found.value == pytest.approx(truth.compute_optimal(flops=1e19, mixture_ratio=0.5).value, rel=0.02)
    with pytest.raises(PredictionError, match="This number of tokens rests on"):
        law.tokens_for(loss=4.0, n_params=1e9, mixture_ratio=0.02)


@pytest.mark.parametrize(
    ("form", "asked", "name"),
    [
        ("total_tokens", {"base_tokens": 1e9, "tokens": 1e9, "n_params": 1e9}, "n_params"),
        ("chinchilla", {"tokens": 1e9, "n_params": 1e9, "mixture_ratio": 0.5}, "mixture_ratio"),
        ("chinchilla", {"tokens": 1e9, "n_params": 1e9, "base_tokens": 0}, "base_tokens"),
    ],
)
def test_an_argument_the_form_would_pass_over_is_refused(form, asked, name):
    params = CHINCHILLA if form == "chinchilla" else {"A": 400.0, "alpha": 0.4, "E": 1.8}
    with pytest.raises(PredictionError, match=f"does not read {name}"):
        ScalingLaw.from_params(form, **params).predict(**asked)


def test_the_exponent_of_a_form_that_bends_in_d2_is_no_number():
    unified = ScalingLaw.from_params("unified", A=400.0, alpha=0.3, k=2.0, s=0.5, E=1.8)
    assert unified.fitted.form is FORMS["unified"]
    with pytest.raises(LawError, match="has no exponent of D2 at fixed D1"):
        unified.exponent(1e6)
