"""A form, logs of columns and losses in; the parameters of least robust loss out, and how they were found.

The steps themselves are taken in `newton`. Points, intervals and their meaning are the business of `points`
and `resampling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import FitError, did_you_mean
from .newton import Minimum, minimise, newton, screen
from .terms import FloatArray, Form, Logs, add_up

__all__ = ["OBJECTIVES", "Fit", "fit_form", "refit"]

OBJECTIVES = ("huber", "lsq")

_FEW_STEPS = 60
_FEW_PROBLEMS = 64


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
        n_starts: places screened; share: the part of the polished ones that reached `value`.
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
    if objective not in OBJECTIVES:
        raise FitError(f"There is no objective {objective!r}. {did_you_mean(str(objective), OBJECTIVES)}")
    if not (np.isfinite(delta) and delta > 0):
        raise FitError(f"delta is {delta!r}; Huber's loss needs a positive, finite one such as 1e-3.")
    rows, k = len(loss), len(form.parameters)
    if rows <= k:
        raise FitError(
            f"{rows} points cannot determine the {k} parameters of {form.name!r} ({', '.join(form.parameters)}): "
            "any noise would be fitted exactly. Measure more points, or choose a form with fewer parameters."
        )
    edge = _edge(objective, delta)
    log_loss = np.log(loss)
    places = form.starts(logs, loss) if starts is None else starts
    first = screen(form, logs, log_loss, places, edge)
    if not len(first):
        raise FitError(
            f"The form {form.name!r} has no finite value at any of {len(places)} starts; are the counts raw? "
            f"{form.formula}"
        )
    found = minimise(form, logs, log_loss[None], np.ones((1, rows)), first, delta=edge)
    best = int(np.argmin(found.value))
    value, theta = float(found.value[best]), found.theta[best]
    near = found.value <= value * (1 + 1e-4) + 1e-20
    others = np.flatnonzero(~near & (found.decrement <= 1e-6 * found.value))
    second = int(others[np.argmin(found.value[others])]) if len(others) else None
    return Fit(
        form=form,
        objective=objective,
        delta=float(delta),
        theta=theta,
        value=value,
        residuals=log_loss - form.log_loss(logs, theta[None])[0],
        slopes=_slopes(form, logs, theta),
        n_starts=len(places),
        share=float(np.mean(near)),
        converged=bool(found.decrement[best] <= 1e-6 * value + 1e-20),
        second=None if second is None else (float(found.value[second]), found.theta[second]),
    )


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
    batch, are also solved by coming down from wider losses, and the lower answer is kept.

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
    doubtful = np.arange(problems)
    if problems > _FEW_PROBLEMS:
        doubtful = np.flatnonzero(best.decrement > 1e-6 * best.value + 1e-20)
    for start in (fit.theta, *starts) if len(doubtful) else ():
        first = np.tile(start, (len(doubtful), 1))
        found = minimise(
            fit.form, logs, log_loss[doubtful], weights[doubtful], first, delta=edge, widest=16 * fit.delta
        )
        better = found.value < best.value[doubtful]
        for whole, part in ((best.theta, found.theta), (best.value, found.value), (best.decrement, found.decrement)):
            whole[doubtful[better]] = part[better]
    return best


def _edge(objective: str, delta: float) -> float:
    return delta if objective == "huber" else 1e6  # no log residual is beyond it, so Huber's loss is a square


def _slopes(form: Form, logs: Logs, theta: FloatArray) -> FloatArray:
    terms = form.terms(logs, theta[None])
    shares = add_up(terms)[1]
    return np.asarray(
        np.sum([share[0, :, None] * term.slope[0] for share, term in zip(shares, terms, strict=True)], axis=0)
    )
