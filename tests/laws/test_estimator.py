"""Scikit-learn's manners, and what a law says of its own saturation: tests, profiles, summaries, figures."""

import copy
import inspect

import numpy as np
import pytest

from hf_bootstrap import FORMS, ScalingLaw
from hf_bootstrap.errors import LawError
from hf_bootstrap.laws.profiles import Profile
from hf_bootstrap.laws.saturation import SaturationTest

from .grids import chinchilla_240, demo_design, measured

TABLE = measured(demo_design(), noise=0.003)


@pytest.fixture(scope="module")
def law():
    return ScalingLaw().fit(TABLE)


def cloned(estimator):
    """What `sklearn.base.clone` does, step by step, and what it checks."""
    given = estimator.get_params(deep=False)
    copies = {name: copy.deepcopy(value) if hasattr(value, "get_params") else value for name, value in given.items()}
    new = type(estimator)(**copies)
    assert all(new.get_params(deep=False)[name] is value for name, value in copies.items())
    return new


def test_the_settings_are_the_arguments_of_the_constructor():
    settings = [name for name in inspect.signature(ScalingLaw.__init__).parameters if name != "self"]
    law = ScalingLaw("chinchilla", objective="lsq", delta=0.5, resamples=7)
    assert list(law.get_params()) == settings
    assert law.get_params() == {"form": "chinchilla", "objective": "lsq", "delta": 0.5, "resamples": 7}


@pytest.mark.parametrize("form", ["total_tokens", FORMS["bootstrap"]], ids=["name", "object"])
def test_a_clone_has_the_settings_and_nothing_learnt(form):
    law = ScalingLaw(form, delta=2e-3, resamples=20).fit(TABLE)
    new = cloned(law)
    assert new.get_params() == law.get_params()
    assert not hasattr(new, "params_")
    assert new.fit(TABLE).params_ == law.params_


def test_settings_are_changed_together_or_not_at_all():
    law = ScalingLaw()
    assert law.set_params(form="additive", resamples=5) is law
    assert (law.form, law.resamples) == ("additive", 5)
    with pytest.raises(LawError, match=r"no setting 'resample'\. Did you mean 'resamples'"):
        law.set_params(delta=0.5, resample=9)
    assert law.delta == 1e-3
    assert law.set_params() is law


def test_a_fitted_law_is_held_against_laws_without_saturation_once(law, monkeypatch):
    found, asked = law.saturation_test(n=20, steps=3), []
    monkeypatch.setattr("hf_bootstrap.laws.law.saturation_test", lambda *given: asked.append(given) or found)
    assert isinstance(found, SaturationTest)
    assert [test.null for test in found.nulls] == ["total_tokens", "effective_transfer"]
    assert isinstance(law.profile("alpha3", steps=3), Profile)
    text = law.summary()
    assert "Does the exponent fall?" in text
    assert str(law._tested.verdict)[:40] in text
    assert law.summary() == text
    assert len(asked) == 1
    without = law.summary(nulls=False)
    assert "Does the exponent fall?" not in without
    assert "proves nothing" in without


def test_a_law_without_points_or_alpha3_has_a_summary_without_tests():
    given = ScalingLaw.from_params("bootstrap", A=900.0, alpha1=0.25, alpha2=0.42, alpha3=0.012, E=1.6)
    assert "Does the exponent fall?" not in given.summary()
    with pytest.raises(LawError, match="no points at hand"):
        given.summary(nulls=True)
    total = ScalingLaw("total_tokens", resamples=20).fit(TABLE)
    assert "alpha3" not in total.summary()
    with pytest.raises(LawError, match="has no alpha3"):
        total.saturation_test()


def test_a_new_fit_forgets_the_tests_of_the_last():
    law = ScalingLaw(resamples=20).fit(TABLE)
    law._tested = "of other points"
    assert law.fit(TABLE)._tested is None


@pytest.mark.parametrize("kind", ["three_panels", "loss_curves", "residuals", "held_out"])
def test_every_kind_of_figure_is_drawn_of_two_stages(law, kind):
    if kind == "held_out":
        table = measured(demo_design(trunks=2, marks=(131_072, 262_144, 524_288, 1_048_576)), noise=0.003)
        law = ScalingLaw(resamples=20).fit(table)
    figure = law.plot(kind)
    assert len(figure.axes) == {"three_panels": 3, "loss_curves": 1, "residuals": 3, "held_out": 2}[kind]
    if kind == "held_out":
        assert figure.axes[0].get_title(loc="left").startswith("D1 = 2.05M, from the rest: off by 0.")
        assert figure.axes[1].get_title(loc="left").startswith("D2 = 1.05M, from the rest: off by 0.")


def test_an_unknown_kind_of_figure_is_explained(law):
    with pytest.raises(LawError, match="Did you mean 'residuals'"):
        law.plot("residual")
    with pytest.raises(LawError, match="no points at hand"):
        ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658).plot()


@pytest.mark.parametrize("form", ["chinchilla", "kaplan", "gadre"])
def test_laws_of_one_stage_are_drawn_by_model_size(form):
    table = {name: column[::2] for name, column in chinchilla_240().items()}
    law = ScalingLaw(form, resamples=20).fit(table)
    (axis,) = law.plot().axes
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(names) == 6
    assert all(name.startswith("N = ") for name in names)
    assert len(law.plot("residuals").axes) == 3
    with pytest.raises(LawError, match="has no exponent at fixed D1 alone"):
        law.plot("three_panels")
    assert law.plot("held_out").axes[0].get_title(loc="left").startswith("D from ")


def test_curves_are_named_by_every_column_that_differs_between_them():
    truth = ScalingLaw.from_params(
        "data_constrained", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658, R_D=15.0, R_N=5.0
    )
    n, u, epochs = (axis.ravel() for axis in np.meshgrid([1e7, 3e7, 1e8], [1e8, 3e8], [1, 3, 10, 30]))
    rows = {"n_params": n, "unique_tokens": u, "tokens": u * epochs}
    law = ScalingLaw("data_constrained", resamples=5).fit({**rows, "loss": truth.predict(**rows).value})
    names = [text.get_text() for text in law.plot().axes[0].get_legend().get_texts()]
    assert "N = 10M, U = 100M" in names
    assert len(names) == 6
