"""The robust loss of a form, its gradient and its exact Hessian, for a batch of problems on the same rows.

Where to step from there is the business of `newton`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .terms import FloatArray, Form, Logs, Part, Term, add_up

__all__ = ["Place", "Problems", "Rows"]

Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """What is known of the loss where each problem stands.

    Attributes:
        value: (problems,), infinite where the form has no finite value or derivative.
        gradient: (problems, parameters).
        hessian: (problems, parameters, parameters).
        predicted: (problems, rows), ln of the law there.
        slope: (problems, parameters, rows), of ln(predicted), where it took work; None where the slopes of all terms
            are constants, and sums over them are cheaper.
    """

    value: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    predicted: FloatArray
    slope: FloatArray | None

    def take(self, chosen: Rows) -> "Place":
        """Some of the problems."""
        return Place(
            self.value[chosen],
            self.gradient[chosen],
            self.hessian[chosen],
            self.predicted[chosen],
            None if self.slope is None else self.slope[chosen],
        )

    def put(self, at: Rows, other: "Place", chosen: Rows) -> None:
        """Take the problems `chosen` of another place, in place."""
        self.value[at], self.gradient[at] = other.value[chosen], other.gradient[chosen]
        self.hessian[at], self.predicted[at] = other.hessian[chosen], other.predicted[chosen]
        if self.slope is not None and other.slope is not None:
            self.slope[at] = other.slope[chosen]


@dataclass(frozen=True, kw_only=True)
class Problems:
    """Weighted sums of Huber(delta) on ln(measured) - ln(predicted), one per problem.

    Every theta is in the form's search coordinates.

    Attributes:
        form: the form of all.
        logs: ln of each column the form reads, (rows,).
        log_loss: (problems or 1, rows), ln of the losses.
        weights: (problems or 1, rows), not negative.
        delta: where Huber's loss turns.
    """

    form: Form
    logs: Logs
    log_loss: FloatArray
    weights: FloatArray
    delta: float

    def take(self, chosen: Rows) -> "Problems":
        """Some of the problems."""
        return Problems(
            form=self.form,
            logs=self.logs,
            log_loss=self.log_loss[chosen],
            weights=self.weights[chosen],
            delta=self.delta,
        )

    def value(self, theta: FloatArray) -> FloatArray:
        """The losses alone, (problems,), at a theta that is not in search coordinates."""
        residual = self.log_loss - self.form.log_loss(self.logs, theta)
        clipped = np.clip(residual, -self.delta, self.delta)
        return _finite(np.sum(self.weights * clipped * (residual - clipped / 2), axis=-1))

    def place(self, theta: FloatArray) -> Place:
        """Value, gradient and exact Hessian of each."""
        terms = self.form.search_terms(self.logs, theta)
        predicted, shares = add_up(terms)
        residual = self.log_loss - predicted
        clipped = np.clip(residual, -self.delta, self.delta)
        pull = self.weights * clipped
        value = _finite(np.sum(pull * (residual - clipped / 2), axis=-1))
        inside = self.weights * (np.abs(residual) <= self.delta)
        slope = None if _shared(terms) else _slope(terms, shares)
        gradient, hessian = _moments(terms, shares, slope, inside + pull, pull)
        for share, term in zip(shares, terms, strict=True):
            force = pull * share
            for (i, j), bend in term.curvature.items():
                moment = np.einsum("bn,bn->b", force, bend)
                hessian[:, i, j] -= moment
                if i != j:
                    hessian[:, j, i] -= moment
        known = np.isfinite(gradient).all(axis=1) & np.isfinite(hessian).all(axis=(1, 2))
        return Place(np.where(known, value, np.inf), -gradient, hessian, predicted, slope)

    def kinks(self, theta: FloatArray, here: Place) -> FloatArray:
        """What rows beyond delta would add to the Hessian if their loss were a parabola; `here`: the place of theta."""
        size = np.abs(self.log_loss - here.predicted)
        beyond = self.weights * (size > self.delta) * self.delta / np.maximum(size, self.delta)
        if here.slope is not None:
            return _outer(here.slope, beyond)
        terms = self.form.search_terms(self.logs, theta)
        return _shared_moments(terms, add_up(terms)[1], beyond, np.zeros_like(beyond))[1]

    def strayed(self, theta: FloatArray, here: Place, trial: FloatArray, there: Place) -> FloatArray:
        """The pull, (problems, parameters), by which the rows inside delta left the line from `theta` to `trial`.

        In a narrow valley that bends, such as that of a floor and an amount that trade, every straight step of useful
        length leaves it; a second step against this pull leads back (second-order correction: Nocedal & Wright 2006,
        section 15.6). `here` and `there` are the places of both.
        """
        slope = here.slope
        if slope is None:
            terms = self.form.search_terms(self.logs, theta)
            slope = _slope(terms, add_up(terms)[1])
        inside = self.weights * (np.abs(self.log_loss - here.predicted) <= self.delta)
        miss = there.predicted - here.predicted - ((trial - theta)[:, None] @ slope)[:, 0]
        pull = np.where(inside > 0, inside * miss, 0.0)
        return np.asarray((slope @ np.where(np.isfinite(pull), pull, 0.0)[..., None])[..., 0])

    def basis(self, theta: FloatArray) -> FloatArray:
        """A basis (problems, parameters, parameters) in which the terms' slopes are uncorrelated and of size one.

        Raw logs of token counts make slopes nearly parallel. In this basis, which does what centring and
        scaling the logs would do, one damping fits every direction.
        """
        metric = 0.0
        for term in self.form.search_terms(self.logs, theta):
            slope = np.nan_to_num(term.slope, nan=0.0, posinf=0.0, neginf=0.0)
            metric = metric + np.swapaxes(slope, 1, 2) @ slope / slope.shape[1]
        size = np.sqrt(np.maximum(np.diagonal(np.asarray(metric), axis1=1, axis2=2), 1e-300))
        spread, basis = np.linalg.eigh(metric / (size[:, :, None] * size[:, None, :]))
        spread = np.maximum(spread, 1e-10 * spread.max(axis=1, keepdims=True))
        return np.asarray(basis / np.sqrt(spread)[:, None, :] / size[:, :, None])


def _finite(value: FloatArray) -> FloatArray:
    """A form without a value there is worse than any other."""
    return np.where(np.isnan(value), np.inf, value)


def _shared(terms: Sequence[Term | Part]) -> bool:
    """Whether no term's slope depends on the problem, also where there is only one."""
    return all(len(term.slope) == 1 and not term.curvature for term in terms)


def _outer(slope: FloatArray, weight: FloatArray) -> FloatArray:
    """Sums over rows of weight s s': (problems, parameters, parameters)."""
    return np.asarray((weight[:, None] * slope) @ np.swapaxes(slope, 1, 2))


def _moments(
    terms: Sequence[Term | Part],
    shares: list[FloatArray],
    slope: FloatArray | None,
    outer: FloatArray,
    pull: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Sums over rows of pull s, and of outer s s' less pull times the terms' own s_k s_k' (s: slope of ln L)."""
    if slope is None:
        return _shared_moments(terms, shares, outer, pull)
    gradient = (slope @ pull[..., None])[..., 0]
    hessian = _outer(slope, outer)
    for share, term in zip(shares, terms, strict=True):
        if isinstance(term, Term):
            used = np.flatnonzero(term.slope[0].any(axis=0))
            narrow = np.swapaxes(term.slope, 1, 2)[:, used]
            hessian[:, used[:, None], used] -= _outer(narrow, pull * share)
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
