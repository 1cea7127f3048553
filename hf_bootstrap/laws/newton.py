"""Least robust loss by damped Newton steps: thousands of problems at once, exact derivatives, one form.

The loss is a sum of Huber(delta) on ln(measured) - ln(predicted). Every start, every resample and every left-out
row is one problem of a batch. What to solve, and what the answer means, is the business of `fitting`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .terms import FloatArray, Form, Logs, Part, Term, add_up

__all__ = ["Minimum", "minimise", "newton", "screen"]

_Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_]

# Huber's loss at 1e-3 is almost a sum of absolute values, whose kinks stall a Newton method that starts
# far away; each wider loss leads to the next, this much narrower one.
_NARROWING = 4.0
# How far below the smallest ln L the log of the floor may sink: E = 1e-6 of it cannot be told from none.
_DEEPEST = 14.0
_STEPS, _LAST_STEPS = 15, 200
_STRAIGHT = 15  # steps after which failed ones are corrected for a valley that bends
_POLISHED = 24  # starts that screening leaves
_CACHED = 32_000  # numbers of one (problems, rows) array that stay near the processor


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
        theta = newton(form, logs, log_loss, weights, theta, wide, _STEPS, tolerance=1e-4).theta
        wide /= _NARROWING
    return newton(form, logs, log_loss, weights, theta, delta, _LAST_STEPS)


def screen(form: Form, logs: Logs, log_loss: FloatArray, starts: FloatArray, delta: float) -> FloatArray:
    """The starts with the least loss, few enough to polish each; none where the form has a value at none.

    Args:
        form, logs, log_loss: as in `minimise`, log_loss of (rows,).
        starts: (starts, parameters).
        delta: Huber's delta.
    """
    rows = len(log_loss)
    size = max(16, _CACHED // rows)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [starts[i : i + size] for i in range(0, len(starts), size)]
        values = np.concatenate([_value(form, logs, log_loss, part, delta) for part in parts])
    best = np.argsort(values, kind="stable")[:_POLISHED]
    kept: FloatArray = starts[best[np.isfinite(values[best])]]
    return kept


def newton(
    form: Form,
    logs: Logs,
    log_loss: FloatArray,
    weights: FloatArray,
    theta: FloatArray,
    delta: float,
    steps: int,
    tolerance: float = 1e-13,
) -> Minimum:
    """Damped Newton from `theta` at one delta, for as many problems at a time as the processor's cache holds.

    Args and shapes as in `minimise`; at most `steps` steps, until one promises less than `tolerance` of the loss.
    """
    problems, rows = len(theta), log_loss.shape[1]
    theta = form.to_search(theta)
    log_loss, weights = (np.broadcast_to(x, (problems, rows)) for x in (log_loss, weights))
    size = max(16, _CACHED // rows)
    with np.errstate(all="ignore"):  # where a form overflows, its loss counts as infinite
        parts = [
            _together(form, logs, log_loss[i:j], weights[i:j], theta[i:j], delta, steps, tolerance)
            for i, j in ((i, i + size) for i in range(0, problems, size))
        ]
    return Minimum(
        theta=form.from_search(np.concatenate([part.theta for part in parts])),
        value=np.concatenate([part.value for part in parts]),
        decrement=np.concatenate([part.decrement for part in parts]),
    )


@dataclass(frozen=True)
class _State:
    value: FloatArray  # (problems,)
    gradient: FloatArray  # (problems, parameters)
    hessian: FloatArray  # (problems, parameters, parameters)

    def put(self, at: _Rows, other: "_State", chosen: _Rows) -> None:
        """Take the problems `chosen` of another state, in place."""
        self.value[at], self.gradient[at] = other.value[chosen], other.gradient[chosen]
        self.hessian[at] = other.hessian[chosen]


def _value(form: Form, logs: Logs, log_loss: FloatArray, theta: FloatArray, delta: float) -> FloatArray:
    residual = log_loss - form.log_loss(logs, theta)
    clipped = np.clip(residual, -delta, delta)
    return _finite(np.sum(clipped * (residual - clipped / 2), axis=-1))


def _finite(value: FloatArray) -> FloatArray:
    """A form without a value there is worse than any other."""
    return np.where(np.isnan(value), np.inf, value)


def _evaluate(
    form: Form, logs: Logs, log_loss: FloatArray, weights: FloatArray, theta: FloatArray, delta: float
) -> _State:
    """Value, gradient and exact Hessian of the weighted loss; `log_loss` and `weights` are (problems, rows).

    The value is infinite where any of them is not a number.
    """
    terms = form.search_terms(logs, theta)
    predicted, shares = add_up(terms)
    residual = log_loss - predicted
    clipped = np.clip(residual, -delta, delta)
    pull = weights * clipped
    value = _finite(np.sum(pull * (residual - clipped / 2), axis=-1))
    inside = weights * (np.abs(residual) <= delta)
    gradient, hessian = _moments(terms, shares, inside + pull, pull)
    for share, term in zip(shares, terms, strict=True):
        force = pull * share
        for (i, j), bend in term.curvature.items():
            moment = np.einsum("bn,bn->b", force, bend)
            hessian[:, i, j] -= moment
            if i != j:
                hessian[:, j, i] -= moment
    known = np.isfinite(gradient).all(axis=1) & np.isfinite(hessian).all(axis=(1, 2))
    return _State(np.where(known, value, np.inf), -gradient, hessian)


def _moments(
    terms: Sequence[Term | Part], shares: list[FloatArray], outer: FloatArray, pull: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sums over rows of pull s, and of outer s s' less pull times the terms' own s_k s_k' (s: slope of ln L)."""
    if all(len(term.slope) == 1 for term in terms):
        return _shared_moments(terms, shares, outer, pull)
    slope = _slope(terms, shares)
    gradient = (slope @ pull[..., None])[..., 0]
    hessian = (outer[:, None] * slope) @ np.swapaxes(slope, 1, 2)
    for share, term in zip(shares, terms, strict=True):
        if isinstance(term, Term):
            used = np.flatnonzero(term.slope[0].any(axis=0))
            narrow = np.swapaxes(term.slope, 1, 2)[:, used]
            own = ((pull * share)[:, None] * narrow) @ np.swapaxes(narrow, 1, 2)
            hessian[:, used[:, None], used] -= own
    return gradient, hessian


def _slope(terms: Sequence[Term | Part], shares: list[FloatArray]) -> FloatArray:
    """Of ln L, (problems, parameters, rows): rows last, because numpy is slow along a short last axis."""
    slopes = [np.swapaxes(term.slope, 1, 2) for term in terms]
    whole: FloatArray = shares[0][:, None] * slopes[0]
    for share, slope in zip(shares[1:], slopes[1:], strict=True):
        whole += share[:, None] * slope
    return whole


def _shared_moments(
    terms: Sequence[Term | Part], shares: list[FloatArray], outer: FloatArray, pull: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The same where slopes do not depend on the problem: one matrix product for each pair of terms."""
    k = terms[0].slope.shape[-1]
    gradient, hessian = np.zeros((len(pull), k)), np.zeros((len(pull), k, k))
    used = [np.flatnonzero(term.slope.any(axis=(0, 1))) for term in terms]
    for n, term in enumerate(terms):
        mine = term.slope[0][:, used[n]]
        gradient[:, used[n]] += (pull * shares[n]) @ mine
        for m in range(n + 1):
            theirs = terms[m].slope[0][:, used[m]]
            force = outer * shares[n] * shares[m]
            if m == n and isinstance(term, Term):
                force -= pull * shares[n]
            products = (mine[:, :, None] * theirs[:, None, :]).reshape(len(mine), -1)
            block = (force @ products).reshape(len(pull), len(used[n]), len(used[m]))
            hessian[:, used[n][:, None], used[m]] += block
            if m != n:
                hessian[:, used[m][:, None], used[n]] += np.swapaxes(block, 1, 2)
    return gradient, hessian


def _kinks(
    form: Form, logs: Logs, log_loss: FloatArray, weights: FloatArray, theta: FloatArray, delta: float
) -> FloatArray:
    """What the rows beyond delta would add to the Hessian if their loss were a parabola."""
    terms = form.search_terms(logs, theta)
    predicted, shares = add_up(terms)
    size = np.abs(log_loss - predicted)
    beyond = weights * (size > delta) * delta / np.maximum(size, delta)
    return _moments(terms, shares, beyond, np.zeros_like(beyond))[1]


def _whiten(form: Form, logs: Logs, theta: FloatArray) -> FloatArray:
    """A basis (problems, parameters, parameters) in which the terms' slopes are uncorrelated and of size one.

    Raw logs of token counts make slopes nearly parallel. In this basis, which does what centring and
    scaling the logs would do, one damping fits every direction.
    """
    metric = 0.0
    for term in form.search_terms(logs, theta):
        slope = np.nan_to_num(term.slope, nan=0.0, posinf=0.0, neginf=0.0)
        metric = metric + np.swapaxes(slope, 1, 2) @ slope / slope.shape[1]
    size = np.sqrt(np.maximum(np.diagonal(np.asarray(metric), axis1=1, axis2=2), 1e-300))
    spread, basis = np.linalg.eigh(metric / (size[:, :, None] * size[:, None, :]))
    spread = np.maximum(spread, 1e-10 * spread.max(axis=1, keepdims=True))
    return np.asarray(basis / np.sqrt(spread)[:, None, :] / size[:, :, None])


def _together(
    form: Form,
    logs: Logs,
    log_loss: FloatArray,
    weights: FloatArray,
    theta: FloatArray,
    delta: float,
    steps: int,
    tolerance: float,
) -> Minimum:
    """One batch of `newton`; problems that are done leave it."""
    theta = theta.copy()
    problems, k = theta.shape
    same = problems > 1 and bool(np.all(theta == theta[0]))
    basis = np.broadcast_to(_whiten(form, logs, theta[:1] if same else theta), (problems, k, k))
    state = _evaluate(form, logs, log_loss, weights, theta, delta)
    value = state.value
    soft = np.zeros(problems)
    floor = form.parameters.index("E") if "E" in form.parameters else None
    lowest = float(log_loss.min()) - _DEEPEST
    decrement = np.full(problems, np.inf)
    damping = np.full(problems, 1e-3)
    active = np.flatnonzero(np.isfinite(value))
    for taken in range(steps):
        model = state.hessian[active]
        resisting = np.flatnonzero(soft[active] > 0)
        if len(resisting):
            rows = active[resisting]
            kinks = _kinks(form, logs, log_loss[rows], weights[rows], theta[rows], delta)
            model[resisting] += soft[rows, None, None] * kinks
        slope = state.gradient[active]
        if floor is not None:
            _rest_at_bound(floor, theta[active, floor] <= lowest, slope, model)
        turned = basis[active]
        curve = np.swapaxes(turned, 1, 2) @ model @ turned
        step, decrement[active] = _steps(curve, (slope[:, None] @ turned)[:, 0], damping[active])
        going = decrement[active] > tolerance * value[active] + 1e-30
        active, step, turned = active[going], step[going], turned[going]
        if not len(active):
            break
        trial = _moved(theta[active], turned, step, floor, lowest)
        new = _evaluate(form, logs, log_loss[active], weights[active], trial, delta)
        better = new.value < value[active]
        bent = np.flatnonzero(~better) if taken >= _STRAIGHT else ()
        if len(bent):
            rows = active[bent]
            miss = _curving(form, logs, log_loss[rows], weights[rows], theta[rows], trial[bent], delta)
            back, _ = _steps(curve[going][bent], (miss[:, None] @ turned[bent])[:, 0], damping[rows])
            held = _moved(trial[bent], turned[bent], back, floor, lowest)
            again = _evaluate(form, logs, log_loss[rows], weights[rows], held, delta)
            kept = again.value < value[rows]
            trial[bent[kept]] = held[kept]
            new.put(bent[kept], again, kept)
            better[bent[kept]] = True
        theta[active[better]] = trial[better]
        state.put(active[better], new, better)
        # A step that failed crossed kinks; let the rows beyond them resist the next one.
        soft[active] = np.where(better, soft[active] / 4, 1.0)
        soft[soft < 0.01] = 0.0
        damping[active] = np.where(better, damping[active] / 8, damping[active] * 6)
        damping = np.maximum(damping, 1e-14)
        # No direction improves any more: what is left is rounding.
        active = active[damping[active] < 1e8]
    return Minimum(theta=theta, value=value, decrement=decrement)


def _moved(theta: FloatArray, turned: FloatArray, step: FloatArray, floor: int | None, lowest: float) -> FloatArray:
    """`theta` after steps in the whitened basis, not far at once and with the floor above its bound."""
    moved: FloatArray = theta + np.clip((turned @ step[..., None])[..., 0], -20, 20)
    if floor is not None:
        moved[:, floor] = np.maximum(moved[:, floor], lowest)
    return moved


def _curving(
    form: Form,
    logs: Logs,
    log_loss: FloatArray,
    weights: FloatArray,
    theta: FloatArray,
    trial: FloatArray,
    delta: float,
) -> FloatArray:
    """The pull, (problems, parameters), by which the rows inside delta left the straight line a step had foreseen.

    In a narrow valley that bends, such as that of a floor and an amount that trade, every straight step of useful
    length leaves it; a second step against this pull leads back (second-order correction: Nocedal & Wright 2006,
    section 15.6).
    """
    terms = form.search_terms(logs, theta)
    predicted, shares = add_up(terms)
    inside = weights * (np.abs(log_loss - predicted) <= delta)
    slope = _slope(terms, shares)
    reached = add_up(form.search_terms(logs, trial))[0]
    miss = reached - predicted - ((trial - theta)[:, None] @ slope)[:, 0]
    pull = np.where(inside > 0, inside * miss, 0.0)
    return np.asarray((slope @ np.where(np.isfinite(pull), pull, 0.0)[..., None])[..., 0])


def _steps(model: FloatArray, slope: FloatArray, damping: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Damped Newton steps, and the decrease that undamped ones promise.

    Where the Hessian is not positive definite its eigenvalues are taken by their size.

    Args:
        model: (problems, parameters, parameters), Hessians in the whitened basis.
        slope: (problems, parameters), gradients there.
        damping: (problems,), as a share of the largest curvature.
    """
    k = slope.shape[1]
    unit = np.eye(k) * np.maximum(np.abs(np.trace(model, axis1=1, axis2=2)), 1e-300)[:, None, None]
    full, firm = _solve(model + 1e-13 * unit, slope)
    step, _ = _solve(model + damping[:, None, None] * unit, slope)
    decrement = 0.5 * np.sum(slope * full, axis=1)
    odd = np.flatnonzero(~firm)
    if len(odd):
        size, vectors = np.linalg.eigh(model[odd])
        size = np.abs(size)
        largest = np.maximum(size.max(axis=1, keepdims=True), 1e-300)
        pulled = (slope[odd, None] @ vectors)[:, 0]
        decrement[odd] = 0.5 * np.sum(pulled**2 / (size + 1e-13 * largest), axis=1)
        step[odd] = (vectors @ (pulled / (size + damping[odd, None] * largest))[..., None])[..., 0]
    return -step, decrement


def _solve(matrix: FloatArray, right: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Symmetric systems by Cholesky's method, and which of them are positive definite.

    Loops over parameters, not over problems: thousands of small systems cost what a few do. The answers to the
    others mean nothing.
    """
    k = right.shape[1]
    a, x = np.ascontiguousarray(np.moveaxis(matrix, 0, -1)), right.T.copy()
    firm = np.ones(len(right), dtype=bool)
    for j in range(k):
        firm &= a[j, j] > 0
        root = np.sqrt(np.where(firm, a[j, j], 1.0))
        a[j:, j] /= root
        x[j] /= root
        x[j + 1 :] -= a[j + 1 :, j] * x[j]
        a[j + 1 :, j + 1 :] -= a[j + 1 :, None, j] * a[None, j + 1 :, j]
    for j in reversed(range(k)):
        x[j] = (x[j] - np.sum(a[j + 1 :, j] * x[j + 1 :], axis=0)) / np.where(firm, a[j, j], 1.0)
    return x.T, firm


def _rest_at_bound(index: int, low: npt.NDArray[np.bool_], slope: FloatArray, model: FloatArray) -> None:
    """Take a parameter that would sink below its bound out of the step, in place."""
    resting = np.flatnonzero(low & (slope[:, index] > 0))
    slope[resting, index] = 0
    model[resting, index, :] = 0
    model[resting, :, index] = 0
    model[resting, index, index] = 1e-300
