"""Which rows of a table one fit may use: at the end of a run, of one method, each once, with numbers a run can have.

Reading tables is the business of `tables`; what is wrong with a design is said by the checks of a fit.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PointError, did_you_mean
from ..records import PHASES
from .arguments import SHARES
from .tables import NUMBERS, Column
from .terms import FloatArray

__all__ = ["choose_rows", "numbers_of"]

_POSITIVE = ("n_params", "unique_tokens", "mixture_ratio", "loss")


def choose_rows(
    table: Mapping[str, Column], where: Mapping[str, Any], notes: list[str]
) -> tuple[npt.NDArray[np.bool_], dict[str, FloatArray]]:
    """Which rows one fit may use, and their numbers; `notes` are told of every row that is not.

    Used are rows that match `where`, at the end of a run, with at least one token, of one method and domain.

    Raises:
        PointError: columns of different lengths, an unknown column or phase, a number no run can have, a repeated row,
            several methods or domains, or no row left.
    """
    lengths = {len(column) for column in table.values()}
    if len(lengths) != 1:
        told = ", ".join(f"{name} {len(column)}" for name, column in table.items())
        raise PointError(f"The columns differ in length ({told}). A table has one value per row and column.")
    keep = np.ones(lengths.pop(), dtype=bool)
    _check_where(table, where)
    for column, wanted in where.items():
        keep &= _matching(table, column, wanted)
    if where and not keep.all():
        notes.append(f"{_rows(~keep)} left out by where={dict(where)!r}.")
    keep = _end_of_run(table, keep, notes)
    numbers = numbers_of(table, keep)
    keep = _trained(numbers, keep, notes)
    _refuse_duplicates(table, keep)
    keep = _one_method(table, numbers, keep, notes)
    if not keep.any():
        raise PointError(f"No row is left to fit. {' '.join(notes) or 'The table is empty.'}")
    return keep, numbers


def numbers_of(table: Mapping[str, Column], keep: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """The numeric columns as floats; rows not kept are NaN and never looked at.

    Raises:
        PointError: a value that no run can have, with its row.
    """
    found = {}
    for name in NUMBERS:
        if name not in table:
            continue
        column = np.full(len(keep), np.nan)
        least = "positive" if name in _POSITIVE else "zero or more"
        most, bound = (1.0, "at most 1") if name in SHARES else (np.finfo(float).max, "finite")
        values = table[name][keep]
        if set(map(type, values)) <= {int, float} and _fits(values):
            column[keep] = values.astype(float)
            if np.all((column[keep] <= most) & (column[keep] > 0 if least == "positive" else column[keep] >= 0)):
                found[name] = column
                continue
        for row in np.flatnonzero(keep):
            value = table[name][row]
            size = _size(value)
            if not 0 <= size <= most or (size == 0 and least == "positive"):
                raise PointError(
                    f"Row {row + 1} has {name} {_told(value)}; it must be a number, {least} and {bound}. "
                    "Correct it, or leave the row out."
                )
            column[row] = size
        found[name] = column
    return found


def _size(value: Any) -> float:
    """The value of a real number, NaN of anything else: text, truth values, lists, nothing."""
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except ValueError:  # a Decimal that signals NaN
        return float("nan")


def _told(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fits(values: Column) -> bool:
    """Whether no whole number is too large for a float."""
    return all(type(value) is float or -(2**1000) < value < 2**1000 for value in values.tolist())


def _rows(which: npt.NDArray[np.bool_], kind: str = "") -> str:
    count = int(np.sum(which))
    return f"{count} {kind}row{'' if count == 1 else 's'}"


def _check_where(table: Mapping[str, Column], where: Mapping[str, Any]) -> None:
    for column in where:
        if column not in table:
            raise PointError(
                f"where names the column {column!r}, which is not there. {did_you_mean(str(column), table)}"
            )


def _matching(table: Mapping[str, Column], column: str, wanted: Any) -> npt.NDArray[np.bool_]:
    options = list(wanted) if isinstance(wanted, list | tuple | set) else [wanted]
    words = {str(option) for option in options}
    chosen = np.array([value in options or str(value) in words for value in table[column]], dtype=bool)
    if column == "method" and "base_tokens" in table:
        # The from-scratch rows are the yardstick of every method.
        chosen |= table["base_tokens"] == 0
    return chosen


def _end_of_run(table: Mapping[str, Column], keep: npt.NDArray[np.bool_], notes: list[str]) -> Any:
    if "phase" not in table:
        return keep
    phases = table["phase"]
    strange = set(phases[keep]) - {None, *PHASES}
    if strange:
        row = next(row for row in np.flatnonzero(keep) if phases[row] in strange)
        raise PointError(
            f"Row {row + 1} has phase {_told(phases[row])}, which is none of a learning rate, so whether the row "
            f"may join a fit is not known. {did_you_mean(phases[row].lower(), PHASES)} If nobody knows, leave it empty."
        )
    ended = np.array([phase in (None, "end") for phase in phases], dtype=bool)
    if np.any(keep & ~ended):
        notes.append(f"{_rows(keep & ~ended)} left out: measured before their run's learning rate had decayed.")
    return keep & ended


def _trained(columns: Mapping[str, FloatArray], keep: npt.NDArray[np.bool_], notes: list[str]) -> Any:
    untrained = keep & (columns["tokens"] == 0)
    if untrained.any():
        notes.append(f"{_rows(untrained)} left out: 0 tokens, a model before its second stage has no place here.")
    return keep & ~untrained


def _refuse_duplicates(table: Mapping[str, Column], keep: npt.NDArray[np.bool_]) -> None:
    if "run_id" not in table:
        return
    seen: dict[Any, int] = {}
    for row in np.flatnonzero(keep):
        if table["run_id"][row] is None:
            continue
        key = (table["run_id"][row], table["tokens"][row])
        if key in seen:
            raise PointError(
                f"Rows {seen[key] + 1} and {row + 1} are both run {key[0]!r} at {key[1]:,} tokens. "
                "Counting a measurement twice makes intervals too narrow; leave one out."
            )
        seen[key] = int(row)


def _one_method(
    table: Mapping[str, Column], columns: Mapping[str, FloatArray], keep: npt.NDArray[np.bool_], notes: list[str]
) -> Any:
    """Refuse several methods or domains at once; keep the from-scratch rows that are comparable."""
    if "base_tokens" not in columns:
        return keep
    scratch = keep & (columns["base_tokens"] == 0)
    based = keep & ~scratch
    for name in ("method", "domain"):
        found = sorted({str(value) for value in table[name][based] if value is not None}) if name in table else []
        if len(found) > 1:
            raise PointError(
                f"These points hold several {name}s: {', '.join(found)}. One law describes one of them; "
                f"choose with where={{{name!r}: {found[0]!r}}}."
            )
    if not based.any():
        return keep
    comparable = scratch.copy()
    for name in ("domain", "n_params"):
        column = table.get(name)
        if column is not None:
            beside = {value for value in column[based] if value is not None}
            comparable &= np.array([not beside or value is None or value in beside for value in column], dtype=bool)
    if np.any(scratch & ~comparable):
        notes.append(f"{_rows(scratch & ~comparable, 'from-scratch ')} left out: another domain or model size.")
    return based | comparable
