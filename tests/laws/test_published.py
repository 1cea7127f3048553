"""Numbers that others published, from their parameters through `from_params` and `predict`."""

import csv

import numpy as np
import pytest

from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.forms import FORMS

from .grids import chinchilla_240, table

# Liew et al. 2025, arXiv:2502.03009, table 2: raw tokens, raw dense parameters, E = 0.165.
DENSE = ScalingLaw.from_params("chinchilla", A=12.3, alpha=0.116, B=8.83, beta=0.088, E=0.165)
SPARSE = ScalingLaw.from_params("chinchilla", A=7.05, alpha=0.080, B=32.0, beta=0.161, E=0.165)
UPCYCLED = ScalingLaw.from_params(
    "bootstrap_n", A=16.3, alpha1=0.043, alpha2=0.085, alpha3=7.98e-4, B=8.53, beta=0.112, E=0.165
)


@pytest.mark.parametrize(
    ("law", "asked", "loss"),
    [
        (DENSE, {"tokens": 74e9}, 2.2525),
        (DENSE, {"tokens": 111e9}, 2.2183),
        (SPARSE, {"tokens": 37e9}, 2.1447),
        (SPARSE, {"tokens": 111e9}, 2.0415),
        (UPCYCLED, {"base_tokens": 74e9, "tokens": 37e9}, 2.1442),
    ],
)
def test_upcycling_losses(law, asked, loss):
    assert law.predict(n_params=1e9, **asked).value == pytest.approx(loss, abs=5e-5)


@pytest.mark.parametrize(("base_tokens", "exponent"), [(1e10, 0.0666), (1e11, 0.0648), (1e12, 0.0630)])
def test_upcycling_exponents(base_tokens, exponent):
    form = UPCYCLED.fitted.form
    logs = {"base_tokens": np.log([base_tokens]), "tokens": np.zeros(1), "n_params": np.zeros(1)}
    assert form.exponents(logs, UPCYCLED.fitted.theta[None])["tokens"][0, 0] == pytest.approx(exponent, abs=5e-5)


@pytest.mark.parametrize(
    ("n_params", "base_tokens", "crossing"),
    [(1e9, 1e10, 7.1e9), (1e9, 1e11, 5.1e10), (7e9, 1e10, 3.9e9), (7e9, 1e11, 2.0e10), (7e9, 1e12, 1.6e11)],
)
def test_upcycling_crossovers(n_params, base_tokens, crossing):
    found = UPCYCLED.crossover(scratch=SPARSE, base_tokens=base_tokens, n_params=n_params)
    assert found.value == pytest.approx(crossing, rel=0.03)  # printed with two digits


def test_upcycling_from_a_long_trained_small_base_always_wins():
    assert UPCYCLED.crossover(scratch=SPARSE, base_tokens=1e12, n_params=1e9).value == np.inf


# Muennighoff et al. 2023, arXiv:2305.16264, and the notebook beside their data.
REPEATED = {
    "A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804), "alpha": 0.3526596, "beta": 0.3526596,
    "R_D": 15.387756, "R_N": 5.309743,
}  # fmt: skip


def test_data_constrained_is_chinchilla_while_nothing_repeats_and_saturates_after():
    law = ScalingLaw.from_params("data_constrained", **REPEATED)
    plain = ScalingLaw.from_params("chinchilla", **{name: REPEATED[name] for name in ("A", "B", "E", "alpha", "beta")})
    once = law.predict(tokens=100e9, n_params=1e9, unique_tokens=100e9).value
    assert once == pytest.approx(plain.predict(tokens=100e9, n_params=1e9).value, rel=1e-12)
    # Without end, U tokens are worth (1 + R_D) U of them.
    forever = law.predict(tokens=1e16, n_params=1e8, unique_tokens=1e10).value
    most = plain.predict(tokens=1e10 * (1 + REPEATED["R_D"]), n_params=1e8).value
    assert forever == pytest.approx(most, rel=1e-9)


def test_four_epochs_are_nearly_as_good_as_new_data():
    """The paper's headline: up to four epochs change the loss by less than half a percent."""
    law = ScalingLaw.from_params("data_constrained", **REPEATED)
    asked = {"tokens": 100e9, "n_params": 2e9}
    assert law.predict(**asked, unique_tokens=25e9).value < 1.005 * law.predict(**asked, unique_tokens=100e9).value


def test_cross_lingual_losses():
    """Zheng et al. 2024, arXiv:2407.02118: at equal N and D continued pretraining is ahead until tokens suffice."""
    scratch = ScalingLaw.from_params("chinchilla", E=1.55, A=420.0, B=719.5, alpha=0.40, beta=0.30)
    continued = ScalingLaw.from_params("cross_lingual", E=1.55, A=420.0, B=433.3, alpha=0.40, beta=0.20, gamma=0.08)
    n, d = 1e9, 1e10
    by_hand = 1.55 + 420 / n**0.4 + 433.3 / (d**0.2 * n**0.08)
    assert continued.predict(tokens=d, n_params=n).value == pytest.approx(by_hand, rel=1e-12)
    assert scratch.predict(tokens=d, n_params=n).value == pytest.approx(1.55 + 420 / n**0.4 + 719.5 / d**0.3, rel=1e-12)


def test_cpt_dynamics_with_a_shift_that_helps():
    """arXiv:2505.07796, Knowledge-Pile: the constants it prints count sums of learning rate, and B is negative."""
    law = ScalingLaw.from_params("cpt_dynamics", E=3.024, A=0.412, alpha=0.677, B=-0.666, c=5662.0, beta=0.146)
    before, after = (law.predict(base_tokens=2.0, tokens=x).value for x in (1e-9, 1.0))
    assert after == pytest.approx(3.024 + 0.412 * 3**-0.677 - 0.666 * (1 - 5663.0**-0.146), rel=1e-12)
    assert after < before


def test_chinchilla_as_quoted_describes_its_points():
    points = chinchilla_240()
    law = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    predicted = law.predict(tokens=points["tokens"], n_params=points["n_params"]).value
    assert np.median(np.abs(predicted / points["loss"] - 1)) < 0.004


# Of the table's runs the published fit uses neither repeats with other seeds nor these, which its notebook
# (huggingface/datablations, utils/parametric_fit.ipynb) comments out as outliers, or lists nowhere in that cell.
NOT_FITTED = """
2b84b4b 2b88b4b 2b812b4b 2b816b4b 2b824b4b 2b855b1b25 4b212b12b 4b224b12b 4b284b1b9 4b284b6b 2b8100m100m 14m7b5100m
14m300b100m 1b12b7100m 1b13b9100m 1b15b9100m 1b17b5100m 619m3b9100m 619m5b9100m 619m7b5100m 2b84b8100m 1b58b8100m
1b112b100m 619m22b100m 221m91b400m 221m174b400m 221m600b400m 8b712b12b 8b712b1b5 8b712b400m 8b712b100m 3b926b1b5
2b836b1b5 2b836b400m 2b836b100m 2b246b400m 2b246b100m 1b566b1b5 1b566b100m 1b191b400m 1b191b1b5 1b1250b1b5 1b5174b1b5
2b291b1b5 2b2174b1b5 8b720b1b5 2b877b1b5 8b7178b25bopt 4b284b12bc4opt2 421m300b1b5
"""


def test_data_constrained_has_the_published_objective_on_the_182_runs_and_its_optimum_is_lower():
    with table("datablations", "c4_val_losses.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["is_seed_repeat"] == "0" and r["run"] not in NOT_FITTED.split()]
    assert len(rows) == 182
    names = {"n_params": "params", "tokens": "tokens", "unique_tokens": "unique_tokens"}
    logs = {ours: np.log([float(row[theirs]) for row in rows]) for ours, theirs in names.items()}
    loss = np.array([float(row["val_loss"]) for row in rows])
    form = FORMS["data_constrained"]
    apart = np.log(loss) - form.log_loss(logs, form.to_theta(REPEATED)[None])[0]
    size = np.abs(apart)
    published = np.sum(np.where(size <= 1e-3, apart**2 / 2, 1e-3 * (size - 5e-4)))
    assert published == pytest.approx(0.015825936570763588, rel=1e-6)
    # They fitted R_D and R_N only, with the rest from another study; all seven together describe these runs better.
    assert fit_form(form, logs, loss).value < 0.5 * published


def test_the_intervals_of_chinchilla_are_those_of_its_replication():
    """Besiroglu et al. 2024, arXiv:2404.10102, and 4,000 resamples of other code: A, B within 10%, the others 3%."""
    law = ScalingLaw("chinchilla", resamples=4000).fit(chinchilla_240())
    expected = {
        "A": (285.5, 727),
        "B": (1054, 5706),
        "E": (1.770, 1.870),
        "alpha": (0.317, 0.372),
        "beta": (0.332, 0.415),
    }
    for name, ends in expected.items():
        assert law.interval(name) == pytest.approx(ends, rel=0.10 if name in "AB" else 0.03), name
