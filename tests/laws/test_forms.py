"""Every form, driven by the dict: it finds what made the points, and its derivatives are true."""

import numpy as np
import pytest

from hf_bootstrap.errors import FitError, LawError
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.forms import FORMS, find_form
from hf_bootstrap.laws.scratch import WithScratch

PLANTED = {
    "bootstrap": {"A": 900.0, "alpha1": 0.25, "alpha2": 0.42, "alpha3": 0.012, "E": 1.6},
    "multiplicative": {"A": 300.0, "alpha1": 0.08, "alpha2": 0.3, "E": 1.7},
    "additive": {"A": 40.0, "alpha1": 0.3, "B": 90.0, "alpha2": 0.35, "E": 1.5},
    "total_tokens": {"A": 400.0, "alpha": 0.36, "E": 1.8},
    "effective_transfer": {"A": 500.0, "alpha": 0.38, "k": 40.0, "b": 0.6, "E": 1.7},
    "chinchilla": {"A": 480.0, "B": 2100.0, "E": 1.8, "alpha": 0.35, "beta": 0.37},
}
BRANCH = {"A_scratch": 700.0, "alpha_scratch": 0.4}


def test_every_form_has_planted_parameters_here():
    assert PLANTED.keys() == FORMS.keys()


def columns(form, scratch):
    """Logs of a 6 x 6 grid over 1.7 decades; with rows from scratch on request."""
    d1, d2, n = (np.geomspace(low, 50 * low, 6) for low in (2e5, 1e5, 3e6))
    first, second = (d2, n) if "n_params" in form.columns else (d1, d2)
    a, b = (x.ravel() for x in np.meshgrid(first, second, indexing="ij"))
    if "n_params" in form.columns:
        return {"tokens": np.log(a), "n_params": np.log(b)}
    if scratch:
        a, b = np.concatenate([a, np.zeros(6)]), np.concatenate([b, d2])
    with np.errstate(divide="ignore"):
        return {"base_tokens": np.log(a), "tokens": np.log(b)}


def cases():
    for name, form in FORMS.items():
        yield pytest.param(form, PLANTED[name], False, id=name)
        if "base_tokens" in form.columns:
            whole = form if form.covers_scratch else WithScratch(form)
            params = PLANTED[name] if form.covers_scratch else PLANTED[name] | BRANCH
            yield pytest.param(whole, params, True, id=f"{name} and scratch")


every_form = pytest.mark.parametrize(("form", "params", "scratch"), list(cases()))


@every_form
@pytest.mark.parametrize("objective", ["huber", "lsq"])
def test_every_form_finds_the_parameters_that_made_the_points(form, params, scratch, objective):
    logs = columns(form, scratch)
    loss = np.exp(form.log_loss(logs, form.to_theta(params)[None])[0])
    found = fit_form(form, logs, loss, objective=objective)
    assert form.to_params(found.theta) == pytest.approx(params, rel=1e-6)
    assert found.converged


@every_form
def test_derivatives_equal_finite_differences(form, params, scratch):
    logs, theta = columns(form, scratch), form.to_theta(params)
    step = 1e-5
    k = len(theta)
    for i, term in enumerate(form.terms(logs, theta[None])):
        present = np.isfinite(term.log[0])
        nearby = np.concatenate([theta + step * np.eye(k), theta - step * np.eye(k)])
        moved = form.terms(logs, nearby)[i]
        slope = (moved.log[:k, present] - moved.log[k:, present]).T / (2 * step)
        np.testing.assert_allclose(term.slope[0][present], slope, atol=2e-6)
        bend = np.broadcast_to(moved.slope, (2 * k, *moved.slope.shape[1:]))
        curvature = np.moveaxis(bend[:k] - bend[k:], 0, -1)[present] / (2 * step)
        stated = np.zeros_like(curvature)
        for (p, q), second in term.curvature.items():
            stated[:, p, q] = stated[:, q, p] = second[0][present]
        np.testing.assert_allclose(stated, curvature, atol=2e-5)


@every_form
def test_the_loss_is_what_the_formula_says(form, params, scratch):
    """The formula as a person reads it, evaluated by Python."""
    logs = columns(form, scratch)
    names = {"base_tokens": "D1", "tokens": "D" if "n_params" in form.columns else "D2", "n_params": "N"}
    written = form.formula.split("; ")[0].removeprefix("L = ").replace("^", "**").replace("ln D1", "*log(D1)")
    branch = "A_scratch * D2**-alpha_scratch + E"
    predicted = np.exp(form.log_loss(logs, form.to_theta(params)[None])[0])
    for row in range(len(predicted)):
        values = {names[name]: float(np.exp(column[row])) for name, column in logs.items()}
        text = branch if isinstance(form, WithScratch) and values["D1"] == 0 else written
        assert predicted[row] == pytest.approx(eval(text, {"log": np.log, **params, **values}), rel=1e-12)


@every_form
def test_exponents_are_the_slopes_of_the_reducible_loss(form, params, scratch):
    logs, theta = columns(form, scratch), form.to_theta(params)
    stated = form.exponents(logs, theta[None])
    if stated is None:
        assert form.name in {"additive", "total_tokens", "effective_transfer", "chinchilla"}
        return

    def reducible(moved):
        return np.log(np.exp(form.log_loss(moved, theta[None])[0]) - params["E"])

    for name, values in stated.items():
        up, down = ({**logs, name: logs[name] + shift} for shift in (1e-4, -1e-4))
        slope = -(reducible(up) - reducible(down)) / 2e-4
        known = np.isfinite(values[0])
        np.testing.assert_allclose(values[0][known], slope[known], atol=1e-7)
        assert known.all() or name == "base_tokens"


def test_counting_in_other_units_transforms_the_parameters_as_derived():
    """With tokens/u and c = ln u: a1' = a1 - a3 c, a2' = a2 - a3 c, ln A' = ln A - (a1 + a2) c + a3 c^2, a3' = a3."""
    form, params, c = FORMS["bootstrap"], PLANTED["bootstrap"], np.log(1e9)
    logs = columns(form, False)
    loss = np.exp(form.log_loss(logs, form.to_theta(params)[None])[0])
    found = form.to_params(fit_form(form, {name: column - c for name, column in logs.items()}, loss).theta)
    a1, a2, a3 = params["alpha1"], params["alpha2"], params["alpha3"]
    assert found["alpha1"] == pytest.approx(a1 - a3 * c, rel=1e-6)
    assert found["alpha2"] == pytest.approx(a2 - a3 * c, rel=1e-6)
    assert found["alpha3"] == pytest.approx(a3, rel=1e-6)
    assert np.log(found["A"]) == pytest.approx(np.log(params["A"]) - (a1 + a2) * c + a3 * c**2, rel=1e-6)


def test_effective_transfer_contains_total_tokens_and_the_law_from_scratch():
    transfer, total = FORMS["effective_transfer"], FORMS["total_tokens"]
    logs = columns(transfer, True)
    same = transfer.to_theta(PLANTED["total_tokens"] | {"k": 1.0, "b": 1.0})
    expected = total.log_loss(logs, total.to_theta(PLANTED["total_tokens"])[None])
    np.testing.assert_allclose(transfer.log_loss(logs, same[None]), expected, rtol=1e-12)


def test_an_unknown_form_is_named_with_the_nearest_one():
    with pytest.raises(LawError, match="Did you mean 'bootstrap'"):
        find_form("bootstrp")
    assert find_form(FORMS["additive"]) is FORMS["additive"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"A": 1.0, "alpha": 0.3}, "also needs E"),
        ({"A": 1.0, "alpha": 0.3, "E": 1.0, "alpa": 1.0}, "Did you mean 'alpha'"),
        ({"A": -1.0, "alpha": 0.3, "E": 1.0}, "A is -1.0"),
        ({"A": 1.0, "alpha": float("nan"), "E": 1.0}, "alpha is nan"),
    ],
)
def test_parameters_that_cannot_be_are_refused(params, message):
    with pytest.raises(LawError, match=message):
        FORMS["total_tokens"].to_theta(params)


def test_as_many_parameters_as_points_are_refused():
    logs = {name: column[:5] for name, column in columns(FORMS["bootstrap"], False).items()}
    with pytest.raises(FitError, match="5 points cannot determine the 5 parameters"):
        fit_form(FORMS["bootstrap"], logs, np.linspace(2, 3, 5))
