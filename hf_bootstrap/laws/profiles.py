"""How well a law fits with some of its parameters held: the ridge along which they stand in for each other.

Intervals come from resampled bases, not from here: a profile takes rows as independent. The contour drawn on it is
the one that holds the resampled laws.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from ..errors import LawError, did_you_mean
from .fitted import FittedLaw, LawLike
from .fitting import fit_form
from .newton import minimise
from .terms import FloatArray, Form, Logs, Part, Term

__all__ = ["Held", "Profile", "profile"]

_STEPS = {1: 41, 2: 17}


@final
class Held(Form):
    """A form with some parameters held at given values.

    Args:
        inner: the form.
        held: parameter -> its value on the scale of theta (the log of positive ones).
    """

    def __init__(self, inner: Form, held: Mapping[str, float]) -> None:
        self.inner, self.held = inner, dict(held)
        self.name, self.formula, self.source = inner.name, inner.formula, inner.source
        self.columns, self.covers_scratch = inner.columns, inner.covers_scratch
        self.parameters = tuple(name for name in inner.parameters if name not in held)
        self.positive = inner.positive & set(self.parameters)
        self._free = [inner.parameters.index(name) for name in self.parameters]

    def whole(self, theta: FloatArray) -> FloatArray:
        """Thetas of the inner form, (problems, all parameters), from those of this one."""
        full = np.empty((len(theta), len(self.inner.parameters)))
        full[:, self._free] = theta
        for name, value in self.held.items():
            full[:, self.inner.parameters.index(name)] = value
        return full

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """The inner terms, with the derivatives in the free parameters."""
        place = {old: new for new, old in enumerate(self._free)}
        found: list[Term | Part] = []
        for term in self.inner.terms(logs, self.whole(theta)):
            slope = term.slope[:, :, self._free]
            bends = {(place[i], place[j]): bend for (i, j), bend in term.curvature.items() if i in place and j in place}
            found.append(Term(term.log, slope, bends) if isinstance(term, Term) else Part(term.value, slope, bends))
        return found

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Those of the inner form, without the held parameters."""
        return self.inner.starts(logs, loss)[:, self._free]


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
            raise LawError("best needs a profile of two parameters.")
        at = np.argmin(self.excess, axis=1)
        return self.values[1][at], self.excess[np.arange(len(at)), at]


def profile(
    law: LawLike, *names: str, values: Mapping[str, Sequence[float]] | None = None, steps: int | None = None
) -> Profile:
    """Refit a law with one or two parameters held at each point of a grid.

    Args:
        law: with its points at hand.
        names: one or two parameters; by default alpha3 and E.
        values: where to hold each, in the units of `params_`; by default over the middle 98% of the resampled
            laws, and a quarter more on each side.
        steps: values per parameter, where they are not given: 41 for one, 17 for two.

    Raises:
        LawError: an unknown name, more than two, no points at hand, or no resampled laws to choose values by.
    """
    names = names or ("alpha3", "E")
    fitted, points = law.fitted, law.points_
    for name in names:
        if name not in fitted.form.parameters:
            raise LawError(f"There is no parameter {name!r}. {did_you_mean(name, fitted.form.parameters)}")
    if points is None or len(names) > 2:
        raise LawError("A profile takes one or two parameters, and a law with its points at hand: fit it, then ask.")
    draws = np.stack([_natural(fitted.form, name, fitted.replicates.theta) for name in names], axis=1)
    ceiling = 0.999 * float(points.loss.min())
    count = steps or _STEPS[len(names)]
    grid = tuple(
        np.asarray(values[name], dtype=float)
        if values is not None and name in values
        else _range(fitted, name, draws[:, i], count, ceiling)
        for i, name in enumerate(names)
    )
    logs, log_loss = points.logs(fitted.form), np.log(points.loss)[None]
    best = fit_form(fitted.form, logs, points.loss, objective=fitted.objective, delta=fitted.delta)
    edge = fitted.delta if fitted.objective == "huber" else 1e6
    start = best.theta
    excess = np.empty([len(axis) for axis in grid])
    for place in itertools.product(*(range(len(axis)) for axis in grid)):
        held = {
            name: float(np.log(axis[i])) if name in fitted.form.positive else float(axis[i])
            for name, axis, i in zip(names, grid, place, strict=True)
        }
        form = Held(fitted.form, held)
        free = [fitted.form.parameters.index(name) for name in form.parameters]
        if place[-1] == 0:
            start = best.theta
        # From the optimum and from the neighbour: the ridge is long and bent.
        starts = np.stack([best.theta[free], start[free]])
        found = minimise(form, logs, log_loss, np.ones_like(log_loss), starts, delta=edge, widest=16 * fitted.delta)
        lowest = int(np.argmin(found.value))
        start = form.whole(found.theta[lowest : lowest + 1])[0]
        excess[place] = max(float(found.value[lowest]) / max(best.value, 1e-300) - 1, 0.0)
    estimate = tuple(fitted.params()[name] for name in names)
    return Profile(
        names=names,
        values=grid,
        excess=excess,
        estimate=estimate,
        limit=_limit(fitted, grid, excess, draws),
        draws=draws,
    )


def _natural(form: Form, name: str, theta: FloatArray) -> FloatArray:
    column = theta[:, form.parameters.index(name)]
    return np.exp(np.minimum(column, 700.0)) if name in form.positive else column


def _range(law: FittedLaw, name: str, draws: FloatArray, steps: int, ceiling: float) -> FloatArray:
    if not len(draws):
        raise LawError(f"There are no resampled laws to choose values of {name} by; give values={{{name!r}: [...]}}.")
    low, high = np.quantile(draws, [0.01, 0.99])
    low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    if name == "E":
        low, high = max(low, 1e-3 * ceiling), min(high, ceiling)
    elif name in law.form.positive:
        return np.geomspace(max(low, float(draws.min()) / 2), high, steps)
    return np.linspace(low, high, steps)


def _limit(law: FittedLaw, grid: Sequence[FloatArray], excess: FloatArray, draws: FloatArray) -> float | None:
    """The excess below which 95% of the resampled laws lie, read off the grid."""
    if law.replicates.method != "bootstrap" or not all(len(axis) > 1 for axis in grid):
        return None
    from scipy.interpolate import RegularGridInterpolator

    inside = np.column_stack([np.clip(draws[:, i], axis[0], axis[-1]) for i, axis in enumerate(grid)])
    return float(np.quantile(RegularGridInterpolator(tuple(grid), excess)(inside), 0.95))
