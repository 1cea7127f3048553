"""Do methods share their exponents? Planted laws that do and do not, and points that cannot be compared."""

import numpy as np
import pytest

from hf_bootstrap.errors import FitError, LawError
from hf_bootstrap.laws.across import compare_exponents

LAWS = {"stack": (40.0, 0.15, 0.35, 0.02), "wide": (38.0, 0.15, 0.35, 0.02)}


def study(laws=LAWS, noise=0.003, seed=0, **columns):
    """Three trunks of five bases, five marks, one floor."""
    rng, rows = np.random.default_rng(seed), []
    for method, (a, alpha1, alpha2, alpha3) in laws.items():
        for trunk in range(3):
            for d1 in np.geomspace(2e5, 3e6, 5):
                for d2 in np.geomspace(1.5e5, 2.4e6, 5):
                    u, v = np.log(d1), np.log(d2)
                    # Pivoted, so that another alpha3 turns the exponents about the middle base.
                    loss = a * np.exp(-alpha1 * u - alpha2 * v + alpha3 * u * v - (alpha3 - 0.02) * 13.5 * v) + 1.2
                    ids = {"base_run_id": f"trunk {trunk}", "base_checkpoint_id": f"{trunk}/{d1:.0f}"}
                    measured = {"base_tokens": d1, "tokens": d2, "loss": loss * np.exp(noise * rng.normal())}
                    rows.append({"method": method, "domain": "fiction", "n_params": 200_000, **ids, **measured})
    table = {name: [row[name] for row in rows] for name in rows[0]}
    return {**table, **columns}


def test_without_noise_the_differences_are_those_that_were_planted():
    laws = {**LAWS, "wide": (38.0, 0.15, 0.35, 0.012)}
    found = compare_exponents(study(laws, noise=1e-7), ["stack", "wide"], resamples=50)
    alpha3, exponent = found.differences
    assert (alpha3.quantity, exponent.quantity) == ("alpha3", "exponent")
    assert alpha3.value == pytest.approx(0.008, abs=1e-5)
    middle = np.log(alpha3.base_tokens)
    assert exponent.value == pytest.approx(-0.008 * (middle - 13.5), abs=1e-4)
    assert not found.agree
    assert found.separate < 1e-5 < found.shared


def test_exponents_that_are_shared_are_found_so_and_others_are_told_apart():
    same = compare_exponents(study(seed=1), ["stack", "wide"], resamples=200)
    assert same.agree
    assert "agree as far as these points can tell" in str(same)
    assert same.gap_low <= 0
    other = compare_exponents(study({**LAWS, "wide": (38.0, 0.15, 0.35, 0.012)}, seed=1), ["stack", "wide"])
    assert not other.agree
    assert "differ: on bases left out" in str(other)
    assert other.differences[0].low > 0
    assert (same.n_bases, same.n_points) == (15, 150)
    assert other.to_dict()["agree"] is False


def test_three_methods_give_every_pair():
    laws = {**LAWS, "interpose": (41.0, 0.15, 0.35, 0.02)}
    found = compare_exponents(study(laws), list(laws), resamples=50)
    pairs = {(difference.first, difference.second) for difference in found.differences}
    assert pairs == {("stack", "wide"), ("stack", "interpose"), ("wide", "interpose")}
    assert "stack, wide and interpose" in str(found)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"domain": ["fiction"] * 75 + ["code"] * 75}, r"differ in text \(domain\)"),
        ({"n_params": [200_000] * 75 + [400_000] * 75}, r"differ in size \(n_params\)"),
    ],
)
def test_methods_whose_losses_do_not_mean_the_same_are_refused(columns, told):
    with pytest.raises(LawError, match=told):
        compare_exponents(study(**columns), ["stack", "wide"])


def test_sizes_within_a_hundredth_are_one_size():
    sizes = [201_280] * 75 + [200_928] * 75
    assert compare_exponents(study(n_params=sizes), ["stack", "wide"], resamples=50).n_points == 150


def test_other_bases_are_refused():
    ids = study()["base_checkpoint_id"]
    with pytest.raises(FitError, match="do not share 3 bases"):
        compare_exponents(study(base_checkpoint_id=ids[:75] + [f"other {i}" for i in ids[75:]]), ["stack", "wide"])


def test_one_method_is_nothing_to_compare():
    with pytest.raises(LawError, match="nothing to compare"):
        compare_exponents(study(), ["stack"])
