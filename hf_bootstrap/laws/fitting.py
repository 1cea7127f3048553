"""The engine: a form, logs of columns and losses in, the parameters of least robust loss out.

The loss is a sum of Huber(delta) on ln(measured) - ln(predicted), or of squares. Every start, every
resample and every left-out row is one problem of a batch, solved together by damped Newton steps with
exact derivatives. Points, intervals and their meaning are the business of `points` and `resampling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import FitError, did_you_mean
from .terms import FloatArray, Form, Logs

__all__ = ["OBJECTIVES", "Fit", "Minimum", "fit_form", "minimise", "refit"]

OBJECTIVES = ("huber", "lsq")

# Huber's loss at 1e-3 is almost a sum of absolute values, whose kinks stall a Newton method that starts
# far away; each wider loss leads to the next, this much narrower one.
_NARROWING = 2.5
# How far below the smallest ln L the log of the floor may sink: E = 1e-6 of it cannot be told from none.
_DEEPEST = 14.0
_STEPS, _FEW_STEPS, _LAST_STEPS = 30, 60, 200
_FEW_PROBLEMS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Minimum:
    """Where a batch of problems ended.

    Attributes:
        theta: (problems, parameters).
        value: (problems,), the summed loss.
        decrement: (problems,), the decrease a further Newton step promises; near 0 when converged.
    """

    theta: FloatArray
    value: FloatArray
    decrement: FloatArray


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
        n_starts: places the search began; share: the part of them that reached `value`.
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


@dataclass(frozen=True)
class _State:
    value: FloatArray  # (problems,)
    gradient: FloatArray  # (problems, parameters)
    hessian: FloatArray  # (problems, parameters, parameters)
    kinks: FloatArray  # the same shape: what the rows beyond delta would add if their loss were a parabola


def _evaluate(
    form: Form, logs: Logs, log_loss: FloatArray, weights: FloatArray, theta: FloatArray, delta: float
) -> _State:
    """Value, gradient and exact Hessian of the weighted loss; `log_loss` and `weights` are (problems or 1, rows)."""
    terms = form.terms(logs, theta)
    stacked = np.stack([term.log for term in terms])
    predicted = np.logaddexp.reduce(stacked, axis=0)
    shares = np.exp(stacked - predicted)
    residual = log_loss - predicted
    clipped = np.clip(residual, -delta, delta)
    value = np.sum(weights * clipped * (residual - clipped / 2), axis=-1)
    pull = weights * clipped
    inside = weights * (np.abs(residual) <= delta)
    slope = sum(share[..., None] * term.slope for share, term in zip(shares, terms, strict=True))
    gradient = -np.einsum("bn,bnp->bp", pull, slope)
    hessian = np.swapaxes((inside + pull)[..., None] * slope, 1, 2) @ slope
    for share, term in zip(shares, terms, strict=True):
        force = pull * share
        if len(term.slope) == 1:
            rows, k = term.slope.shape[1:]
            outer = (term.slope[0, :, :, None] * term.slope[0, :, None, :]).reshape(rows, k * k)
            hessian -= (force @ outer).reshape(-1, k, k)
        else:
            hessian -= np.swapaxes(force[..., None] * term.slope, 1, 2) @ term.slope
        if term.curvature is not None:
            hessian -= np.einsum("bn,bnpq->bpq", force, term.curvature)
    beyond = weights * (np.abs(residual) > delta) * delta / np.maximum(np.abs(residual), delta)
    kinks = np.swapaxes(beyond[..., None] * slope, 1, 2) @ slope
    return _State(value, gradient, hessian, kinks)


def _whiten(form: Form, logs: Logs, theta: FloatArray) -> FloatArray:
    """A basis (problems, parameters, parameters) in which the terms' slopes are uncorrelated and of size one.

    Raw logs of token counts make slopes nearly parallel. In this basis, which does what centring and
    scaling the logs would do, one damping fits every direction.
    """
    metric = 0.0
    for term in form.terms(logs, theta):
        metric = metric + np.swapaxes(term.slope, 1, 2) @ term.slope / term.slope.shape[1]
    size = np.sqrt(np.maximum(np.diagonal(np.asarray(metric), axis1=1, axis2=2), 1e-300))
    spread, basis = np.linalg.eigh(metric / (size[:, :, None] * size[:, None, :]))
    spread = np.maximum(spread, 1e-10 * spread.max(axis=1, keepdims=True))
    return np.asarray(basis / np.sqrt(spread)[:, None, :] / size[:, :, None])


def _newton(
    form: Form,
    logs: Logs,
    log_loss: FloatArray,
    weights: FloatArray,
    theta: FloatArray,
    delta: float,
    steps: int,
    tolerance: float = 1e-13,
) -> Minimum:
    """Damped Newton from `theta` at one delta; problems that are done leave the batch."""
    theta = theta.copy()
    problems, k = theta.shape
    log_loss, weights = (np.broadcast_to(x, (problems, x.shape[1])) for x in (log_loss, weights))
    basis = np.broadcast_to(_whiten(form, logs, theta), (problems, k, k))
    state = _evaluate(form, logs, log_loss, weights, theta, delta)
    value, gradient, hessian, kinks = state.value, state.gradient, state.hessian, state.kinks
    soft = np.zeros(problems)
    floor = form.parameters.index("E") if "E" in form.parameters else None
    lowest = float(log_loss.min()) - _DEEPEST
    decrement = np.full(problems, np.inf)
    damping = np.full(problems, 1e-3)
    active = np.arange(problems)
    for _ in range(steps):
        if floor is not None:
            _rest_at_bound(floor, theta[active, floor] <= lowest, active, gradient, hessian, kinks)
        turned = basis[active]
        model = hessian[active] + soft[active, None, None] * kinks[active]
        curvature, vectors = np.linalg.eigh(np.swapaxes(turned, 1, 2) @ model @ turned)
        curvature = np.abs(curvature)
        largest = np.maximum(curvature.max(axis=1, keepdims=True), 1e-300)
        pulled = np.einsum("bpq,bp->bq", turned @ vectors, gradient[active])
        decrement[active] = 0.5 * np.sum(pulled**2 / (curvature + 1e-13 * largest), axis=1)
        going = decrement[active] > tolerance * value[active] + 1e-30
        active, turned, curvature, vectors = active[going], turned[going], curvature[going], vectors[going]
        if not len(active):
            break
        largest, pulled = largest[going], pulled[going]
        step = -np.einsum("bpq,bq->bp", turned @ vectors, pulled / (curvature + damping[active, None] * largest))
        trial = theta[active] + np.clip(step, -20, 20)
        if floor is not None:
            trial[:, floor] = np.maximum(trial[:, floor], lowest)
        with np.errstate(over="ignore", invalid="ignore"):
            new = _evaluate(form, logs, log_loss[active], weights[active], trial, delta)
        better = new.value < value[active]
        won = active[better]
        theta[won], value[won] = trial[better], new.value[better]
        gradient[won], hessian[won], kinks[won] = new.gradient[better], new.hessian[better], new.kinks[better]
        # A step that failed crossed kinks; let the rows beyond them resist the next one.
        soft[active] = np.where(better, soft[active] / 4, 1.0)
        damping[active] = np.where(better, damping[active] / 8, damping[active] * 6)
        damping = np.maximum(damping, 1e-14)
        # No direction improves any more: what is left is rounding.
        active = active[damping[active] < 1e8]
    return Minimum(theta=theta, value=value, decrement=decrement)


def _rest_at_bound(
    index: int, low: npt.NDArray[np.bool_], active: npt.NDArray[np.int64], gradient: FloatArray, *matrices: FloatArray
) -> None:
    """Take a parameter that would sink below its bound out of the step, in place."""
    resting = active[low & (gradient[active, index] > 0)]
    gradient[resting, index] = 0
    for matrix in matrices:
        matrix[resting, index, :] = 0
        matrix[resting, :, index] = 0


def minimise(
    form: Form,
    logs: Logs,
    log_loss: FloatArray,
    weights: FloatArray,
    starts: FloatArray,
    *,
    delta: float,
    widest: float = 0.3,
) -> Minimum:
    """Solve a batch of problems, one per row of `starts`.

    Args:
        form: the form.
        logs: ln of each column the form reads, (rows,).
        log_loss: (problems or 1, rows), ln of the losses.
        weights: (problems or 1, rows), not negative; 0 leaves a row out.
        starts: (problems, parameters).
        delta: Huber's delta; 1e6 makes it least squares.
        widest: come down to `delta` from losses this wide; 0 goes straight to it, which is faster and less sure.
    """
    theta, wide = starts, widest
    while wide > 1.5 * delta:
        # On the way it need not be exact; a very small tolerance would only polish what the next one moves.
        theta = _newton(form, logs, log_loss, weights, theta, wide, _STEPS, tolerance=1e-4).theta
        wide /= _NARROWING
    return _newton(form, logs, log_loss, weights, theta, delta, _LAST_STEPS)


def fit_form(form: Form, logs: Logs, loss: FloatArray, *, objective: str = "huber", delta: float = 1e-3) -> Fit:
    """Fit one form from many starts.

    Args:
        form: the form.
        logs: ln of each column the form reads, (rows,).
        loss: (rows,), nats per token.
        objective: "huber" (robust, the default) or "lsq".
        delta: see `Fit`; not used by "lsq".

    Raises:
        FitError: unknown objective, a delta that is not positive, or as many parameters as points.
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
    found = minimise(form, logs, log_loss[None], np.ones((1, rows)), form.starts(logs, loss), delta=edge)
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
        n_starts=len(found.value),
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
    best = _newton(fit.form, logs, log_loss, weights, np.tile(fit.theta, (problems, 1)), edge, _FEW_STEPS)
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
    shares = np.exp(np.stack([term.log for term in terms]) - form.log_loss(logs, theta[None]))
    return np.asarray(sum(share[..., None] * term.slope for share, term in zip(shares, terms, strict=True))[0])
