"""The slices of the paper's first figure, where their floor is fitted and where it is given."""

import numpy as np
import pytest

from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.slices import slice_exponents

FLOOR, D1, EXPONENTS = 1.7, (2e5, 8e5, 3.2e6), np.array([0.30, 0.25, 0.20])


def points(noise, seeds=3):
    rng = np.random.default_rng(0)
    rows = [
        (d1, d2, (FLOOR + 60 * d2**-a) * np.exp(noise * rng.normal()))
        for d1, a in zip(D1, EXPONENTS, strict=True)
        for d2 in np.geomspace(1.5e5, 2.4e6, 5)
        for _ in range(seeds)
    ]
    base_tokens, tokens, loss = (list(column) for column in zip(*rows, strict=True))
    ids = [f"run {i}" for i in range(len(rows))]
    return Points.read({"base_tokens": base_tokens, "tokens": tokens, "loss": loss, "run_id": ids})


@pytest.mark.parametrize("floor", [None, FLOOR])
def test_slices_find_the_exponents_that_were_planted(floor):
    found = slice_exponents(points(noise=1e-9), floor=floor, resamples=20)
    assert found.exponent == pytest.approx(EXPONENTS, abs=1e-5)
    assert found.floor == pytest.approx(FLOOR, abs=1e-4)


@pytest.mark.parametrize("floor", [None, FLOOR])
def test_their_intervals_are_of_the_size_of_the_noise(floor):
    """With a given floor they came from residuals in which the floor was left out, and reached from -40 to 40."""
    found = slice_exponents(points(noise=0.003), floor=floor)
    width = found.exponent_high - found.exponent_low
    assert np.all(np.abs(found.exponent - EXPONENTS) < width)
    assert np.all((found.exponent_low < found.exponent) & (found.exponent < found.exponent_high))
    assert np.all(width < (0.4 if floor is None else 0.03))
