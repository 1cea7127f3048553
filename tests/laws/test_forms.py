"""Every form, driven by the dict: it finds what made the points, and its derivatives are true."""

import re

import numpy as np
import pytest

from hf_bootstrap.errors import FitError, LawError
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.forms import FORMS, find_form
from hf_bootstrap.laws.scratch import WithScratch
from hf_bootstrap.laws.size import WithSize
from hf_bootstrap.laws.terms import Term

from .grids import PLANTED

SIZE = {"B_size": 40.0, "beta_size": 0.25}
BRANCH = {"A_scratch": 700.0, "alpha_scratch": 0.4}


def test_every_form_has_planted_parameters_here():
    assert PLANTED.keys() == FORMS.keys()


LETTERS = {
    "base_tokens": "D1", "tokens": "D2", "n_params": "N", "unique_tokens": "U", "mixture_ratio": "r",
}  # fmt: skip
RANGES = {
    "base_tokens": np.geomspace(2e5, 1e7, 6),
    "tokens": np.geomspace(1e5, 5e6, 6),
    "n_params": np.geomspace(3e6, 1.5e8, 6),
    "unique_tokens": np.geomspace(4e4, 5e6, 5),
    "mixture_ratio": np.array([0.03, 0.08, 0.2, 0.35, 0.6, 1.0]),
}


def columns(form, scratch):
    """Logs of a grid over 1.7 decades of each column; with rows from scratch on request."""
    levels = dict(RANGES)
    if "unique_tokens" in form.columns:
        levels["n_params"] = np.geomspace(2e3, 2e6, 6)  # around what the unique tokens call for
    if scratch:
        levels["base_tokens"] = np.concatenate([[0.0], levels["base_tokens"]])
    grid = np.meshgrid(*(levels[name] for name in form.columns), indexing="ij")
    with np.errstate(divide="ignore"):
        return {name: np.log(values.ravel()) for name, values in zip(form.columns, grid, strict=True)}


def cases():
    for name, form in FORMS.items():
        yield pytest.param(form, PLANTED[name], False, id=name)
        if "base_tokens" in form.columns:
            whole = form if form.covers_scratch else WithScratch(form)
            params = PLANTED[name] if form.covers_scratch else PLANTED[name] | BRANCH
            yield pytest.param(whole, params, True, id=f"{name} and scratch")
    for name in ("total_tokens", "effective_transfer"):
        yield pytest.param(WithSize(FORMS[name]), PLANTED[name] | SIZE, False, id=f"{name} and size")
    whole = WithScratch(WithSize(FORMS["additive"]))
    yield pytest.param(whole, PLANTED["additive"] | SIZE | BRANCH, True, id="additive, size and scratch")


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
        stated_by = "log" if isinstance(term, Term) else "value"
        present = np.isfinite(getattr(term, stated_by)[0])
        nearby = np.concatenate([theta + step * np.eye(k), theta - step * np.eye(k)])
        moved = form.terms(logs, nearby)[i]
        values = getattr(moved, stated_by)
        slope = (values[:k, present] - values[k:, present]).T / (2 * step)
        np.testing.assert_allclose(term.slope[0][present], slope, atol=2e-6)
        bend = np.broadcast_to(moved.slope, (2 * k, *moved.slope.shape[1:]))
        curvature = np.moveaxis(bend[:k] - bend[k:], 0, -1)[present] / (2 * step)
        stated = np.zeros_like(curvature)
        for (p, q), second in term.curvature.items():
            stated[:, p, q] = stated[:, q, p] = second[0][present]
        np.testing.assert_allclose(stated, curvature, atol=2e-5)


def written(form, params, **values):
    """The formula as a person reads it, evaluated by Python: definitions first, from the last to the first."""
    text = form.formula.split("; from scratch")[0]
    if isinstance(form, WithScratch) and values["D1"] == 0:
        text = form.formula.split("; from scratch (D1 = 0): ")[1]
    text = text.replace("^", "**").replace("ln D1", "*log(D1)").replace("'", "_")
    first, _, rest = text.removeprefix("L = ").partition("; ")
    known = {"log": np.log, "exp": np.exp, "min": min, **params, **values}
    for definition in reversed(re.split(r", (?=\w+ = )", rest) if rest else []):
        name, _, value = definition.partition(" = ")
        known[name] = eval(value, known)
    return eval(first, known)


@every_form
def test_the_loss_is_what_the_formula_says(form, params, scratch):
    logs = columns(form, scratch)
    predicted = np.exp(form.log_loss(logs, form.to_theta(params)[None])[0])
    for row in range(len(predicted)):
        values = {LETTERS[name]: float(np.exp(column[row])) for name, column in logs.items()}
        assert predicted[row] == pytest.approx(written(form, params, D=values["D2"], **values), rel=1e-10)


@every_form
def test_exponents_are_the_slopes_of_the_reducible_loss(form, params, scratch):
    logs, theta = columns(form, scratch), form.to_theta(params)
    stated = form.exponents(logs, theta[None])
    if stated is None:
        assert form.name not in {"bootstrap", "bootstrap_n", "multiplicative", "barnett", "unified"}
        return

    floor = params["E"]
    if "n_params" in form.columns:
        floor = floor + params["B"] * np.exp(-params["beta"] * logs["n_params"])

    def reducible(moved):
        return np.log(np.exp(form.log_loss(moved, theta[None])[0]) - floor)

    for name, values in stated.items():
        up, down = ({**logs, name: logs[name] + shift} for shift in (1e-4, -1e-4))
        slope = -(reducible(up) - reducible(down)) / 2e-4
        known = np.isfinite(values[0])
        np.testing.assert_allclose(values[0][known], slope[known], atol=1e-7)
        assert known.all() or name == "base_tokens"


def in_other_units(name, p, c):
    """The parameters of a form when every token is counted in units of e^c tokens; other columns stay."""
    p, e = dict(p), np.exp
    if name in ("bootstrap", "bootstrap_n"):
        a1, a2, a3 = p["alpha1"], p["alpha2"], p["alpha3"]
        # Counted so, a1' = a1 - a3 c, a2' = a2 - a3 c, ln A' = ln A - (a1 + a2) c + a3 c^2, a3' = a3.
        return p | {"A": p["A"] * e(-(a1 + a2) * c + a3 * c**2), "alpha1": a1 - a3 * c, "alpha2": a2 - a3 * c}
    if name in ("multiplicative", "hybrid"):
        p["A"] *= e(-(p["alpha1"] + p["alpha2"]) * c)
    if name == "additive":
        p["A"] *= e(-p["alpha1"] * c)
        p["B"] *= e(-p["alpha2"] * c)
    if name == "barnett":
        p["A"] *= e(-(p["alpha"] + p["beta"]) * c)
        p["G"] *= e(-p["beta"] * c)
    if name in ("total_tokens", "effective_transfer", "cpt_dynamics", "unified"):
        p["A"] *= e(-p["alpha"] * c)
    if name == "effective_transfer":
        p["k"] *= e((p["b"] - 1) * c)
    if name == "cpt_dynamics":
        p["c"] *= e(c)
    if name in ("hybrid", "chinchilla", "cross_lingual", "d_cpt"):
        p["B"] *= e(-p["beta"] * c)
    if name == "gadre":
        p["b"] *= e(-2 * p["eta"] * c)
    if name == "kaplan":
        p["D_c"] *= e(-c)
    return p


@pytest.mark.parametrize("name", [name for name in FORMS if name != "data_constrained"])
def test_counting_in_other_units_transforms_the_parameters_exactly(name):
    """Not the law of repeated data, which weighs tokens against parameters and so needs one unit for both."""
    form, c = FORMS[name], np.log(1e6)
    logs = columns(form, False)
    theta = form.to_theta(PLANTED[name])
    counted = {column: x - c if "tokens" in column else x for column, x in logs.items()}
    expected = form.to_theta(in_other_units(name, PLANTED[name], c))
    there = form.log_loss(counted, expected[None])[0]
    np.testing.assert_allclose(there, form.log_loss(logs, theta[None])[0], rtol=0, atol=1e-12)
    found = fit_form(form, counted, np.exp(there))
    np.testing.assert_allclose(found.theta, expected, rtol=1e-6, atol=1e-6)


def test_data_constrained_transforms_when_tokens_and_parameters_change_their_unit_together():
    form, planted, c = FORMS["data_constrained"], PLANTED["data_constrained"], np.log(1e3)
    logs = columns(form, False)
    scaled = planted | {
        "A": planted["A"] * np.exp(-planted["alpha"] * c),
        "B": planted["B"] * np.exp(-planted["beta"] * c),
    }
    counted = {name: column - c for name, column in logs.items()}
    np.testing.assert_allclose(
        form.log_loss(counted, form.to_theta(scaled)[None]),
        form.log_loss(logs, form.to_theta(planted)[None]),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("name", "special"), [("effective_transfer", {"k": 1.0, "b": 1.0}), ("unified", {"k": 1.0, "s": 1.0})]
)
def test_pools_contain_total_tokens_and_the_law_from_scratch(name, special):
    form, total = FORMS[name], FORMS["total_tokens"]
    logs = columns(form, True)
    same = form.to_theta(PLANTED["total_tokens"] | special)
    expected = total.log_loss(logs, total.to_theta(PLANTED["total_tokens"])[None])
    np.testing.assert_allclose(form.log_loss(logs, same[None]), expected, rtol=1e-12)
    params = PLANTED[name]
    scratch = {"base_tokens": np.array([-np.inf]), "tokens": np.log([3e5])}
    alone = params["A"] * 3e5 ** -params["alpha"] + params["E"]
    assert np.exp(form.log_loss(scratch, form.to_theta(params)[None]))[0, 0] == pytest.approx(alone, rel=1e-12)


def test_the_unified_law_bends_as_the_interaction_law_does_in_the_middle():
    """d(exponent of D2) / d ln D1 is -alpha s w (1 - w), and -alpha s / 4 where both stages count alike."""
    form, params = FORMS["unified"], PLANTED["unified"]
    v = np.log(1e6)
    even = v - np.log(params["k"]) / params["s"]
    logs = {"base_tokens": even + np.array([-0.01, 0.0, 0.01]), "tokens": np.full(3, v)}
    exponents = form.exponents(logs, form.to_theta(params)[None])["tokens"][0]
    assert exponents[1] == pytest.approx(params["alpha"] / 2)
    assert (exponents[2] - exponents[0]) / 0.02 == pytest.approx(-params["alpha"] * params["s"] / 4, rel=1e-4)


def test_gadre_is_chinchilla_with_equal_exponents():
    gadre, chinchilla, p = FORMS["gadre"], FORMS["chinchilla"], PLANTED["gadre"]
    logs = columns(gadre, False)
    sixth = 6 ** -p["eta"]
    same = {"A": p["a"] * sixth, "B": p["b"] * sixth, "E": p["E"], "alpha": 2 * p["eta"], "beta": 2 * p["eta"]}
    expected = chinchilla.log_loss(logs, chinchilla.to_theta(same)[None])
    np.testing.assert_allclose(gadre.log_loss(logs, gadre.to_theta(p)[None]), expected, rtol=1e-12)


@every_form
def test_every_form_says_where_it_comes_from_and_where_it_ends(form, params, scratch):
    assert form.source
    assert form.domain
    assert form.units.keys() == set(form.parameters)
    assert form.positive <= set(form.parameters)
    assert form.name in FORMS


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
