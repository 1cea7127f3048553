"""The two scales of noise: the textbook's analysis of variance, and what a law with few bases hides of their luck."""

import numpy as np
import pytest

from hf_bootstrap import FORMS
from hf_bootstrap.laws.fitted import completed
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.noise import draw_noise, outliers, two_scales
from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.saturation import null_test

from .grids import TRUTH, demo_design, measured

SIX = [np.arange(6 * base, 6 * base + 6) for base in range(6)]


def test_without_a_law_they_are_those_of_the_one_way_analysis_of_variance():
    y = np.random.default_rng(0).standard_normal((6, 6)) + 2 * np.arange(6)[:, None]
    noise, luck = two_scales((y - y.mean()).ravel(), np.ones((36, 1)), SIX)
    within = np.sum((y - y.mean(axis=1, keepdims=True)) ** 2) / 30
    between = 6 * np.sum((y.mean(axis=1) - y.mean()) ** 2) / 5
    assert noise**2 == pytest.approx(within)
    assert luck**2 == pytest.approx((between - within) / 6)


def test_the_luck_that_a_law_takes_for_its_own_shape_is_given_back():
    """Four of six bases' luck goes into a cubic in ln D1; the mean of the estimates is the truth all the same."""
    rng = np.random.default_rng(1)
    x = np.repeat(np.linspace(-1, 1, 6), 6)
    slopes = np.stack([x**0, x, x**2, x**3], axis=1)
    left = np.eye(36) - slopes @ np.linalg.pinv(slopes)
    found = []
    for _ in range(400):
        drawn = 0.003 * rng.standard_normal(36) + 0.004 * np.repeat(rng.standard_normal(6), 6)
        found.append(two_scales(left @ drawn, slopes, SIX))
    own, common = np.mean(np.square(found), axis=0)
    assert own == pytest.approx(0.003**2, rel=0.05)
    assert common == pytest.approx(0.004**2, rel=0.15)


def test_luck_below_zero_is_none_and_rows_alone_have_none():
    y = np.tile([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0], 6)
    assert two_scales(y, np.ones((36, 1)), SIX) == (pytest.approx(np.sqrt(36 / 35)), 0.0)
    assert two_scales(y, np.ones((36, 1)), [np.array([row]) for row in range(36)])[1] == 0


def test_drawn_noise_is_shared_by_the_rows_of_a_base_and_by_no_others():
    drawn = draw_noise(0.003, 0.004, [*SIX[:5], np.array([30])], 4000, 36, seed=0)
    related = np.cov(drawn.T)
    assert related[0, 1] == pytest.approx(0.004**2, rel=0.15)
    assert abs(related[0, 6]) < 2e-6
    assert related[0, 0] == pytest.approx(0.005**2, rel=0.15)
    assert related[30, 30] == pytest.approx(0.003**2, rel=0.15)


def test_a_null_test_finds_the_luck_of_the_bases():
    bases = tuple(int(x) for x in np.geomspace(131_072, 4e6, 6))
    marks = tuple(int(x) for x in np.geomspace(131_072, 2e6, 6))
    found = [
        null_test(measured(demo_design(bases=bases, marks=marks), noise=0.003, base_noise=luck, seed=3), n=20)
        for luck in (0.0, 0.01)
    ]
    assert found[0].luck < 0.003
    assert 0.004 < found[1].luck < 0.02
    assert all(0.002 < test.noise < 0.0045 for test in found)
    assert TRUTH["alpha3"] == pytest.approx(found[0].alpha3, abs=0.01)


@pytest.mark.slow
def test_clean_studies_of_few_rows_show_no_outlier_and_a_planted_one_is_found():
    """15 rows for 7 parameters, of which a robust fit goes through seven."""
    false = found = 0
    for seed in range(30):
        table = measured(demo_design(), noise=0.003, seed=seed)
        row = 4 + seed % 10
        for spoil in (False, True):
            if spoil:
                table["loss"][row] *= 1.05
            points = Points.read(table)
            form, points = completed(FORMS["bootstrap"], points)
            fit = fit_form(form, points.logs(form), points.loss)
            far = outliers(fit.residuals, len(fit.theta))
            false += not spoil and far.any()
            found += spoil and far[row]
    assert false <= 2
    assert found >= 24
