"""The engine against published optima, scipy, and plain definitions."""

from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from hf_bootstrap.errors import FitError
from hf_bootstrap.laws.fitted import completed
from hf_bootstrap.laws.fitting import fit_form, refit
from hf_bootstrap.laws.forms import FORMS
from hf_bootstrap.laws.objective import Problems
from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.terms import add_up

from .grids import chinchilla_240


def bootstrap_points(seed, noise=0.004):
    rng = np.random.default_rng(seed)
    form = FORMS["bootstrap"]
    u, v = (x.ravel() for x in np.meshgrid(np.log(np.geomspace(2e5, 4e6, 5)), np.log(np.geomspace(1e5, 2e6, 5))))
    theta = np.array([9.0, 0.35, 0.6, 0.02, np.log(1.6)]) + 0.02 * rng.standard_normal(5) * [10, 1, 1, 0.1, 1]
    logs = {"base_tokens": u, "tokens": v}
    return form, logs, np.exp(form.log_loss(logs, theta[None])[0] + noise * rng.standard_normal(len(u))), theta


def huber(residual, delta):
    size = np.abs(residual)
    return np.sum(np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2)))


# Besiroglu et al. 2024 and the true optima of the two objectives (the published fit is the L1 limit).
@pytest.mark.parametrize(
    ("objective", "delta", "optimum", "params"),
    [
        ("huber", 1e-3, 1.01827401780e-3, (477.82587, 2143.41736, 1.8172181, 0.3473105, 0.3671724)),
        ("huber", 1e-7, None, (481.999, 2085.393, 1.816862, 0.3478122, 0.3658532)),
        ("lsq", 1e-3, None, (593.3, 4875.6, 1.8645, 0.3603, 0.4059)),
    ],
)
def test_chinchilla_oracles(objective, delta, optimum, params):
    points = chinchilla_240()
    logs = {name: np.log(points[name]) for name in ("tokens", "n_params")}
    fit = fit_form(FORMS["chinchilla"], logs, points["loss"], objective=objective, delta=delta)
    digits = 1e-6 if objective == "huber" else 2e-4
    assert list(fit.form.to_params(fit.theta).values()) == pytest.approx(params, rel=digits)
    assert fit.share > 0.5
    if optimum is not None:
        assert fit.value == pytest.approx(optimum, rel=1e-10)
        assert fit.value == pytest.approx(huber(fit.residuals, delta), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_no_worse_than_scipy_from_the_truth(seed):
    form, logs, loss, theta = bootstrap_points(seed)

    def objective(x):
        return huber(np.log(loss) - form.log_loss(logs, x[None])[0], 1e-3)

    rival = optimize.minimize(objective, theta, method="Nelder-Mead", options={"maxiter": 20_000, "fatol": 1e-15})
    rival = optimize.minimize(objective, rival.x, method="Nelder-Mead", options={"maxiter": 20_000, "fatol": 1e-15})
    found = fit_form(form, logs, loss)
    assert found.value <= rival.fun * (1 + 1e-9)
    assert found.value == pytest.approx(rival.fun, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_least_squares_equals_scipy(seed):
    form, logs, loss, theta = bootstrap_points(seed)
    rival = optimize.least_squares(
        lambda x: np.log(loss) - form.log_loss(logs, x[None])[0],
        theta,
        x_scale="jac",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    found = fit_form(form, logs, loss, objective="lsq")
    assert found.value == pytest.approx(rival.cost, rel=1e-9)
    np.testing.assert_allclose(found.theta, rival.x, rtol=1e-3)


def test_a_refit_comes_back_from_where_a_parameter_ran_away():
    """Where parameters do not wear out the best R_N has no bound, and no slope by which a refit could leave it."""
    form, rng = FORMS["data_constrained"], np.random.default_rng(0)
    grid = np.meshgrid(np.geomspace(1e8, 1e10, 4), [1e8, 1e9], [1.0, 4.0, 16.0])
    n, u, epochs = (np.log(x.ravel()) for x in grid)
    logs = {"n_params": n, "unique_tokens": u, "tokens": u + epochs}
    truth = {"A": 500.0, "B": 1500.0, "E": 1.8, "alpha": 0.35, "beta": 0.35, "R_D": 15.0}
    never, soon = (form.to_theta({**truth, "R_N": r}) for r in (1e12, 5.0))
    fit = fit_form(form, logs, np.exp(form.log_loss(logs, never[None])[0] + 0.01 * rng.standard_normal(len(n))))
    assert np.linalg.norm(fit.slopes, axis=0)[form.parameters.index("R_N")] < 1e-7
    found = refit(fit, logs, np.exp(form.log_loss(logs, soon[None])), np.ones((1, len(n))))
    np.testing.assert_allclose(found.theta[0], soon, rtol=1e-6)


def test_a_weight_of_two_is_a_row_given_twice():
    form, logs, loss, _ = bootstrap_points(7)
    counts = np.random.default_rng(0).multinomial(len(loss), np.full(len(loss), 1 / len(loss)))
    fit = fit_form(form, logs, loss)
    weighted = refit(fit, logs, loss[None], counts[None].astype(float))
    rows = np.repeat(np.arange(len(loss)), counts)
    repeated = fit_form(form, {name: column[rows] for name, column in logs.items()}, loss[rows])
    assert weighted.value[0] == pytest.approx(repeated.value, rel=1e-6)


def test_a_batch_gives_what_each_problem_gives_alone():
    form, logs, loss, _ = bootstrap_points(3)
    fit = fit_form(form, logs, loss)
    left_out = 1.0 - np.eye(len(loss))
    together = refit(fit, logs, loss[None], left_out)
    alone = [refit(fit, logs, loss[None], row[None]).value[0] for row in left_out]
    np.testing.assert_allclose(together.value, alone, rtol=1e-9)


def test_a_valley_along_which_floor_and_shift_trade_is_searched_to_its_end():
    """Points of the bootstrap law leave of E and B in learning dynamics little but their sum."""
    levels, rng = np.log(131_072 * np.geomspace(1, 10**1.5, 6)), np.random.default_rng(0)
    u, v = (x.ravel() for x in np.meshgrid(levels, levels, indexing="ij"))
    maker, form, logs = FORMS["bootstrap"], FORMS["cpt_dynamics"], {"base_tokens": u, "tokens": v}
    theta = np.array([np.log(1.37e4), 0.387, 0.655, 0.0247, np.log(1.71)])
    loss = np.exp(maker.log_loss(logs, theta[None])[0] + 0.003 * rng.standard_normal(len(u)))
    fit = fit_form(form, logs, loss)
    assert fit.share == 1
    draws = rng.multinomial(len(u), np.full(len(u), 1 / len(u)), size=100).astype(float)
    found = refit(fit, logs, loss[None], draws)
    assert np.mean(found.decrement > 1e-6 * found.value) <= 0.02


def test_search_coordinates_go_there_and_back():
    form = FORMS["cpt_dynamics"]
    theta = np.array([[6.0, 0.38, -0.7, 0.6, -12.0, 0.9]])
    np.testing.assert_allclose(form.from_search(form.to_search(theta)), theta, rtol=1e-14)
    logs = {"base_tokens": np.log([1e5, 1e6]), "tokens": np.log([1e6, 1e5])}
    moved = add_up(form.search_terms(logs, form.to_search(theta)))[0]
    np.testing.assert_allclose(moved, form.log_loss(logs, theta), rtol=1e-14)


def test_one_wild_point_hardly_moves_the_robust_fit():
    form, logs, loss, _ = bootstrap_points(1)
    wild = loss.copy()
    wild[12] *= 1.2

    def moved(objective):
        a, b = (fit_form(form, logs, x, objective=objective) for x in (loss, wild))
        return np.abs(form.log_loss(logs, a.theta[None]) - form.log_loss(logs, b.theta[None])).max()

    assert moved("huber") < 0.005 < moved("lsq")


def test_a_floor_that_is_not_there_rests_at_zero():
    """Points of a pure power law: E goes to nothing, and the search ends."""
    logs = {"base_tokens": np.log(np.repeat([1e5, 3e5, 1e6], 3)), "tokens": np.log(np.tile([1e5, 3e5, 1e6], 3))}
    total = np.logaddexp(logs["base_tokens"], logs["tokens"])
    noise = np.random.default_rng(0).standard_normal(9)
    fit = fit_form(FORMS["total_tokens"], logs, np.exp(4 - 0.2 * total + 0.001 * noise))
    assert fit.converged
    assert fit.form.to_params(fit.theta)["E"] < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"objective": "l2"}, "Known: huber, lsq"), ({"delta": 0.0}, "positive"), ({"delta": float("nan")}, "positive")],
)
def test_objectives_that_do_not_exist_are_refused(options, message):
    form, logs, loss, _ = bootstrap_points(0)
    with pytest.raises(FitError, match=message):
        fit_form(form, logs, loss, **options)


@pytest.mark.parametrize("method", ["stack", "expand-split"])
def test_a_refit_comes_back_from_a_floor_of_zero(method):
    """The demo's laws have no floor; left without one base, the best law has one of 1.7 to 1.8 nats."""
    points = Points.read(Path(__file__).parents[2] / f"docs/demo/{method}.jsonl")
    form, points = completed(FORMS["bootstrap"], points)
    logs = points.logs(form)
    fit = fit_form(form, logs, points.loss)
    assert form.floors(fit.theta[None])[0] < 1e-3
    kept = np.array([points.base_tokens != level for level in np.unique(points.base_tokens)[1:]])
    found = refit(fit, logs, points.loss[None], kept.astype(float))
    globally = [fit_form(form, {n: x[k] for n, x in logs.items()}, points.loss[k]) for k in kept]
    np.testing.assert_allclose(found.value, [other.value for other in globally], rtol=1e-6)
    assert form.floors(found.theta).max() > 1.5


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_place_of_one_problem_is_that_problems_part_of_a_batch(name):
    """The last problem of a batch is alone; what is kept of where it stands must not be that of an earlier step."""
    form, rng = FORMS[name], np.random.default_rng(0)
    logs = {column: np.log(rng.uniform(2, 50, 12)) for column in form.columns}
    theta = form.to_search(np.abs(0.5 + 0.1 * rng.standard_normal((3, len(form.parameters)))))
    weights = rng.integers(1, 3, (3, 12)).astype(float)
    batch = Problems(form=form, logs=logs, log_loss=rng.uniform(0, 1, (3, 12)), weights=weights, delta=0.1)
    whole, alone = batch.place(theta), batch.take(np.array([2])).place(theta[2:])
    assert (whole.slope is None) == (alone.slope is None)
    for mine, theirs in zip(vars(whole).values(), vars(alone).values(), strict=True):
        if mine is not None:
            np.testing.assert_allclose(mine[2:], theirs, rtol=1e-9, atol=1e-12)
    at, here = np.array([2]), whole.take(np.array([2]))
    np.testing.assert_allclose(batch.kinks(theta, whole)[2:], batch.take(at).kinks(theta[2:], alone), atol=1e-12)
    pulls = [batch.take(at).strayed(theta[2:], place, theta[2:] + 0.01, alone) for place in (here, alone)]
    np.testing.assert_allclose(*pulls, rtol=1e-9, atol=1e-12)
