"""The sixteen checks: each speaks where it should, and sound points of enough bases are left in peace."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from hf_bootstrap import FORMS, ScalingLaw
from hf_bootstrap.errors import FitError, LawError, PredictionError
from hf_bootstrap.laws.catalogue import catalogue_text
from hf_bootstrap.laws.checks import CHECKS, run_checks
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.identifiability import identify
from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.resampling import no_replicates, replicate

from .grids import CODE, FICTION, PLANTED, TRUTH, demo_design, measured, table

MARKS = (131_072, 262_144, 524_288, 1_048_576, 2_097_152)
# Without base ids rows are resampled as they are, which is right for noise that is drawn by row.
NO_IDS = ("base_run_id", "base_checkpoint_id")


def sound(noise=0.003, **changes):
    rows = measured(demo_design(trunks=2, scratch=False, marks=MARKS), noise=noise)
    return {**{name: np.array(column) for name, column in rows.items() if name not in NO_IDS}, **changes}


def checks(rows, form="bootstrap", **options):
    return ScalingLaw(form, resamples=100, **options).fit(rows).checks_


def said(rows, words, **options):
    return [sentence for sentence in checks(rows, **options) if words in sentence]


def test_there_are_sixteen_and_each_says_what_it_looks_at():
    assert len(CHECKS) == 16
    assert all(check.about.endswith(("?", ".", ")")) for check in CHECKS.values())
    assert [name for name, check in CHECKS.items() if check.look is None] == ["extrapolation"]


def test_sound_points_are_left_in_peace():
    loud = [c for c in checks(sound()) if "correlated" not in c and "E is not identified" not in c]
    assert loud == []


def test_1_a_search_that_has_two_answers_says_so():
    rows = {"tokens": np.geomspace(1e6, 1e9, 9), "n_params": np.geomspace(1e6, 1e9, 9)}
    rows["loss"] = 1.7 + 400 * rows["n_params"] ** -0.34 + 400 * rows["tokens"] ** -0.30
    (sentence,) = (c for c in checks(rows, "chinchilla") if "A second optimum fits almost as well (loss +0.00%)" in c)
    assert "alpha 0.3, beta 0.34" in sentence or "alpha 0.34, beta 0.3" in sentence, "they can be swapped"


def test_2_few_points_are_named_and_too_few_refused():
    rows = {name: column[:9] for name, column in sound().items()}
    assert said(rows, "9 points for 5 parameters")
    with pytest.raises(FitError, match="5 points cannot determine the 5 parameters"):
        ScalingLaw().fit({name: column[:5] for name, column in rows.items()})


def test_3_correlated_parameters_are_named_with_the_condition_number():
    (sentence,) = said(sound(), "known only together")
    assert "A and E" in sentence or "alpha2 and A" in sentence or "A and alpha" in sentence
    assert "condition number" in sentence


def test_4_short_axes_are_named():
    narrow = measured(demo_design(trunks=2, scratch=False, marks=(100_000, 150_000, 200_000)), noise=0.003)
    assert said(narrow, "tokens spans 0.30 decades")


def test_5_bounds_and_exponents_are_judged():
    pure = ScalingLaw.from_params("multiplicative", A=200.0, alpha1=0.06, alpha2=0.28, E=1e-9)
    rows = measured(demo_design(trunks=3, scratch=False), pure, noise=1e-3)
    found = checks(rows, "multiplicative")
    assert any("E has gone to 0" in c or "E is not identified" in c for c in found)
    rising = ScalingLaw.from_params("multiplicative", A=2.0, alpha1=-0.06, alpha2=0.28, E=1.0)
    assert said(
        measured(demo_design(trunks=3, scratch=False), rising, noise=1e-4), "alpha1 = -0.0", form="multiplicative"
    )


def two_stages(form, noise=1e-4, **params):
    d1, d2 = (x.ravel() for x in np.meshgrid([0, 1e8, 1e9, 4e9], np.geomspace(3e7, 3e9, 7)))
    loss = ScalingLaw.from_params(form, **params).predict(base_tokens=d1, tokens=d2).value
    loss = loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(d1)))
    return {"base_tokens": d1, "tokens": d2, "loss": loss}


def test_5_a_shift_that_helps_lowers_the_floor_and_is_no_fault():
    """With B < 0 the floor is E + B: E itself may lie above losses that were measured."""
    rows = two_stages("cpt_dynamics", A=4e4, alpha=0.6, B=-1.4, beta=0.5, c=3e-9, E=3.2)
    law = ScalingLaw("cpt_dynamics", resamples=20).fit(rows)
    assert law.params_["B"] < 0
    assert law.params_["E"] > min(rows["loss"])
    told = " ".join(law.checks_)
    for wrong in ("not believable", "B = ", "make the loss worse"):
        assert wrong not in told
    assert law.fitted.form.floors(law.fitted.theta[None])[0] == pytest.approx(1.8, abs=0.2)


def test_5_larger_models_that_do_worse_are_called_that():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    law = ScalingLaw.from_params("chinchilla", A=0.02, alpha=-0.2, B=400.0, beta=0.3, E=1.7)
    rows = {"n_params": n, "tokens": d, "loss": law.predict(n_params=n, tokens=d, extrapolate=True).value}
    (sentence,) = (c for c in checks(rows, "chinchilla") if "is negative" in c)
    assert sentence.startswith("alpha = -0.2")
    assert "larger models make the loss worse" in sentence


def test_6_rows_of_one_base_that_err_together_are_seen_without_ids():
    bases = [int(b) for b in np.geomspace(1e5, 5e6, 9)]
    rows = measured(demo_design(scratch=False, bases=bases, marks=MARKS), noise=0.0005, base_noise=0.01, seed=3)
    assert said({n: c for n, c in rows.items() if n not in NO_IDS}, "rows of one D1 err together")


def test_6_rows_of_one_size_that_err_together_are_seen_in_laws_of_one_stage():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6), indexing="ij"))
    law, rng = ScalingLaw.from_params("chinchilla", **PLANTED["chinchilla"]), np.random.default_rng(0)
    loss = law.predict(n_params=n, tokens=d, extrapolate=True).value * np.exp(5e-4 * rng.standard_normal(36))
    words = "Rows of one model size err together"
    assert not said({"n_params": n, "tokens": d, "loss": loss}, words, form="chinchilla")
    loss = loss * np.exp(np.repeat(0.01 * rng.standard_normal(6), 6))
    (sentence,) = said({"n_params": n, "tokens": d, "loss": loss}, words, form="chinchilla")
    assert "Name what they share as base_run_id" in sentence


def test_7_residuals_show_outliers_trends_spread_and_misfit():
    rows = sound()
    rows["loss"][7] *= 1.08
    assert said(rows, "1 outlier beyond five times the usual error")
    assert said(sound(), "The residuals have a ", form="total_tokens")
    assert said(sound(), "does not describe these points", form="total_tokens")
    louder = sound(noise=0.0)
    rng = np.random.default_rng(0)
    louder["loss"] = louder["loss"] * np.exp(2e-8 * louder["tokens"] * rng.standard_normal(len(louder["loss"])))
    assert said(louder, "spread more at large tokens")


def test_8_an_objective_that_matters_is_named():
    rows = sound()
    rows["loss"][[3, 11, 27]] *= 1.06
    (sentence,) = said(rows, "By least squares the parameters move")
    assert "standard errors" in sentence


def test_9_a_point_that_carries_much_and_a_far_end_that_is_missed_are_named():
    rows = sound(noise=0.001)
    rows["loss"][rows["tokens"] == MARKS[-1]] *= 1.03
    assert said(rows, "rows of the largest tokens are missed by")
    few = sound(noise=0.001)
    few = {name: column[:20] for name, column in few.items()}
    few["loss"][0] *= 1.01
    assert said(few, "One point carries much: without trunk0-131072-131072", objective="lsq")


PILOT = {"cpt_fic_cod.csv": CODE, "stack_fic.csv": FICTION}


@pytest.mark.parametrize("name", PILOT)
def test_laws_of_few_bases_are_checked_like_others(name):
    """The pilot has five bases, so its intervals leave out one at a time; three checks need errors all the same."""
    points = Points.read(table("miniature", name), columns=PILOT[name] | {"base_checkpoint_id": "D1"})
    law = ScalingLaw().fit(points)
    assert law.fitted.replicates.method == "jackknife"
    assert any("known only together" in sentence and "condition number" in sentence for sentence in law.checks_)
    fit = fit_form(FORMS["total_tokens"], points.logs(FORMS["total_tokens"]), points.loss)
    few = replicate(fit, points)
    steady = replace(few, theta=fit.theta + 0.1 * (few.theta - fit.theta))  # bases that differ less
    found = run_checks(points, fit, steady)
    assert any(sentence.startswith("By least squares the parameters move") for sentence in found)
    assert any(sentence.startswith("One point carries much") for sentence in found)


def test_what_cannot_be_checked_without_errors_says_so():
    two = measured(demo_design(bases=(131_072, 524_288), scratch=False, marks=MARKS), noise=0.003)
    assert said(two, "was not checked: there are no standard errors")
    assert said(two, "known only together"), "correlations are those of the slopes"


def test_10_a_question_far_from_the_data_is_refused():
    law = ScalingLaw(resamples=20).fit(sound())
    with pytest.raises(PredictionError, match="decades beyond the data"):
        law.predict(base_tokens=1e6, tokens=1e12)


def test_11_several_learning_rates_in_a_cell_are_named():
    rows = sound(peak_lr=[0.001, 0.002] * 20)
    rows["base_tokens"][1::2], rows["tokens"][1::2] = rows["base_tokens"][::2], rows["tokens"][::2]
    assert said(rows, "cells hold several learning rates")
    assert not said(sound(peak_lr=[0.001] * 40), "learning rates")


def test_12_decayed_and_undecayed_are_not_mixed_in_silence():
    assert said(sound(base_decayed=[True, False] * 20), "Some bases were decayed and others not")
    assert said(sound(phase=["end", None] * 20), "do not say whether their learning rate had decayed")
    assert said(sound(phase=["end"] * 39 + ["stable"]), "1 row left out: measured before")


def test_13_units_that_cannot_be_raw_counts_are_named_with_rows():
    rows = sound()
    rows["tokens"][4] /= 1e3
    (sentence,) = said(rows, "are millions mixed with billions?")
    assert "row 5" in sentence
    small = sound()
    small["tokens"] = small["tokens"] / 1e6
    assert said(small, "is that in millions?")
    bits = sound()
    bits["loss"][[2, 9]] /= np.log(2)
    (sentence,) = said(bits, "off by the factor between bits and nats")
    assert "2 losses (row 3, 10)" in sentence


def test_14_rows_of_zero_are_named():
    rows = measured(demo_design(trunks=2), noise=0.003)
    rows["tokens"][3] = 0
    found = checks(rows)
    assert any("6 from-scratch rows (D1 = 0), where this form diverges" in c for c in found)
    assert any("1 row left out: 0 tokens" in c for c in found)


def test_14_a_law_of_rows_from_scratch_alone_invents_no_range_of_bases(tmp_path):
    tokens = np.geomspace(1e6, 1e9, 8)
    rows = {"base_tokens": np.zeros(8), "tokens": tokens, "loss": 1.8 + 400 * tokens**-0.36}
    law = ScalingLaw("total_tokens", resamples=20).fit(rows)
    assert law.fitted.ranges == {"tokens": (1e6, 1e9)}
    assert any(c.startswith("All 8 rows are from scratch (base_tokens 0)") for c in law.checks_)
    law.save_pretrained(tmp_path)
    for found in (law, ScalingLaw.from_pretrained(tmp_path)):
        assert "data:       tokens 1M to 1B" in found.summary()
        assert found.predict(base_tokens=0, tokens=1e8).reach == 0
        with pytest.raises(PredictionError, match="but all 8 rows behind this law are from scratch"):
            found.predict(base_tokens=1e12, tokens=1e8, extrapolate=True)
    assert json.loads((tmp_path / "law.json").read_text())["ranges"] == {"tokens": [1e6, 1e9]}
    assert "predict(base_tokens=0, " in (tmp_path / "README.md").read_text()


def test_15_rounded_losses_are_named():
    rows = sound(noise=0.001)
    rows["loss"] = np.round(rows["loss"], 2)
    assert said(rows, "rounded to 2 decimals")


def test_16_repeats_show_that_a_form_misses_more_than_noise():
    rows = sound(noise=0.0005)
    assert said(rows, "Lack of fit", form="additive")
    assert not said(rows, "Lack of fit")


# --- identifiability ---


GRID_COLUMNS = {"base_tokens", "tokens", "n_params"}


def constant_ratio(truth="bootstrap", ratio=0.1, **params):
    bases = np.geomspace(1e5, 1e7, 12)
    law = ScalingLaw.from_params(truth, **params)
    loss = law.predict(base_tokens=bases, tokens=ratio * bases, extrapolate=True).value
    rng = np.random.default_rng(1)
    return {"base_tokens": bases, "tokens": ratio * bases, "loss": loss * np.exp(0.001 * rng.standard_normal(12))}


def test_with_a_constant_ratio_only_combinations_are_known_and_no_number_is_shown(tmp_path):
    truth = {name: TRUTH[name] for name in ("A", "alpha1", "alpha2", "alpha3", "E")}
    law = ScalingLaw(resamples=50).fit(constant_ratio(**truth))
    assert law.fitted.unidentified == ("A", "alpha1", "alpha2")
    (sentence,) = (c for c in law.checks_ if "cannot be told apart" in c)
    assert "because D2/D1 is constant" in sentence
    assert "alpha3 rests on curvature alone" in sentence
    assert "Known are ln A + 2.303 alpha2, alpha1 + alpha2, alpha3, E." in sentence
    for name in ("A", "alpha1", "alpha2"):
        assert law.params_[name] is None
        assert law.interval(name) is None
        assert law.stderr_[name] is None
        (line,) = (line for line in law.summary(nulls=False).splitlines() if line.startswith(f"{name} "))
        assert line.split() == [name, "-", "-", "-", "-"]
    assert law.params_["alpha3"] is not None
    law.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "law.json").read_text())["params"]["A"] is None
    assert "| `alpha1` | - | - | - | - |" in (tmp_path / "README.md").read_text()
    again = ScalingLaw.from_pretrained(tmp_path)
    assert again.params_ == law.params_
    assert again.saturation().value is None
    for ask in (lambda: again.exponent(1e6), lambda: again.tokens_for(loss=3.0, base_tokens=1e6)):
        with pytest.raises(LawError, match="cannot tell"):
            ask()


def test_the_known_combinations_are_those_of_the_algebra():
    """Moving along the lost direction by hand leaves every prediction at the points as it is."""
    truth = {name: TRUTH[name] for name in ("A", "alpha1", "alpha2", "alpha3", "E")}
    points = Points.read(constant_ratio(**truth))
    moved = {**truth, "A": truth["A"] * np.exp(0.3 * np.log(0.1)), "alpha1": 0.387 - 0.3, "alpha2": 0.655 + 0.3}
    pair = [ScalingLaw.from_params("bootstrap", **p) for p in (truth, moved)]
    a, b = (law.predict(base_tokens=points.base_tokens, tokens=points.tokens, extrapolate=True).value for law in pair)
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_gemstones_are_answered_with_what_they_cannot_tell():
    """Checkpoints before and after a cooldown of a tenth of their tokens: D2/D1 is constant to 0.6%."""
    begin, end = (
        [json.loads(line) for line in table("gemstones-paired", name).read_text().splitlines()]
        for name in ("cool_begin.jsonl", "cool_end.jsonl")
    )
    base = {(row["run_name"], round(row["tokens"] / 1e10)): row["tokens"] for row in begin}
    rows = [(base[row["run_name"], round(row["tokens"] / 1.1e10)], row) for row in end]
    columns = {
        "base_tokens": [d1 for d1, _ in rows],
        "tokens": [row["tokens"] - d1 for d1, row in rows],
        "loss": [row["final_loss"] for _, row in rows],
        "n_params": [row["params_active_precise"] for _, row in rows],
        "base_run_id": [row["run_name"] for _, row in rows],
    }
    form = "bootstrap_n" if "bootstrap_n" in FORMS else "bootstrap"
    law = ScalingLaw(form, resamples=60).fit(columns)
    assert set(law.fitted.unidentified) == {"A", "alpha1", "alpha2"}
    (sentence,) = (c for c in law.checks_ if "cannot be told apart" in c)
    assert "because D2/D1 is constant" in sentence
    assert "alpha3 rests on curvature alone" in sentence
    assert "alpha1 + alpha2" in sentence


def on_a_line(name, noise=0.003):
    """Points of a form whose columns are multiples of each other; a third one, where there is one, has three levels."""
    form, line, levels = FORMS[name], np.geomspace(1e6, 1e9, 30), np.tile([3e6, 1e7, 5e7], 10)
    two_stages = "base_tokens" in form.columns
    values = {"base_tokens": line, "tokens": line / 10, "n_params": levels if two_stages else line / 200}
    values |= {"unique_tokens": line / 80, "mixture_ratio": np.tile([0.1, 0.3, 0.9], 10)}
    values = {column: values[column] for column in form.columns}
    logs = {column: np.log(x) for column, x in values.items()}
    loss = np.exp(form.log_loss(logs, form.to_theta(PLANTED[name])[None])[0])
    return Points.read({**values, "loss": loss * np.exp(noise * np.random.default_rng(0).standard_normal(30))})


@pytest.mark.parametrize("name", FORMS)
def test_a_constant_ratio_is_named_whatever_the_form(name):
    """Also where noise makes a fit that loses no parameter exactly, as Chinchilla's at 20 tokens per parameter."""
    form, points = FORMS[name], on_a_line(name)
    fit = fit_form(form, points.logs(form), points.loss)
    found = identify(points, fit)
    ratio = "D2/D1" if "base_tokens" in form.columns else "D/N"
    assert ratio in found.constant
    none = no_replicates(len(fit.theta), unit="row", clusters=0, notes=())
    told = [sentence for sentence in run_checks(points, fit, none) if ratio in sentence]
    assert len(told) == 1
    assert "constant" in told[0]
    page = catalogue_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    (line,) = re.findall(rf"Known at a constant {ratio} = c: (.*)", page)
    if "; not " in line:
        assert line.partition("; not ")[2] == f"{', '.join(found.lost)}."
    for text in found.combinations:  # what is called known is known along the whole line that is lost, not near the fit
        assert not re.search(r"\de[+-]\d", text), (
            "a coefficient of 5.487e+04 is an artefact of where the fit came to rest"
        )


def test_a_combination_is_named_only_where_it_holds_away_from_the_fit():
    """Moved by hand along what is lost, by as much as the parameters themselves, no prediction changes."""
    points = on_a_line("cross_lingual")
    form = FORMS["cross_lingual"]
    fit = fit_form(form, points.logs(form), points.loss)
    assert identify(points, fit).combinations == ("A", "ln B + 2.996 gamma", "E", "alpha", "beta + gamma")
    moved = fit.theta + np.array([0, -np.log(20), 0, 0, -1, 1])
    before, after = form.log_loss(points.logs(form), np.stack([fit.theta, moved]))
    np.testing.assert_allclose(before, after, rtol=1e-9)
    points = on_a_line("additive")
    fit = fit_form(FORMS["additive"], points.logs(FORMS["additive"]), points.loss)
    assert identify(points, fit).lost
    assert identify(points, fit).combinations == ()


@pytest.mark.parametrize("name", [n for n, form in FORMS.items() if set(form.columns) <= GRID_COLUMNS])
def test_every_form_is_identified_by_a_full_grid(name):
    """A grid that varies every column by itself, at parameters fitted to a smooth law of all three."""
    grid = np.meshgrid(np.geomspace(1e8, 1e10, 4), np.geomspace(1e8, 1e10, 4), np.geomspace(1e7, 1e9, 4))
    d1, d2, n = (axis.ravel() for axis in grid)
    loss = 1.7 + 300 * n**-0.3 + 90 * d1**-0.08 * d2 ** (-0.2 + 0.003 * np.log(d1))
    rows = Points.read({"base_tokens": d1, "tokens": d2, "n_params": n, "loss": loss})
    fit = fit_form(FORMS[name], rows.logs(FORMS[name]), rows.loss)
    assert identify(rows, fit).lost == ()
