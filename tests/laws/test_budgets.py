"""Budgets divided: stationary points and minima that scipy finds too, published numbers, and refusals."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import LawError
from hf_bootstrap.laws.budgets import grow_after

from .grids import TRUTH, chinchilla_240, demo_design, measured

# From scratch learning is much worse than in TRUTH, so that a base is worth its cost.
LAW = ScalingLaw.from_params("bootstrap", **{**TRUTH, "A_scratch": 2000.0})
N = 1e5


@pytest.mark.parametrize(("n_params_base", "n_params"), [(N, N), (N, 2 * N), (2 * N, N)])
def test_the_best_split_is_stationary_and_where_scipy_finds_it(n_params_base, n_params):
    flops = 6 * N * 2e6
    found = LAW.best_split(flops=flops, n_params_base=n_params_base, n_params=n_params)
    base, tokens = found.value, found.also["tokens"][0]
    assert 6 * (n_params_base * base + n_params * tokens) == pytest.approx(flops)
    a1, a2, a3 = (TRUTH[f"alpha{i}"] for i in (1, 2, 3))
    ratio = (a2 - a3 * np.log(base)) / (a1 - a3 * np.log(tokens))
    assert n_params * tokens / (n_params_base * base) == pytest.approx(ratio, rel=1e-3)

    def loss(part):
        d1, d2 = flops * (1 - part) / 6 / n_params_base, flops * part / 6 / n_params
        return LAW.predict(base_tokens=d1, tokens=d2, extrapolate=True).value

    oracle = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-10})
    assert found.also["share"][0] == pytest.approx(oracle.x, rel=1e-3)
    assert found.also["loss"][0] == pytest.approx(oracle.fun, rel=1e-7)


def test_where_scratch_is_better_there_is_no_base():
    never = ScalingLaw.from_params("bootstrap", **{**TRUTH, "A_scratch": 100.0})
    found = never.best_split(flops=6 * N * 2e6, n_params_base=N)
    assert found.value == 0
    assert "Training from scratch with the whole budget is better" in found.notes[0]
    assert str(found).startswith("no base at all")
    assert found.also["base_tokens"][0] == pytest.approx(LAW.best_split(flops=6 * N * 2e6, n_params_base=N).value)


def test_an_answer_of_no_base_says_why_it_has_no_interval_and_how_sure_it_is():
    never = ScalingLaw.from_params("bootstrap", **{**TRUTH, "A_scratch": 100.0})
    law = ScalingLaw().fit(measured(demo_design(), never, noise=0.003))
    assert law.fitted.replicates.method == "jackknife"
    found = law.best_split(flops=6 * N * 1e6, n_params_base=N)
    assert (found.value, found.low) == (0, None)
    assert found.probability < 0.5
    assert any("No base at all has no interval" in note for note in found.notes)
    assert found.reach == pytest.approx(np.log10(1e6 / 524_288))
    assert any("The whole budget from scratch lies 0.3 decades beyond" in note for note in found.notes)
    unsure = never.best_split(flops=6 * N * 2e6, n_params_base=N)
    assert unsure.probability is None
    assert any("How probable" in note for note in unsure.notes)


def test_beyond_the_end_of_the_formula_there_is_no_split():
    """exp(alpha1 / alpha3) = e^3 tokens is where the base stops helping: no split of this budget lies below it."""
    short = ScalingLaw.from_params("bootstrap", A=50.0, alpha1=0.06, alpha2=0.06, alpha3=0.02, E=1.0)
    found = short.best_split(flops=6 * N * 2e6, n_params_base=N)
    assert found.value is None
    assert "exp(alpha2 / alpha3)" in found.notes[0]


def test_a_law_in_which_tokens_are_tokens_gives_all_to_the_cheaper_stage():
    total = ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8)
    for sizes, stage in (((N, 2 * N), "first"), ((2 * N, N), "second")):
        found = total.best_split(flops=6 * N * 2e6, n_params_base=sizes[0], n_params=sizes[1])
        assert found.value is None
        assert f"the whole budget to the {stage} stage" in found.notes[0]


def test_the_split_of_a_fitted_law_carries_intervals_that_hold_the_truth():
    law = ScalingLaw(resamples=150).fit(measured(demo_design(trunks=6), LAW, noise=0.003))
    asked = {"flops": 6 * N * 2e6, "n_params_base": N}
    found, true = law.best_split(**asked), LAW.best_split(**asked)
    assert found.low < true.value < found.high
    for name in ("tokens", "share", "loss"):
        value, low, high = found.also[name]
        assert low < true.also[name][0] < high
        assert low < value < high
    assert found.probability is not None


def besiroglu(size, flops):
    return 482.01 * size**-0.3478 + 2085.43 * (flops / 6 / size) ** -0.3658 + 1.8172


@pytest.mark.parametrize("flops", [1e18, 5.76e23, 1e26])
def test_the_best_size_is_where_scipy_finds_it(flops):
    law = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    found = law.compute_optimal(flops=flops)
    oracle = minimize_scalar(
        lambda log: besiroglu(np.exp(log), flops), bounds=(5, 35), method="bounded", options={"xatol": 1e-12}
    )
    assert found.value == pytest.approx(np.exp(oracle.x), rel=1e-5)
    assert found.also["loss"][0] == pytest.approx(oracle.fun, rel=1e-7)
    assert found.value * found.also["tokens"][0] * 6 == pytest.approx(flops)
    scale = (0.3478 * 482.01 / (0.3658 * 2085.43)) ** (1 / (0.3478 + 0.3658))
    assert found.value == pytest.approx(scale * (flops / 6) ** (0.3658 / (0.3478 + 0.3658)))


def test_the_best_size_of_the_traced_table_has_an_interval():
    """Besiroglu et al. 2024 (arXiv:2404.10102) find about 20 tokens per parameter at Chinchilla's budget."""
    law = ScalingLaw("chinchilla", resamples=200).fit(chinchilla_240())
    found = law.compute_optimal(flops=5.76e23)
    assert found.low < found.value < found.high
    ratio, low, high = found.also["tokens_per_param"]
    assert low < 20 < high
    assert low < ratio < high


@pytest.mark.parametrize(("n_params", "tokens", "after"), [(7e9, 2e12, 11.11e9), (8e9, 15e12, 6.58e9)])
def test_the_published_guideline_of_stacking(n_params, tokens, after):
    found = grow_after(n_params=n_params, tokens=tokens)
    assert found.value == pytest.approx(after, rel=1e-3)
    assert found.value == pytest.approx(grow_after(n_params=n_params, flops=6 * n_params * tokens).value)
    assert found.low is None


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1e12", True])
def test_budgets_that_cannot_be_are_refused(wrong):
    with pytest.raises(LawError, match="positive and finite"):
        LAW.best_split(flops=wrong, n_params_base=N)
    with pytest.raises(LawError, match="positive and finite"):
        grow_after(n_params=wrong, tokens=1e9)
    with pytest.raises(LawError, match="exactly one"):
        grow_after(n_params=1e9)


def test_questions_to_the_wrong_law_are_refused():
    with pytest.raises(LawError, match="does not read both tokens and n_params"):
        LAW.compute_optimal(flops=1e20)
    chinchilla = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    with pytest.raises(LawError, match="has one stage"):
        chinchilla.best_split(flops=1e20, n_params_base=1e9)
