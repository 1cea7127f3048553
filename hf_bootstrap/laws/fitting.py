"""A form, logs of columns and losses in; the parameters of least robust loss out, and how they were found.

The steps themselves are taken in `newton`. Points, intervals and their meaning are the business of `points`
and `resampling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import FitError, did_you_mean
from .newton import Minimum, minimise, newton, screen
from .terms import FloatArray, Form, Logs, add_up

__all__ = ["OBJECTIVES", "Fit", "fit_form", "log_slopes", "refit"]

OBJECTIVES = ("huber", "lsq")

_FEW_STEPS = 60
_FIRST_STEPS = 30  # of every start; most have arrived then
_AGREED = 1 / 3  # of the starts at one optimum end the search of the others
_APART = 0.02  # of the losses, by their slopes: two places as low as each other are two optima
_FLAT = 1e-7  # of the largest slope: a parameter that moves the predictions less moves nothing
_NOTHING = 1e-20  # a loss below it is rounding
_CLOSE = 1.02  # times the least loss: what `checks` reports as fitting almost as well
_FEW_PROBLEMS = 64
_NO_FLOOR = 1e-3  # of the least loss: a floor below it is none


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """One form fitted to one set of losses, with how it was found.

    Attributes:
        form: the form.
        objective: "huber" or "lsq"; delta: where Huber's loss turns from squares to absolute values, in nats
            of log loss.
        theta: (parameters,), see `Form`.
        value: the summed loss at `theta`.
        residuals: (rows,), ln(measured) - ln(predicted).
        slopes: (rows, parameters), derivative of ln(predicted).
        n_starts: places screened; share: the part of the polished ones that reached `value` while they were searched.
        converged: whether no Newton step improves it further.
        second: the best value of a different optimum and its theta, if any start ended in one.
    """

    form: Form
    objective: str
    delta: float
    theta: FloatArray
    value: float
    residuals: FloatArray
    slopes: FloatArray
    n_starts: int
    share: float
    converged: bool
    second: tuple[float, FloatArray] | None


def fit_form(
    form: Form,
    logs: Logs,
    loss: FloatArray,
    *,
    objective: str = "huber",
    delta: float = 1e-3,
    starts: FloatArray | None = None,
) -> Fit:
    """Fit one form from many starts: all are screened, the best polished.

    Args:
        form: the form.
        logs: ln of each column the form reads, (rows,).
        loss: (rows,), nats per token.
        objective: "huber" (robust, the default) or "lsq".
        delta: see `Fit`; not used by "lsq".
        starts: (starts, parameters), places to begin instead of the form's own.

    Raises:
        FitError: unknown objective, a delta that is not positive, as many parameters as points, or no start
            at which the form has a value.
    """
    _refuse(form, len(loss), objective, delta)
    edge = _edge(objective, delta)
    log_loss = np.log(loss)
    with np.errstate(over="ignore", invalid="ignore"):  # a start without a finite value is screened out
        places = form.starts(logs, loss) if starts is None else starts
    first = screen(form, logs, log_loss, places, edge)
    if not len(first):
        raise FitError(
            f"The form {form.name!r} has no finite value at any of {len(places)} starts; are the counts raw? "
            f"{form.formula}"
        )
    found = _polish(form, logs, log_loss[None], first, edge)
    best = int(np.argmin(found.value))
    value, theta = float(found.value[best]), found.theta[best]
    slopes = log_slopes(form, logs, theta)
    near = found.value <= value * (1 + 1e-4) + _NOTHING
    return Fit(
        form=form,
        objective=objective,
        delta=float(delta),
        theta=theta,
        value=value,
        residuals=log_loss - form.log_loss(logs, theta[None])[0],
        slopes=slopes,
        n_starts=len(places),
        share=float(np.mean(near)),
        converged=bool(found.converged[best]),
        second=_second(found, theta, near, slopes),
    )


def _refuse(form: Form, rows: int, objective: str, delta: float) -> None:
    if objective not in OBJECTIVES:
        raise FitError(f"There is no objective {objective!r}. {did_you_mean(str(objective), OBJECTIVES)}")
    if not (np.isfinite(delta) and delta > 0):
        raise FitError(f"delta is {delta!r}; Huber's loss needs a positive, finite one such as 1e-3.")
    k = len(form.parameters)
    if rows <= k:
        raise FitError(
            f"{rows} points cannot determine the {k} parameters of {form.name!r} ({', '.join(form.parameters)}): "
            "any noise would be fitted exactly. Measure more points, or choose a form with fewer parameters."
        )


def _second(
    found: Minimum, theta: FloatArray, near: npt.NDArray[np.bool_], slopes: FloatArray
) -> tuple[float, FloatArray] | None:
    """The best of the optima that are not the one at `theta`: those that end higher, or as low and far from it."""
    # An optimum as low but elsewhere is another one, if a straight way to it would cost much: a flat line is none.
    apart = np.max(np.abs((found.theta - theta) @ slopes.T), axis=1) > _APART
    others = np.flatnonzero((~near | apart) & found.converged)
    if not len(others):
        return None
    at = int(others[np.argmin(found.value[others])])
    return float(found.value[at]), found.theta[at]


def refit(
    fit: Fit,
    logs: Logs,
    loss: FloatArray,
    weights: FloatArray,
    *,
    starts: Sequence[FloatArray] = (),
) -> Minimum:
    """Fit the same form again with other weights or other losses, from the optimum of `fit`.

    Every problem is solved directly from that optimum. Those that did not converge, and all of a small
    batch, are also solved by coming down from wider losses, and the lower answer is kept. Where a parameter has run
    so far at that optimum that it moves no prediction, or the floor has gone to 0, there is no slope by which a refit
    could come back; then every problem is also solved from nearer, where it does move some.

    Args:
        fit: whose form, objective, delta and optimum to use.
        logs: as given to `fit_form`.
        loss: (problems or 1, rows).
        weights: (problems or 1, rows).
        starts: further thetas (parameters,) to begin the second solution from.
    """
    problems = max(len(loss), len(weights))
    log_loss = np.broadcast_to(np.log(loss), (problems, loss.shape[1]))
    weights = np.broadcast_to(weights, log_loss.shape)
    edge = _edge(fit.objective, fit.delta)
    best = newton(fit.form, logs, log_loss, weights, np.tile(fit.theta, (problems, 1)), edge, _FEW_STEPS)
    back = _pulled_back(fit, logs)
    if back is not None:
        best.put(
            np.arange(problems),
            newton(fit.form, logs, log_loss, weights, np.tile(back, (problems, 1)), edge, _FEW_STEPS),
        )
    every = np.arange(problems)
    doubtful = every if problems <= _FEW_PROBLEMS else np.flatnonzero(~best.converged)
    further = [(start, doubtful) for start in (fit.theta, *starts)] + [(at, every) for at in _lifted(fit, loss)]
    for start, some in further:
        first = np.tile(start, (len(some), 1))
        if len(some):
            wide = 16 * fit.delta
            best.put(some, minimise(fit.form, logs, log_loss[some], weights[some], first, delta=edge, widest=wide))
    return best


def _lifted(fit: Fit, loss: FloatArray) -> list[FloatArray]:
    """The optimum with a floor of half the least loss, where its own has gone to 0."""
    names = fit.form.parameters
    if "E" not in names or np.exp(fit.theta[names.index("E")]) > _NO_FLOOR * loss.min():
        return []
    theta = fit.theta.copy()
    theta[names.index("E")] = np.log(loss.min() / 2)
    return [theta]


def _pulled_back(fit: Fit, logs: Logs) -> FloatArray | None:
    """The optimum with parameters that move nothing there halved until they do; None where there are none.

    A floor is left where it is: see `_lifted`.
    """
    size = np.linalg.norm(fit.slopes, axis=0)
    far = (size < _FLAT * size.max()) & np.array([name != "E" for name in fit.form.parameters])
    if not far.any():
        return None
    theta = fit.theta.copy()
    for _ in range(20):
        theta[far] /= 2
        if np.linalg.norm(log_slopes(fit.form, logs, theta)[:, far], axis=0).max() > 1e4 * _FLAT * size.max():
            break
    return theta


def _polish(form: Form, logs: Logs, log_loss: FloatArray, first: FloatArray, edge: float) -> Minimum:
    """The least loss from each start; slow ones far above are given up once a third of all agree on the best.

    They crawl along a bent valley for hundreds of steps, and nearly always to the same place. Those close to the best
    go on: each may be an optimum of its own that fits almost as well.
    """
    ones = np.ones_like(log_loss)
    found = minimise(form, logs, log_loss, ones, first, delta=edge, steps=_FIRST_STEPS)
    done = found.decrement <= 1e-12 * found.value + 1e-30
    best = found.value.min()
    going = ~done
    if np.mean(done & (found.value <= best * (1 + 1e-9) + 1e-30)) >= _AGREED:
        going &= found.value < _CLOSE * best
    slow = np.flatnonzero(going)
    if len(slow):
        found.put(slow, newton(form, logs, log_loss, ones, found.theta[slow], edge))
    return found


def _edge(objective: str, delta: float) -> float:
    return delta if objective == "huber" else 1e6  # no log residual is beyond it, so Huber's loss is a square


def log_slopes(form: Form, logs: Logs, theta: FloatArray) -> FloatArray:
    """The derivative of ln(predicted) in each parameter at `theta` (parameters,): (rows, parameters)."""
    terms = form.terms(logs, theta[None])
    shares = add_up(terms)[1]
    return np.asarray(
        np.sum([share[0, :, None] * term.slope[0] for share, term in zip(shares, terms, strict=True)], axis=0)
    )
