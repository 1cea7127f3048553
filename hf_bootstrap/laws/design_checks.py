"""Checks of the points behind a fit: their ranges, units, schedules and learning rates; see `checks`."""

from collections.abc import Iterator

import numpy as np

from ..units import LossUnit, format_count
from .fitting import Fit
from .points import Points
from .resampling import Replicates
from .terms import FloatArray

__all__ = ["look_copies", "look_learning_rates", "look_range", "look_schedule", "look_units"]

_JUMP = 30.0  # between neighbouring counts; grids step by less, and units by 1000
_SMALL = 1e4  # tokens or parameters of a whole run: fewer are no count but a number of millions or billions
_BITS = float(-np.log(np.log(2.0)))  # ln of a loss in bits less ln of the same in nats


def look_range(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """An axis with two levels has no curve, and one under a decade no exponent."""
    del replicates
    based = ~points.from_scratch
    for name in fit.form.columns:
        column = getattr(points, name)
        column = column[based] if name == "base_tokens" else column
        if not len(column):
            continue
        levels = len(np.unique(column))
        decades = np.log10(column.max() / column.min())
        if levels < 3:
            yield f"{name} has {levels} level{'s' if levels > 1 else ''}; a curve needs at least 3."
        elif decades < 1:
            yield f"{name} spans {decades:.2f} decades ({_span(column)}); exponents need at least one."
    if points.n_params is not None and "n_params" not in fit.form.columns and len(np.unique(points.n_params)) > 1:
        yield f"Model sizes differ ({_span(points.n_params)}), but this form has no term for size."


def look_learning_rates(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """A cell trained at several peak rates holds several losses; a law describes the best of them."""
    del replicates
    if points.peak_lr is None:
        return
    cells: dict[tuple[object, ...], set[object]] = {}
    keys = [getattr(points, name) for name in fit.form.columns]
    for *cell, rate in zip(*keys, points.peak_lr, strict=True):
        cells.setdefault(tuple(cell), set()).add(rate)
    several = [cell for cell, rates in cells.items() if len(rates - {None}) > 1]
    if several:
        yield (
            f"{len(several)} of {len(cells)} cells hold several learning rates; a law describes the best one. "
            "Keep the row of least loss in each, or choose with where={'peak_lr': ...}."
        )


def look_schedule(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """Decay alone is worth as much as doubling the tokens."""
    del fit, replicates
    if points.phase is not None and any(phase is None for phase in points.phase):
        yield "Some rows do not say whether their learning rate had decayed (phase); they stand beside rows that had."
    if points.base_decayed is not None:
        found = {str(value) for value in points.base_decayed if value is not None}
        if len(found) > 1:
            yield (
                "Some bases were decayed and others not; what decay is worth looks like an effect of D1. "
                "Choose with where={'base_decayed': ...}."
            )


def look_units(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """Millions beside billions, counts that are none, and bits beside nats."""
    del replicates
    for name in fit.form.columns:
        column = getattr(points, name)
        rows = np.flatnonzero(column > 0)
        if not len(rows):
            continue
        order = rows[np.argsort(column[rows])]
        factor = column[order[1:]] / column[order[:-1]]
        if column.max() < _SMALL:
            yield f"{name} is at most {format_count(column.max())}: is that in millions? A law speaks of raw counts."
        elif len(factor) and factor.max() > _JUMP:
            at = int(np.argmax(factor))
            low, high = order[at], order[at + 1]
            yield (
                f"{name} jumps from {format_count(column[low])} (row {low + 1}) to {format_count(column[high])} (row "
                f"{high + 1}): are millions mixed with billions? A law speaks of raw counts."
            )
    if "n_params" in fit.form.columns and points.n_params_are is None:
        yield (
            "Whether n_params counts the embeddings is not said; ask this law with the same count, and say which it is "
            "with fit(..., n_params_are=...)."
        )
    yield from _bits(fit.residuals, points.loss_unit)


def _bits(residuals: FloatArray, stated: LossUnit) -> Iterator[str]:
    """Rows that are off by the very factor between bits and nats, where the others fit."""
    near = np.median(np.abs(residuals - np.median(residuals)))
    for sign, unit, rest in ((1, "bits", "nats"), (-1, "nats", "bits")):
        off = np.abs(residuals - sign * _BITS) < max(0.03, min(3 * near, 0.1))
        if 0 < off.sum() < len(residuals) / 2 and np.median(np.abs(residuals[~off])) < 0.1:
            rows = ", ".join(str(row + 1) for row in np.flatnonzero(off)[:5])
            yield (
                f"{int(off.sum())} loss{'es' if off.sum() > 1 else ''} (row {rows}{', ...' if off.sum() > 5 else ''}) "
                f"are off by the factor between bits and nats: in {unit}, beside others in {rest}? "
                f"Loss is {stated}."
            )


def look_copies(rows: FloatArray) -> Iterator[str]:
    """Two runs never agree to the last digit of their loss; a row that does was counted twice."""
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which.ravel()] != np.arange(len(rows)))
    if len(again):
        row, of = int(again[0]), int(first[which.ravel()[again[0]]])
        yield (
            f"{len(again)} row{'s repeat' if len(again) > 1 else ' repeats'} another to the last digit "
            f"(row {row + 1} of row {of + 1}): counted twice, one makes intervals too narrow. Leave copies out."
        )


def _span(column: FloatArray) -> str:
    return f"{format_count(column.min())} to {format_count(column.max())}"
