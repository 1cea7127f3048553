"""Least robust loss by damped Newton steps: thousands of problems at once, exact derivatives, one form.

Every start, every resample and every left-out row is one problem of a batch. The loss and its derivatives are in
`objective`; what to solve, and what the answer means, is the business of `fitting`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .objective import Problems
from .terms import FloatArray, Form, Logs

__all__ = ["Minimum", "minimise", "newton", "screen"]

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

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """(problems,), whether a further step would change the loss by less than a millionth."""
        return np.asarray(self.decrement <= 1e-6 * self.value + 1e-20)

    def put(self, at: npt.NDArray[np.int64], other: "Minimum") -> None:
        """Take the problems of `other` that ended lower as the problems `at`, in place."""
        lower = other.value < self.value[at]
        for mine, theirs in (
            (self.theta, other.theta),
            (self.value, other.value),
            (self.decrement, other.decrement),
        ):
            mine[at[lower]] = theirs[lower]


def minimise(
    form: Form,
    logs: Logs,
    log_loss: FloatArray,
    weights: FloatArray,
    starts: FloatArray,
    *,
    delta: float,
    widest: float = 0.3,
    steps: int = _LAST_STEPS,
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
        steps: at most so many at `delta` itself.
    """
    theta, wide = starts, widest
    while wide > 1.5 * delta:
        # On the way it need not be exact; a very small tolerance would only polish what the next one moves.
        theta = newton(form, logs, log_loss, weights, theta, wide, _STEPS, tolerance=1e-4).theta
        wide /= _NARROWING
    return newton(form, logs, log_loss, weights, theta, delta, steps)


def screen(form: Form, logs: Logs, log_loss: FloatArray, starts: FloatArray, delta: float) -> FloatArray:
    """The starts with the least loss, few enough to polish each; none where the form has a value at none.

    Args:
        form, logs, log_loss: as in `minimise`, log_loss of (rows,).
        starts: (starts, parameters).
        delta: Huber's delta.
    """
    rows = len(log_loss)
    size = max(16, _CACHED // rows)
    everywhere = Problems(form=form, logs=logs, log_loss=log_loss[None], weights=np.ones((1, rows)), delta=delta)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [starts[i : i + size] for i in range(0, len(starts), size)]
        values = np.concatenate([everywhere.value(part) for part in parts])
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
    steps: int = _LAST_STEPS,
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
        parts = []
        for i in range(0, problems, size):
            some = Problems(
                form=form, logs=logs, log_loss=log_loss[i : i + size], weights=weights[i : i + size], delta=delta
            )
            parts.append(_Search(some, theta[i : i + size]).run(steps, tolerance))
    return Minimum(
        theta=form.from_search(np.concatenate([part.theta for part in parts])),
        value=np.concatenate([part.value for part in parts]),
        decrement=np.concatenate([part.decrement for part in parts]),
    )


class _Search:
    """One batch of `newton` on its way; problems that are done leave it."""

    def __init__(self, problems: Problems, theta: FloatArray) -> None:
        n, k = theta.shape
        same = n > 1 and bool(np.all(theta == theta[0]))
        names = problems.form.parameters
        self.problems = problems
        self.theta = theta.copy()
        self.basis = np.broadcast_to(problems.basis(theta[:1] if same else theta), (n, k, k))
        self.place = problems.place(theta)
        self.floor = names.index("E") if "E" in names else None
        self.lowest = float(problems.log_loss.min()) - _DEEPEST
        self.decrement = np.full(n, np.inf)
        self.damping = np.full(n, 1e-3)
        self.soft = np.zeros(n)  # how far the rows beyond delta resist the next step
        self.active = np.flatnonzero(np.isfinite(self.place.value))

    def run(self, steps: int, tolerance: float) -> Minimum:
        """Step until every problem is done."""
        for taken in range(steps):
            step, turned, curve = self._direction(tolerance)
            if not len(self.active):
                break
            self._take(step, turned, curve, bending=taken >= _STRAIGHT)
        return Minimum(theta=self.theta, value=self.place.value, decrement=self.decrement)

    def _direction(self, tolerance: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The next step of each active problem, its basis, and its Hessian there; those that are done leave."""
        active = self.active
        model, slope = self.place.hessian[active], self.place.gradient[active]
        resisting = np.flatnonzero(self.soft[active] > 0)
        if len(resisting):
            rows = active[resisting]
            kinks = self.problems.take(rows).kinks(self.theta[rows], self.place.take(rows))
            model[resisting] += self.soft[rows, None, None] * kinks
        if self.floor is not None:
            _rest_at_bound(self.floor, self.theta[active, self.floor] <= self.lowest, slope, model)
        turned = self.basis[active]
        curve = np.swapaxes(turned, 1, 2) @ model @ turned
        step, self.decrement[active] = _steps(curve, (slope[:, None] @ turned)[:, 0], self.damping[active])
        going = self.decrement[active] > tolerance * self.place.value[active] + 1e-30
        self.active = active[going]
        return step[going], turned[going], curve[going]

    def _take(self, step: FloatArray, turned: FloatArray, curve: FloatArray, *, bending: bool) -> None:
        """Try the steps, keep those that lower the loss, and damp or free the next ones."""
        active, theta = self.active, self.theta
        trial = self._moved(theta[active], turned, step)
        new = self.problems.take(active).place(trial)
        better = new.value < self.place.value[active]
        bent = np.flatnonzero(~better & bending)
        if len(bent):
            rows = active[bent]
            some = self.problems.take(rows)
            pull = some.strayed(theta[rows], self.place.take(rows), trial[bent], new.take(bent))
            back, _ = _steps(curve[bent], (pull[:, None] @ turned[bent])[:, 0], self.damping[rows])
            held = self._moved(trial[bent], turned[bent], back)
            again = some.place(held)
            kept = again.value < self.place.value[rows]
            trial[bent[kept]] = held[kept]
            new.put(bent[kept], again, kept)
            better[bent[kept]] = True
        theta[active[better]] = trial[better]
        self.place.put(active[better], new, better)
        # A step that failed crossed kinks; let the rows beyond them resist the next one.
        soft = np.where(better, self.soft[active] / 4, 1.0)
        self.soft[active] = np.where(soft < 0.01, 0.0, soft)
        self.damping[active] = np.maximum(np.where(better, self.damping[active] / 8, self.damping[active] * 6), 1e-14)
        # No direction improves any more: what is left is rounding.
        self.active = active[self.damping[active] < 1e8]

    def _moved(self, theta: FloatArray, turned: FloatArray, step: FloatArray) -> FloatArray:
        """`theta` after steps in the whitened basis, not far at once and with the floor above its bound."""
        moved: FloatArray = theta + np.clip((turned @ step[..., None])[..., 0], -20, 20)
        if self.floor is not None:
            moved[:, self.floor] = np.maximum(moved[:, self.floor], self.lowest)
        return moved


def _steps(model: FloatArray, slope: FloatArray, damping: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Damped Newton steps, and the decrease that undamped ones promise.

    Where the Hessian is not positive definite its eigenvalues are taken by their size.

    Args:
        model: (problems, parameters, parameters), Hessians in the whitened basis.
        slope: (problems, parameters), gradients there.
        damping: (problems,), as a share of the largest curvature.
    """
    n, k = slope.shape
    unit = np.eye(k) * np.maximum(np.abs(np.trace(model, axis1=1, axis2=2)), 1e-300)[:, None, None]
    # Undamped and damped systems in one go: a call costs more than what it solves.
    both = np.concatenate([model + 1e-13 * unit, model + damping[:, None, None] * unit])
    solved, definite = _solve(both, np.concatenate([slope, slope]))
    full, step, firm = solved[:n], solved[n:], definite[:n]
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
