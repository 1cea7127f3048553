"""Other objectives and repeated seeds: the field's numbers for Chinchilla, and an F test worked by hand."""

import numpy as np
import pytest
from scipy import stats

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import LawError
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.profiles import profile
from hf_bootstrap.laws.report import summary_text
from hf_bootstrap.laws.saturation import saturation_test
from hf_bootstrap.laws.sensitivity import lack_of_fit, objective_sensitivity

from .grids import TRUTH, demo_design, measured

MARKS = (131_072, 262_144, 524_288)
REPEATED = [(d1, d2, trunk) for trunk in range(6) for d1 in (131_072, 524_288, 2_097_152) for d2 in MARKS]


@pytest.fixture(scope="module")
def law():
    return ScalingLaw(resamples=200).fit(measured(REPEATED, noise=0.003))


def test_the_objective_moves_a_law_with_an_outlier_and_the_sentence_names_it():
    table = measured(REPEATED, noise=0.003)
    quiet = objective_sensitivity(ScalingLaw(resamples=200).fit(table))
    table["loss"][0] *= 1.3
    loud = objective_sensitivity(ScalingLaw(resamples=200).fit(table))
    assert max(map(abs, loud.moved["squares"].values())) > 2 * max(map(abs, quiet.moved["squares"].values()))
    assert all(abs(by) < 1e-3 for by in quiet.moved["huber"].values())
    assert "squares moves the law most" in str(loud)


def test_each_objective_gives_the_law_fitted_with_it(law):
    found = objective_sensitivity(law)
    squares = ScalingLaw(objective="lsq", resamples=10).fit(law.points_)
    assert found.params["squares"] == pytest.approx(squares.params_, rel=1e-6)
    low, high = law.fitted.ask(lambda theta: theta, 0.683)[1]
    index = law.fitted.form.parameters.index("alpha3")
    by = (squares.params_["alpha3"] - law.params_["alpha3"]) / ((high - low)[index] / 2)
    assert found.moved["squares"]["alpha3"] == pytest.approx(by, rel=1e-4)


def test_lack_of_fit_is_the_textbook_f_test():
    table = measured(REPEATED, noise=0.003)
    law = ScalingLaw("multiplicative", objective="lsq", resamples=10).fit(table)
    found = lack_of_fit(law)
    logs = np.log(table["loss"]).reshape(6, 9)
    predicted = law.predict(base_tokens=table["base_tokens"][:9], tokens=table["tokens"][:9]).value
    pure = np.sum((logs - logs.mean(axis=0)) ** 2) / (54 - 9)
    lack = 6 * np.sum((logs.mean(axis=0) - np.log(predicted)) ** 2) / (9 - 4)
    assert (found.cells, found.repeats) == (9, 45)
    assert found.noise == pytest.approx(pure**0.5)
    assert found.ratio == pytest.approx(lack / pure)
    assert found.p == pytest.approx(stats.f.sf(lack / pure, 5, 45))


def test_repeats_clear_the_law_that_made_them_and_convict_another(law):
    own = lack_of_fit(ScalingLaw(resamples=10).fit(measured(REPEATED, noise=0.003, seed=1)))
    assert own.p > 0.05
    assert "explains all" in str(own)
    other = ScalingLaw("total_tokens", resamples=10).fit(law.points_)
    assert lack_of_fit(other).p < 1e-6
    assert "by more than that explains" in str(lack_of_fit(other))


def test_without_repeats_there_is_no_pure_error():
    assert lack_of_fit(ScalingLaw(resamples=10).fit(measured(demo_design(), noise=0.003))) is None


def test_a_profile_is_a_refit_with_the_parameter_held_and_lowest_at_the_estimate(law):
    found = profile(law, "alpha3", values={"alpha3": [0.0, law.params_["alpha3"], 0.04]})
    assert found.excess[1] == pytest.approx(0, abs=1e-6)
    flat = ScalingLaw("multiplicative", resamples=10).fit(law.points_)
    delta = 1e-3

    def loss(fitted):
        r = np.abs(np.log(law.points_.loss / fitted.predict(
            base_tokens=law.points_.base_tokens, tokens=law.points_.tokens).value))  # fmt: skip
        return np.sum(np.where(r < delta, r**2 / 2, delta * (r - delta / 2)))

    # alpha3 = 0 is the multiplicative law.
    assert found.excess[0] == pytest.approx(loss(flat) / loss(law) - 1, rel=1e-4)
    assert found.excess[2] > 0.01


def test_a_profile_passes_through_the_optimum_and_no_place_is_worse_than_a_fit_of_its_own(law):
    found = profile(law, steps=5)
    assert found.excess.min() == pytest.approx(0, abs=1e-6)
    i, j = np.unravel_index(np.argmin(found.excess), found.excess.shape)
    assert (found.values[0][i], found.values[1][j]) == found.estimate
    points, form = law.points_, law.fitted.form
    log_d2 = np.log(points.tokens)
    for row, alpha3 in enumerate(found.values[0]):
        floor = found.values[1][3]
        rest = np.log(points.loss - floor) - alpha3 * np.log(points.base_tokens) * log_d2
        design = np.stack([np.ones_like(log_d2), np.log(points.base_tokens), log_d2], axis=1)
        log_a, minus_a1, minus_a2 = np.linalg.lstsq(design, rest, rcond=None)[0]
        theta = np.array([[log_a, -minus_a1, -minus_a2, alpha3, np.log(floor)]])
        r = np.abs(np.log(points.loss) - form.log_loss(points.logs(form), theta)[0])
        simple = np.sum(np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)))
        lowest = fit_form(form, points.logs(form), points.loss).value
        assert found.excess[row, 3] <= simple / lowest - 1


def test_few_bases_have_a_profile_too_over_the_interval_that_leaving_them_out_gives():
    few = ScalingLaw().fit(measured(demo_design(), noise=0.003))
    found = saturation_test(few, n=20, steps=5)
    assert found.profile.limit is None
    assert found.profile.values[0][0] < few.interval("alpha3")[0]
    assert found.profile.values[0][-1] > few.interval("alpha3")[1]
    text = summary_text(few.fitted, found)
    assert "alpha3 held at" in text
    assert text.index("total tokens law") < text.index("Warnings:")
    assert "summary(nulls=True)" in summary_text(few.fitted)
    assert "alpha3" not in summary_text(ScalingLaw("multiplicative").fit(few.points_).fitted)


def test_a_saturation_test_says_alpha3_the_nulls_and_the_floor(law):
    found = saturation_test(law, n=60, steps=5)
    assert found.verdict.finding == "falls"
    assert found.profile.excess.shape == (5, 5)
    text = str(found)
    assert "total tokens law does not describe" in text
    assert "the best E runs from" in text
    low, high = (float(text.split(word)[1].split()[0]) for word in ("runs from ", " to "))
    assert low <= TRUTH["E"] * 1.2
    assert high >= TRUTH["E"] * 0.8


def test_a_profile_takes_values_in_any_order_and_refuses_those_no_parameter_can_have(law):
    found = law.profile("alpha3", values={"alpha3": [0.03, 0.02, 0.03, 0.025]})
    assert found.values[0].tolist() == [0.02, 0.025, 0.03]
    for name, values in (("E", [0.0, 1.0]), ("alpha3", [np.nan]), ("alpha3", [])):
        with pytest.raises(LawError, match=f"values of {name} are"):
            law.profile(name, values={name: values})


def test_points_without_any_curve_still_have_profiles_and_figures():
    rows = measured(demo_design(scratch=False, trunks=6))
    flat = ScalingLaw(resamples=8).fit({**rows, "loss": np.full(len(rows["loss"]), 3.0)})
    for name in flat.params_:
        assert np.all(np.diff(flat.profile(name, steps=3).values[0]) > 0)
    assert flat.plot("loss_curves").axes


def test_what_cannot_be_asked_is_refused(law):
    known = ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8)
    for ask in (objective_sensitivity, lack_of_fit, saturation_test):
        with pytest.raises(LawError):
            ask(known)
    with pytest.raises(LawError, match="alpha3"):
        profile(law, "alpha33")
    with pytest.raises(LawError, match="one or two"):
        profile(law, "alpha1", "alpha2", "alpha3")
