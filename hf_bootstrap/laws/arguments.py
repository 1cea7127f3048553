"""What a law may be asked with: numbers that a run can have. Anything else is refused under the argument's own name."""

import numbers
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..errors import LawError, PredictionError
from .terms import FloatArray

__all__ = ["SHARES", "amounts_of", "check_level", "is_positive", "like_each_other"]

SHARES = ("mixture_ratio",)  # columns that are parts of a whole


def is_positive(value: object) -> bool:
    """Whether it is one number, above 0 and finite. Text is none: `units.parse_count` reads "1M"."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < _float(value) < np.inf


def amounts_of(name: str, values: npt.ArrayLike) -> FloatArray:
    """A column that a law is asked about.

    Raises:
        PredictionError: it holds what is no number, or none that a run can have.
    """
    try:
        array = np.asarray(values)
        found = np.full(1, np.nan) if array.dtype.kind in "USb" else array.astype(float)
    except (TypeError, ValueError, OverflowError):  # such as None in a list, lists of unequal length, 10**400
        found = np.full(1, np.nan)
    if not np.all(np.isfinite(found) & (found >= 0)):
        raise PredictionError(
            f"{name} is {values!r}; it must be finite and not negative. Give a number such as 1e6, or an array."
        )
    if name in SHARES and np.any(found > 1):
        raise PredictionError(f"{name} is {values!r}; it is a share of the tokens, at most 1. Did you mean percent?")
    return found


def like_each_other(columns: Mapping[str, FloatArray]) -> list[FloatArray]:
    """The columns in the one shape they broadcast to.

    Raises:
        PredictionError: there is none.
    """
    try:
        return list(np.broadcast_arrays(*columns.values()))
    except ValueError as error:
        told = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise PredictionError(
            f"The shapes do not fit together: {told}. Give one number for all, or arrays that broadcast as in numpy."
        ) from error


def check_level(level: float) -> None:
    """Refuse a coverage that no interval can have.

    Raises:
        LawError: it is no number between 0 and 1.
    """
    if not is_positive(level) or level >= 1:
        raise LawError(f"level is {level!r}; it must lie between 0 and 1, such as 0.95 for a 95% interval.")


def _float(value: numbers.Real) -> float:
    """The number as a float, infinite where none holds it."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")
