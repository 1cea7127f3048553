"""The view behind the paper's first figure: one power law in D2 for each D1, all above one floor.

Liew & Kato 2025, arXiv:2510.06548, section 3: the exponents of the slices fall on a line in ln D1. Whether they do is
shown here without assuming it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import FitError
from .fitting import fit_form, refit
from .points import Points
from .terms import FloatArray, Form, Logs, Part, Term

__all__ = ["Slices", "slice_exponents"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Slices:
    """One curve L = C * (D2 / center)^-a + E for each D1, E shared.

    The factor belongs to a D2 inside the data (`center`, the geometric mean): at D2 = 1 token, a dozen
    e-folds away, it would only repeat the exponent.

    Attributes:
        base_tokens: (slices,), D1, rising; 0 is training from scratch.
        exponent, factor: (slices,), a and C; with the ends of their 95% intervals.
        center: tokens at which `factor` is taken.
        floor: E.
        notes: what was left out, and what the intervals rest on.
    """

    base_tokens: FloatArray
    exponent: FloatArray
    exponent_low: FloatArray
    exponent_high: FloatArray
    factor: FloatArray
    factor_low: FloatArray
    factor_high: FloatArray
    center: float
    floor: float
    notes: tuple[str, ...]


class _SliceForm(Form):
    """theta: ln C and a of every slice, then ln E unless the floor is given."""

    name = "slices"
    formula = "L = C(D1) * (D2 / center)^-a(D1) + E"
    source = "Liew & Kato 2025, arXiv:2510.06548, figure 1"
    columns = ("base_tokens", "tokens")
    covers_scratch = True

    def __init__(self, levels: FloatArray, center: float, floor: float | None) -> None:
        self._levels, self._center, self._floor = levels, center, floor
        factors = [f"C{i}" for i in range(len(levels))]
        exponents = [f"a{i}" for i in range(len(levels))]
        self.parameters = (*factors, *exponents, "E") if floor is None else (*factors, *exponents)
        self.positive = frozenset({*factors, "E"})

    def _design(self, logs: Logs) -> Sequence[FloatArray]:
        member = (logs["base_tokens"][:, None] == self._levels).astype(float)
        v = logs["tokens"][:, None] - self._center
        curves = np.hstack([member, -member * v])
        if self._floor is not None:
            return [curves]
        zero, one = np.zeros_like(v), np.ones_like(v)
        return [np.hstack([curves, zero]), np.hstack([0 * curves, one])]

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        found = [Term(theta @ matrix.T, matrix[None]) for matrix in self._design(logs)]
        if self._floor is not None:
            rows = len(logs["tokens"])
            level = np.full((len(theta), rows), np.log(max(self._floor, 1e-300)))
            found.append(Term(level, np.zeros((1, rows, len(self.parameters)))))
        return found

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        design = self._design(logs)[0][:, : 2 * len(self._levels)]
        if self._floor is not None:
            above = np.maximum(loss - self._floor, 1e-3 * loss)
            return np.array([np.linalg.lstsq(design, np.log(above), rcond=None)[0]])
        found = []
        for fraction in (1e-6, 0.2, 0.4, 0.6, 0.75, 0.87, 0.95, 0.99):
            floor = fraction * loss.min()
            found.append([*np.linalg.lstsq(design, np.log(loss - floor), rcond=None)[0], np.log(floor)])
        return np.array(found)


def slice_exponents(points: Points, *, floor: float | None = None, resamples: int = 200, seed: int = 0) -> Slices:
    """Fit the slices by least squares of log loss, with intervals from redrawn noise.

    Every redraw takes a noise scale compatible with the residuals (their degrees of freedom are few), adds
    independent noise of it to the fitted curves and fits again, floor included unless it is given.

    Args:
        points: with base_tokens; a D1 with fewer than two D2 is left out and named.
        floor: E, for instance that of a law fitted to the same points, so that both can be drawn together;
            the intervals are then those at this E. None fits it.
        resamples: redraws.
        seed: of the draws.

    Raises:
        FitError: fewer points than 2 for each slice and one for the floor, plus one.
        PointError: base_tokens is missing.
    """
    logs = points.logs(_SliceForm(np.zeros(1), 0.0, None))
    levels, group = np.unique(logs["base_tokens"], return_inverse=True)
    enough = np.array([len(np.unique(logs["tokens"][group == i])) >= 2 for i in range(len(levels))])
    notes = [f"D1 = {np.exp(level):,.0f} has fewer than two D2 and no slice." for level in levels[~enough]]
    if not enough.any():
        raise FitError("No D1 has two different D2, so there is no curve to draw. Measure more second stages.")
    keep = enough[group]
    logs = {name: column[keep] for name, column in logs.items()}
    loss, levels = points.loss[keep], levels[enough]
    form = _SliceForm(levels, float(logs["tokens"].mean()), floor)
    fit = fit_form(form, logs, loss, objective="lsq")
    n, k, g = len(loss), len(fit.theta), len(levels)
    rng = np.random.default_rng(seed)
    scale = np.sqrt(np.sum(fit.residuals**2) / rng.chisquare(n - k, size=(resamples, 1)))
    noise = scale * rng.standard_normal((resamples, n))
    drawn = refit(fit, logs, loss * np.exp(noise - fit.residuals), np.ones((1, n))).theta
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    given = "" if floor is None else ", at the given E"
    notes.append(f"Intervals assume independent noise between points ({n} points, {k} parameters){given}.")
    return Slices(
        base_tokens=np.exp(levels),
        exponent=fit.theta[g : 2 * g],
        exponent_low=low[g : 2 * g],
        exponent_high=high[g : 2 * g],
        factor=np.exp(fit.theta[:g]),
        factor_low=np.exp(low[:g]),
        factor_high=np.exp(high[:g]),
        center=float(np.exp(logs["tokens"].mean())),
        floor=float(np.exp(fit.theta[-1])) if floor is None else floor,
        notes=tuple(notes),
    )
