"""Decisions: published crossovers, every sign case, and answers that are refused."""

import numpy as np
import pytest
from scipy.optimize import brentq

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import LawError

from .grids import TRUTH, demo_design, measured

# Liew et al. 2025, arXiv:2502.03009, table 2: raw tokens, raw dense parameters, shared E = 0.165.
DENSE = ScalingLaw.from_params("chinchilla", A=12.3, alpha=0.116, B=8.83, beta=0.088, E=0.165)
MOE = ScalingLaw.from_params("chinchilla", A=7.05, alpha=0.080, B=32.0, beta=0.161, E=0.165)


def upcycled(n_params):
    """Their law of upcycling at one size: the size term is part of the floor."""
    floor = 0.165 + 8.53 * n_params**-0.112
    return ScalingLaw.from_params("bootstrap", A=16.3, alpha1=0.043, alpha2=0.085, alpha3=7.98e-4, E=floor)


@pytest.mark.parametrize(
    ("law", "asked", "loss"),
    [
        (DENSE, {"tokens": 74e9, "n_params": 1e9}, 2.2525),
        (DENSE, {"tokens": 111e9, "n_params": 1e9}, 2.2183),
        (MOE, {"tokens": 37e9, "n_params": 1e9}, 2.1447),
        (MOE, {"tokens": 111e9, "n_params": 1e9}, 2.0415),
        (upcycled(1e9), {"base_tokens": 74e9, "tokens": 37e9}, 2.1442),
    ],
)
def test_published_predictions(law, asked, loss):
    assert law.predict(**asked).value == pytest.approx(loss, abs=6e-5)


@pytest.mark.parametrize(("base_tokens", "exponent"), [(1e10, 0.0666), (1e11, 0.0648), (1e12, 0.0630)])
def test_published_exponents(base_tokens, exponent):
    found = upcycled(1e9).exponent(base_tokens)
    assert found.value == pytest.approx(exponent, abs=6e-5)
    assert found.low is None


@pytest.mark.parametrize(
    ("n_params", "base_tokens", "tokens"),
    [
        (1e9, 1e10, 7.1e9),
        (1e9, 1e11, 5.1e10),
        (1e9, 1e12, np.inf),
        (7e9, 1e10, 3.9e9),
        (7e9, 1e11, 2.0e10),
        (7e9, 1e12, 1.6e11),
    ],
)
def test_published_crossovers_with_floors_of_their_own(n_params, base_tokens, tokens):
    found = upcycled(n_params).crossover(base_tokens=base_tokens, scratch=MOE, n_params=n_params)
    assert found.value == pytest.approx(tokens, rel=0.03)  # published to two digits
    assert found.low is None
    assert any("given, not fitted" in note for note in found.notes)


def test_saturation_of_the_published_law_is_astronomical():
    found = upcycled(1e9).saturation()
    assert found.value == pytest.approx(np.exp(0.085 / 7.98e-4))
    assert "not a wall" in found.notes[0]


def test_crossover_of_a_law_with_two_terms_that_tokens_lower_counts_both():
    """Barnett's transfer gap stands beside the term that the base lowers: (A D1^-alpha + G) D2^-beta."""
    law = ScalingLaw.from_params(
        "barnett", A=4e3, alpha=0.3, G=30.0, beta=0.35, E=1.7, A_scratch=368.0, alpha_scratch=0.433
    )
    by_hand = (368.0 / (4e3 * 1e6**-0.3 + 30.0)) ** (1 / (0.433 - 0.35))
    found = law.crossover(base_tokens=1e6).value
    assert found == pytest.approx(by_hand, rel=1e-9)
    reused, fresh = (law.predict(base_tokens=b, tokens=found, extrapolate=True).value for b in (1e6, 0))
    assert reused == pytest.approx(fresh, rel=1e-9)


def test_crossover_is_where_the_two_curves_of_one_law_meet():
    law = ScalingLaw.from_params("bootstrap", **TRUTH)
    for base_tokens in (2e5, 1e6, 5e6):
        found = law.crossover(base_tokens=base_tokens)
        reused, scratch = (law.predict(base_tokens=d, tokens=found.value).value for d in (base_tokens, 0))
        assert reused == pytest.approx(scratch, rel=1e-10)
        assert (
            law.predict(base_tokens=base_tokens, tokens=found.value / 2).value
            < law.predict(base_tokens=0, tokens=found.value / 2).value
        )
        by_search = law.crossover(base_tokens=base_tokens, scratch=law)
        assert by_search.value == pytest.approx(found.value, rel=1e-3)


@pytest.mark.parametrize(
    ("a_scratch", "alpha_scratch", "value", "words"),
    [
        (50.0, 0.4, None, "small budgets"),  # scratch starts ahead and falls more slowly
        (50.0, 0.9, 0.0, "better at every budget"),
        (1e9, 0.1, np.inf, "better at every second-stage budget"),
        (1e9, 0.9, 1e9, "up to this many"),
    ],
)
@pytest.mark.parametrize("by_search", [False, True])
def test_every_sign_case_is_named(a_scratch, alpha_scratch, value, words, by_search):
    """Reuse at D1 = e^10: L - E = 1000 * D2^-(0.8 - 0.03 * 10)."""
    reuse = {"A": 1000.0, "alpha1": 0.0, "alpha2": 0.8, "alpha3": 0.03, "E": 0.01}
    law = ScalingLaw.from_params("bootstrap", **reuse, A_scratch=a_scratch, alpha_scratch=alpha_scratch)
    found = law.crossover(base_tokens=np.exp(10.0), scratch=law if by_search else None)
    assert words in found.notes[0]
    if value is None:
        assert found.value is None
    elif value in (0.0, np.inf):
        assert found.value == value
    else:
        assert found.value == pytest.approx((a_scratch / 1000) ** (1 / (alpha_scratch - 0.5)), rel=1e-3)


def test_decisions_of_a_fitted_law_carry_intervals_that_hold_the_truth():
    truth = ScalingLaw.from_params("bootstrap", **TRUTH)
    law = ScalingLaw(resamples=200).fit(measured(demo_design(trunks=6), noise=0.003))
    for found, true in (
        (law.crossover(base_tokens=1e6), truth.crossover(base_tokens=1e6)),
        (law.saturation(), truth.saturation()),
    ):
        assert found.low < true.value < found.high
        assert found.low < found.value < found.high
        assert found.reach is not None


def test_a_crossover_beyond_the_data_says_how_far():
    law = ScalingLaw(resamples=100).fit(measured(demo_design(trunks=6), noise=0.003))
    found = law.crossover(base_tokens=2_048_000)
    assert found.reach > 0.3
    assert f"{found.reach:.1f} decades beyond the data" in " ".join(found.notes)
    assert "decades" in str(found)


def test_questions_without_an_answer_are_refused_or_answered_with_the_reason():
    alone = ScalingLaw.from_params("bootstrap", A=900.0, alpha1=0.25, alpha2=0.42, alpha3=0.012, E=1.6)
    with pytest.raises(LawError, match="without from-scratch rows"):
        alone.crossover(base_tokens=1e6)
    with pytest.raises(LawError, match="base_tokens is 0; a comparison needs"):
        ScalingLaw.from_params("bootstrap", **TRUTH).crossover(base_tokens=0)
    with pytest.raises(LawError, match="has no alpha3"):
        ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8).saturation()
    rising = ScalingLaw.from_params("bootstrap", A=900.0, alpha1=0.25, alpha2=0.42, alpha3=-0.012, E=1.6).saturation()
    assert rising.value is None
    assert "is not positive" in rising.notes[0]


def test_saturation_is_not_claimed_when_the_interval_of_alpha3_includes_zero():
    flat = ScalingLaw.from_params("multiplicative", A=200.0, alpha1=0.06, alpha2=0.33, E=1.7)
    law = next(
        law
        for law in (ScalingLaw().fit(measured(demo_design(scratch=False), flat, 0.01, seed=s)) for s in range(20))
        if law.params_["alpha3"] > 0
    )
    found = law.saturation()
    assert found.value is None
    assert "includes 0" in found.notes[0]


def test_a_base_that_is_not_worth_its_cost_never_pays():
    law = ScalingLaw.from_params("bootstrap", **TRUTH)
    found = law.crossover(base_tokens=1e6, n_params=2e5, n_params_base=1e5, count_base_cost=True)

    def gap(tokens):
        reused = law.predict(base_tokens=1e6, tokens=tokens, extrapolate=True).value
        return reused - law.predict(base_tokens=0, tokens=tokens + 0.5e6, extrapolate=True).value

    assert "500k tokens more" in found.notes[0]
    assert found.value == 0
    assert all(gap(tokens) > 0 for tokens in np.geomspace(1, 1e20, 400))


def test_a_base_worth_having_at_its_cost_pays_up_to_the_crossing_scipy_finds():
    """A base from which learning is much easier; at D2 near 0 the scratch side, with its head start, is ahead."""
    law = ScalingLaw.from_params("bootstrap", **{**TRUTH, "A": 1e4})
    found = law.crossover(base_tokens=1e6, count_base_cost=True)

    def gap(log):
        reused = law.predict(base_tokens=1e6, tokens=np.exp(log), extrapolate=True).value
        return reused - law.predict(base_tokens=0, tokens=np.exp(log) + 1e6, extrapolate=True).value

    assert gap(0.0) > 0
    assert gap(np.log(found.value / 2)) < 0
    assert np.log(found.value) == pytest.approx(brentq(gap, np.log(found.value / 2), np.log(found.value * 2)), abs=1e-3)


def test_the_probability_that_reuse_is_better_falls_across_the_crossover():
    law = ScalingLaw(resamples=200).fit(measured(demo_design(trunks=6), noise=0.003))
    at = law.crossover(base_tokens=1e6)
    early, middle, late = (
        law.crossover(base_tokens=1e6, tokens=tokens) for tokens in (at.low / 2, at.value, at.high * 2)
    )
    assert early.probability > 0.97
    assert 0.2 < middle.probability < 0.8
    assert late.probability < 0.03
    assert "with probability" in early.notes[-1]
    assert law.crossover(base_tokens=1e6).probability is None


@pytest.mark.parametrize("trunks", [1, 6])
def test_laws_fitted_apart_join_their_uncertainty(trunks):
    design = demo_design(trunks=trunks, marks=(131_072, 262_144, 524_288, 1_048_576))
    table = {name: np.array(column) for name, column in measured(design, noise=0.002).items()}
    scratch_rows = table["base_tokens"] == 0
    reuse = ScalingLaw(resamples=150).fit({name: column[~scratch_rows] for name, column in table.items()})
    more = measured([(0, int(d), t) for t in range(8) for d in (131_072, 262_144, 524_288, 1_048_576)], noise=0.002)
    scratch = ScalingLaw("total_tokens", resamples=150).fit({**more, "run_id": [f"s{i}" for i in range(32)]})
    both = reuse.crossover(scratch, base_tokens=1e6, tokens=3e6)
    exact = reuse.crossover(ScalingLaw.from_params("total_tokens", **scratch.params_), base_tokens=1e6)
    assert exact.value == pytest.approx(both.value)
    assert np.log(both.high / both.low) > np.log(exact.high / exact.low)
    assert 0 <= both.probability <= 1
    assert any("fitted apart" in note for note in both.notes)
    assert any("taken as exact" in note for note in exact.notes)


def test_tokens_for_is_the_inverse_of_predict():
    law = ScalingLaw(resamples=150).fit(measured(demo_design(trunks=6), noise=0.003))
    for base_tokens in (0, 819_200):
        goal = law.predict(base_tokens=base_tokens, tokens=4e5).value
        found = law.tokens_for(loss=goal, base_tokens=base_tokens)
        assert found.value == pytest.approx(4e5, rel=1e-3)
        assert found.low < found.value < found.high
        assert found.reach == 0
    assert law.tokens_for(loss=1000.0, base_tokens=0).value == pytest.approx(1.0)


def test_a_loss_below_the_floor_is_never_reached():
    law = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    found = law.tokens_for(loss=1.8, n_params=7e10)
    assert found.value is None
    assert "never gets to 1.8" in found.notes[0]
    assert law.tokens_for(loss=2.0, n_params=7e10).value == pytest.approx(
        (2085.43 / (2.0 - 1.8172 - 482.01 * 7e10**-0.3478)) ** (1 / 0.3658), rel=1e-3
    )
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(LawError, match="positive, finite"):
            law.tokens_for(loss=wrong, n_params=7e10)


@pytest.mark.parametrize(
    ("n_params", "crossings"),
    [(1e9, {1e10: 7.1e9, 1e11: 5.1e10, 1e12: np.inf}), (7e9, {1e10: 3.9e9, 1e11: 2.0e10, 1e12: 1.6e11})],
)
def test_published_crossovers_by_the_form_with_a_size_term(n_params, crossings):
    law = ScalingLaw.from_params(
        "bootstrap_n", A=16.3, alpha1=0.043, alpha2=0.085, alpha3=7.98e-4, B=8.53, beta=0.112, E=0.165
    )
    assert law.predict(base_tokens=74e9, tokens=37e9, n_params=1e9).value == pytest.approx(2.1442, abs=6e-5)
    for base_tokens, tokens in crossings.items():
        found = law.crossover(MOE, base_tokens=base_tokens, n_params=n_params)
        assert found.value == pytest.approx(tokens, rel=0.03)


@pytest.fixture(scope="module")
def fitted():
    return ScalingLaw(resamples=100).fit(measured(demo_design(trunks=6), noise=0.003))


def test_beyond_the_end_of_the_formula_nothing_is_decided(fitted):
    """exp(alpha2 / alpha3) is 3e11 base tokens: from there on the law says that more tokens raise the loss."""
    for found in (fitted.crossover(base_tokens=1e15), fitted.tokens_for(loss=2.5, base_tokens=1e15)):
        assert (found.value, found.low, found.reach) == (None, None, None)
        assert "says loss rises with more of them" in found.notes[0]
        assert "ln D1 < alpha2 / alpha3" in found.notes[0]
    assert fitted.crossover(base_tokens=1e9).value > 0


def test_the_reach_of_a_crossover_covers_base_and_budget(fitted):
    near, budget = (fitted.crossover(base_tokens=1e6, tokens=tokens) for tokens in (4e5, 1e13))
    assert near.reach < 1
    assert budget.reach == pytest.approx(np.log10(1e13 / 524_288))
    assert f"The budget lies {budget.reach:.1f} decades beyond the data." in budget.notes
    assert "with probability" in budget.notes[-1]
    far = fitted.crossover(base_tokens=1e10)
    assert far.reach == pytest.approx(np.log10(1e10 / 2_048_000))
    assert f"The base lies {far.reach:.1f} decades beyond the data." in far.notes


def test_a_law_from_scratch_fitted_elsewhere_is_named_with_its_distance(fitted):
    sizes, tokens = (axis.ravel() for axis in np.meshgrid([1e8, 3e8, 1e9, 3e9], np.geomspace(819e6, 3e10, 5)))
    truth = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    points = {"n_params": sizes, "tokens": tokens, "loss": truth.predict(n_params=sizes, tokens=tokens).value}
    scratch = ScalingLaw("chinchilla", resamples=20).fit(points)
    always = fitted.crossover(scratch, base_tokens=1e6, n_params=1e8)
    assert always.value == np.inf
    assert always.reach == pytest.approx(np.log10(819e6 / 524_288))
    assert any("fitted 3.2 decades away: at 819M to 30B tokens" in note for note in always.notes)
    asked = fitted.crossover(scratch, base_tokens=1e6, n_params=1e8, tokens=1e6)
    assert asked.reach == pytest.approx(np.log10(819))
    assert any("budget lies 2.9 decades beyond the data of the law from scratch" in note for note in asked.notes)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"base_tokens": "1M"}, "base_tokens is '1M'; a comparison needs"),
        ({"base_tokens": 1e6, "tokens": "20B"}, "tokens is '20B'; a comparison needs"),
        ({"base_tokens": True}, "a comparison needs"),
        ({"base_tokens": 10**400}, "a comparison needs"),
        ({"base_tokens": 1e6, "n_params": 1e5}, "does not read n_params"),
        ({"base_tokens": 1e6, "n_params_base": 1e5}, "matters only for the cost of the base"),
        ({"base_tokens": 1e6, "n_params_base": 1e5, "count_base_cost": True}, "Give both"),
        ({"base_tokens": 1e6, "n_params": 0, "n_params_base": 1e5, "count_base_cost": True}, "positive and finite"),
    ],
)
def test_a_comparison_refuses_what_it_cannot_read_or_would_pass_over(asked, message):
    with pytest.raises(LawError, match=message):
        ScalingLaw.from_params("bootstrap", **TRUTH).crossover(**asked)


def test_a_law_of_one_stage_has_no_base_to_reuse():
    with pytest.raises(LawError, match="does not read base_tokens"):
        MOE.crossover(DENSE, base_tokens=1e9, n_params=1e9)


def test_a_loss_near_the_floor_has_no_interval_where_few_bases_leave_both_ends_open():
    law = ScalingLaw().fit(measured(demo_design(), noise=0.003, seed=1))
    assert law.fitted.replicates.method == "jackknife"
    near = law.params_["E"] + 1e-3
    found = law.tokens_for(loss=near, base_tokens=1e6)
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert "never reached" in " ".join(found.notes)
    assert "both ends open" in " ".join(found.notes)
