"""The largest runs left out and predicted from the others: what a law would have been worth before they were made.

Leaving out every base in turn, to rank forms, is the business of `evidence`.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import FitError, PredictionError
from .fitted import FittedLaw, fit_law
from .points import Points
from .prediction import predict
from .terms import FloatArray

__all__ = ["HeldOut", "hold_out_largest"]

_RESAMPLES = 250  # for the bars of a figure; a law's own intervals take more


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Rows a law never saw, and what it said of them.

    Attributes:
        column: whose largest values were left out; `level`: the smallest of them.
        across: another column, along which the left-out rows differ.
        kept, left_out: the rows.
        value, low, high: (rows left out,), the predictions and their 95% intervals; None where not known.
    """

    column: str
    level: float
    across: str
    kept: Points
    left_out: Points
    value: FloatArray
    low: FloatArray | None
    high: FloatArray | None


def hold_out_largest(law: FittedLaw, points: Points, column: str) -> HeldOut | None:
    """Fit the law's form without the rows of the largest `column`, and predict them.

    The largest level is left out; where it has fewer than three rows, or a twentieth of all, the next ones too.

    Returns:
        None where it cannot be done: the form does not read the column, three levels would not remain, or the rows that
        remain do not determine the form there.
    """
    form = getattr(law.form, "inner", law.form)
    if column not in form.columns:
        return None
    values = getattr(points, column)
    based = values[values > 0]
    few = max(3, len(points) // 20)
    level = next((x for x in np.unique(based)[::-1] if np.sum(based >= x) >= few), 0.0)
    if len(np.unique(based[based < level])) < 3 or law.objective == "given":
        return None
    across = next((c for c in ("tokens", "base_tokens", "n_params") if c in form.columns and c != column), column)
    try:
        smaller = points.take(values < level)
        found, kept = fit_law(form, smaller, objective=law.objective, delta=law.delta, resamples=_RESAMPLES)
        largest = points.take((values >= level) & (~points.from_scratch | found.form.covers_scratch))
        asked = {name: getattr(largest, name) for name in form.columns}
        told = predict(found, asked, extrapolate=True)
    except (FitError, PredictionError):
        return None
    low, high = (None if x is None else np.asarray(x) for x in (told.low, told.high))
    return HeldOut(
        column=column,
        level=float(level),
        across=across,
        kept=kept,
        left_out=largest,
        value=np.asarray(told.value),
        low=low,
        high=high,
    )
