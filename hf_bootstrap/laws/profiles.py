"""How well a law fits with some of its parameters held: the ridge along which they stand in for each other.

Intervals come from resampled bases, not from here: a profile takes rows as independent. The contour drawn on it is
the one that holds the resampled laws.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from ..errors import LawError, did_you_mean
from .fitted import FittedLaw, LawLike
from .fitting import fit_form
from .newton import newton
from .points import Points
from .terms import FloatArray, Form, Logs, Part, Term

__all__ = ["Held", "Profile", "profile"]

_STEPS = {1: 41, 2: 17}
_SEARCH = 30  # steps at each width of the loss
_WORTH = 1e-3  # the share by which a loss must fall for its neighbours to be searched again


@final
class Held(Form):
    """A form some of whose parameters stay where each problem of a batch puts them.

    They keep their place in theta but have no slope, so no step moves them: a whole grid of held values is one batch.

    Args:
        inner: the form.
        held: names of the parameters that stay.
    """

    def __init__(self, inner: Form, held: Sequence[str]) -> None:
        self.inner, self.held = inner, tuple(held)
        self.name, self.formula, self.source = inner.name, inner.formula, inner.source
        self.columns, self.covers_scratch = inner.columns, inner.covers_scratch
        self.parameters, self.positive = inner.parameters, inner.positive
        self._at = [inner.parameters.index(name) for name in held]
        self._moves = np.array([name not in held for name in inner.parameters], dtype=float)

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """The inner terms, with no derivative in what is held."""
        found: list[Term | Part] = []
        for term in self.inner.terms(logs, theta):
            slope = term.slope * self._moves
            bends = {pair: bend for pair, bend in term.curvature.items() if not set(pair) & set(self._at)}
            found.append(Term(term.log, slope, bends) if isinstance(term, Term) else Part(term.value, slope, bends))
        return found

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Those of the inner form."""
        return self.inner.starts(logs, loss)


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """The summed loss with one or two parameters held, all others refitted.

    Attributes:
        names: the held parameters.
        values: for each, the values it was held at, rising.
        excess: the summed loss over its minimum, less 1; one axis per name.
        estimate: the fitted value of each.
        limit: the excess that 95% of the resampled laws stay below; None without a bootstrap.
        draws: (replicates, names), the resampled laws.
    """

    names: tuple[str, ...]
    values: tuple[FloatArray, ...]
    excess: FloatArray
    estimate: tuple[float, ...]
    limit: float | None
    draws: FloatArray

    @property
    def best(self) -> tuple[FloatArray, FloatArray]:
        """The second parameter that fits best for each value of the first, and the excess there.

        Raises:
            LawError: only one parameter was held.
        """
        if len(self.names) != 2:
            raise LawError(f"best needs a profile of two parameters, not of {', '.join(self.names)}. Profile two.")
        at = np.argmin(self.excess, axis=1)
        return self.values[1][at], self.excess[np.arange(len(at)), at]

    def ridge(self, rows: int = 5) -> list[tuple[float, float, float]]:
        """A few values of the first parameter, the second that fits best beside each, and the excess there.

        Raises:
            LawError: only one parameter was held.
        """
        seconds, excess = self.best
        at = np.unique(np.linspace(0, len(seconds) - 1, rows).round().astype(int))
        return [(float(self.values[0][i]), float(seconds[i]), float(excess[i])) for i in at]


def profile(
    law: LawLike, *names: str, values: Mapping[str, Sequence[float]] | None = None, steps: int | None = None
) -> Profile:
    """Refit a law with one or two parameters held at each point of a grid.

    Args:
        law: with its points at hand.
        names: one or two parameters; by default alpha3 and E.
        values: where to hold each, in the units of `params_`; by default over the middle 98% of the resampled
            laws (over the 98% interval where bases were left out in turn), and a quarter more on each side.
        steps: values per parameter, where they are not given: 41 for one, 17 for two.

    Raises:
        LawError: an unknown name, more than two, no points at hand, no resampled laws to choose values by, or values
            that no parameter can have.
    """
    names = names or ("alpha3", "E")
    fitted, points = law.fitted, law.points_
    for name in names:
        if name not in fitted.form.parameters:
            raise LawError(f"There is no parameter {name!r}. {did_you_mean(name, fitted.form.parameters)}")
    if points is None or len(names) > 2:
        raise LawError(
            f"A profile takes one or two parameters (given: {names}), and a law with its points: fit it first."
        )
    draws = np.stack([_natural(fitted.form, name, fitted.replicates.theta) for name in names], axis=1)
    ceiling = 0.999 * float(points.loss.min())
    count = steps or _STEPS[len(names)]
    grid = tuple(
        _given(fitted.form, name, values[name])
        if values is not None and name in values
        else _with(fitted.params()[name], _range(fitted, name, draws[:, i], count, ceiling))
        for i, name in enumerate(names)
    )
    excess = _excess(fitted, points, names, grid)
    estimate = tuple(fitted.params()[name] for name in names)
    return Profile(
        names=names,
        values=grid,
        excess=excess,
        estimate=estimate,
        limit=_limit(fitted, grid, excess, draws),
        draws=draws,
    )


def _excess(law: FittedLaw, points: Points, names: Sequence[str], grid: Sequence[FloatArray]) -> FloatArray:
    """The summed loss over its minimum, less 1, at every place of the grid.

    Each place is searched from the law, from the resampled law nearest to it, and then from where its neighbours
    ended, until that helps nowhere: the ridge is long and bent.
    """
    form, logs, log_loss = law.form, points.logs(law.form), np.log(points.loss)[None]
    best = fit_form(form, logs, points.loss, objective=law.objective, delta=law.delta)
    edge = law.delta if law.objective == "huber" else 1e6
    held, at = Held(form, names), [form.parameters.index(name) for name in names]
    axes = [np.log(axis) if name in form.positive else axis for name, axis in zip(names, grid, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    shape, flat = places.shape[:-1], places.reshape(-1, len(names))

    def search(starts: FloatArray, which: npt.NDArray[np.int64], widths: Sequence[float]) -> None:
        """Keep what is found from these starts where it is lower by more than rounding."""
        found = starts.copy()
        found[:, at] = flat[which]
        ones = np.ones((len(which), log_loss.shape[1]))
        for width in widths:
            end = newton(held, logs, log_loss, ones, found, width * edge, _SEARCH, tolerance=1e-8)
            found = end.theta
        won = end.value < value[which] * (1 - _WORTH)
        theta[which[won]], value[which[won]] = found[won], end.value[won]
        moved[which[won]] = True

    every = np.arange(len(flat))
    theta, value, moved = np.empty((len(flat), len(best.theta))), np.full(len(flat), np.inf), np.ones(len(flat), bool)
    search(np.tile(best.theta, (len(flat), 1)), every, (16, 4, 1))
    known = law.replicates.theta
    if len(known):
        scale = np.maximum(flat.max(axis=0) - flat.min(axis=0), 1e-12)
        gap = (flat[:, None] - known[:, at]) / scale
        search(known[np.argmin(np.sum(gap**2, axis=2), axis=1)], every, (16, 4, 1))
    while moved.any():
        last, ended = moved.copy(), theta.copy()
        moved[:] = False
        for beside in _neighbours(shape):
            which = np.flatnonzero((beside >= 0) & last[beside])
            if len(which):
                search(ended[beside[which]], which, (1,))
    return np.maximum(value / max(best.value, 1e-300) - 1, 0.0).reshape(shape)


def _neighbours(shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.int64]]:
    """For every direction, the flat index of each place's neighbour; -1 where there is none."""
    index = np.arange(np.prod(shape)).reshape(shape)
    for axis in range(len(shape)):
        for step in (1, -1):
            beside = np.roll(index, step, axis=axis)
            np.moveaxis(beside, axis, 0)[0 if step == 1 else -1] = -1
            yield beside.ravel()


def _natural(form: Form, name: str, theta: FloatArray) -> FloatArray:
    column = theta[:, form.parameters.index(name)]
    return np.exp(np.minimum(column, 700.0)) if name in form.positive else column


def _range(law: FittedLaw, name: str, draws: FloatArray, steps: int, ceiling: float) -> FloatArray:
    if not len(draws):
        raise LawError(f"There are no resampled laws to choose values of {name} by; give values={{{name!r}: [...]}}.")
    if law.replicates.method == "jackknife":  # its few laws lie closer together than the estimate is known
        low, high = law.interval(name, 0.98) or (0.0, ceiling)
    else:
        low, high = np.quantile(draws, [0.01, 0.99])
    low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    if name == "E":
        low, high = max(low, 1e-3 * ceiling), min(high, ceiling)
        if high < low:  # in every resampled law it has gone to the losses, or to 0
            low, high = (0.5 * ceiling, ceiling) if low > ceiling else (low, 0.1 * ceiling)
    elif name in law.form.positive:
        low = max(low, float(draws.min()) / 2, 1e-300)
        return np.geomspace(low, max(high, 1.01 * low), steps)
    if high - low <= 1e-6 * abs(high):  # points that leave it no room still get a grid
        low, high = low - 1e-3 * max(abs(low), 1.0), high + 1e-3 * max(abs(high), 1.0)
    return np.linspace(low, high, steps)


def _given(form: Form, name: str, values: Sequence[float]) -> FloatArray:
    """Values asked for, rising and each once."""
    axis = np.unique(np.asarray(values, dtype=float))
    if axis.ndim != 1 or not len(axis) or not np.isfinite(axis).all() or (name in form.positive and axis[0] <= 0):
        rule = "positive and finite" if name in form.positive else "finite"
        raise LawError(f"values of {name} are {values!r}; a profile holds it at a list of numbers, each {rule}.")
    return axis


def _with(estimate: float, axis: FloatArray) -> FloatArray:
    """The same values, the nearest one moved to the estimate: no grid must miss the optimum itself."""
    if axis[0] < estimate < axis[-1]:
        above = int(np.searchsorted(axis, estimate))
        # Of its two neighbours, so that the axis stays in order also where values span hundreds of decades.
        axis[above if axis[above] - estimate < estimate - axis[above - 1] else above - 1] = estimate
    return axis


def _limit(law: FittedLaw, grid: Sequence[FloatArray], excess: FloatArray, draws: FloatArray) -> float | None:
    """The excess below which 95% of the resampled laws lie, read off the grid."""
    if law.replicates.method != "bootstrap" or not all(len(axis) > 1 for axis in grid):
        return None
    from scipy.interpolate import RegularGridInterpolator

    inside = np.column_stack([np.clip(draws[:, i], axis[0], axis[-1]) for i, axis in enumerate(grid)])
    return float(np.quantile(RegularGridInterpolator(tuple(grid), excess)(inside), 0.95))
