"""Points as columns: read from records, files, tables or arrays, checked, with what was left out and why.

Fitting and judging them is left to the other modules of this room.
"""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import PointError, StoreError, did_you_mean
from ..records import ScalingPoint
from ..store import read_points
from .terms import FloatArray, Form

__all__ = ["Points"]

_Column = npt.NDArray[np.object_]

_NUMBERS = ("base_tokens", "tokens", "n_params", "unique_tokens", "mixture_ratio", "loss")
_POSITIVE = ("n_params", "unique_tokens", "mixture_ratio", "loss")
_NOT_RECORDED = ("n_params", "unique_tokens", "mixture_ratio")  # by a `ScalingPoint`, under these names
_LABELS = (
    "run_id", "parent_run_id", "base_run_id", "base_checkpoint_id", "base_decayed", "phase", "method", "domain", "seed",
    "peak_lr",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """The rows a law may see, as columns of equal length.

    A column that was not given is None. `base_tokens` (D1) and `tokens` (D2) are raw counts, `n_params` (N)
    is the non-embedding count where it came from a `ScalingPoint`, `unique_tokens` (U) are those of one epoch,
    `mixture_ratio` (r) is the share of the measured domain in the training tokens, `loss` is nats per token.

    Attributes:
        left_out: one sentence for each kind of row that was not used, with how many.
        records: the `ScalingPoint` behind each row, when the rows came as such.
    """

    tokens: FloatArray
    loss: FloatArray
    base_tokens: FloatArray | None = None
    n_params: FloatArray | None = None
    unique_tokens: FloatArray | None = None
    mixture_ratio: FloatArray | None = None
    run_id: _Column | None = None
    parent_run_id: _Column | None = None
    base_run_id: _Column | None = None
    base_checkpoint_id: _Column | None = None
    base_decayed: _Column | None = None
    phase: _Column | None = None
    method: _Column | None = None
    domain: _Column | None = None
    seed: _Column | None = None
    peak_lr: _Column | None = None
    left_out: tuple[str, ...] = ()
    records: tuple[ScalingPoint, ...] | None = None

    @classmethod
    def read(
        cls, data: Any, *, where: Mapping[str, Any] | None = None, columns: Mapping[str, str] | None = None
    ) -> Self:
        """Points from whatever holds them, ready for one fit.

        Used are rows at the end of a run (`phase` "end", where known), with at least one token, that match
        `where`. Rows with base_tokens 0 are from scratch: they stay beside any method, if they share its
        domain and model size.

        Args:
            data: `Points`, a sequence of `ScalingPoint`, the path of a ``.jsonl`` points file or of a CSV or
                Parquet file, a mapping of columns, or a DataFrame.
            where: column -> the value (or a list of values) a row must have, such as ``{"method": "continue"}``.
            columns: our name -> the name in the table, such as ``{"tokens": "D2"}``.

        Raises:
            PointError: a loss or a count no law can use (with its row), a repeated row, a broken line, an unknown
                column, several methods or domains, or no row left.
        """
        if isinstance(data, Points):
            table, records = data._table(), data.records
            notes = list(data.left_out)
        else:
            table, records, notes = _load(data)
        table = _label_text(_rename(table, columns or {}))
        rows = {len(column) for column in table.values()}
        if len(rows) != 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in table.items())
            raise PointError(f"The columns differ in length ({lengths}). A table has one value per row and column.")
        keep = np.ones(rows.pop(), dtype=bool)
        _check_where(table, where or {})
        for column, wanted in (where or {}).items():
            keep &= _matching(table, column, wanted)
        if where and not keep.all():
            notes.append(f"{_rows(~keep)} left out by where={dict(where)!r}.")
        keep = _end_of_run(table, keep, notes)
        columns_checked = _numbers(table, keep)
        keep = _trained(columns_checked, keep, notes)
        _refuse_duplicates(table, keep)
        keep = _one_method(table, columns_checked, keep, notes)
        if not keep.any():
            raise PointError(f"No row is left to fit. {' '.join(notes) or 'The table is empty.'}")
        labels = {name: table[name][keep] for name in _LABELS if name in table}
        return cls(
            **{name: column[keep] for name, column in columns_checked.items()},
            **{name: column for name, column in labels.items() if any(value is not None for value in column)},
            left_out=tuple(notes),
            records=None if records is None else tuple(p for p, kept in zip(records, keep, strict=True) if kept),
        )

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def from_scratch(self) -> npt.NDArray[np.bool_]:
        """Which rows have no first stage; none where base_tokens is not known."""
        return np.zeros(len(self), dtype=bool) if self.base_tokens is None else self.base_tokens == 0

    def take(self, keep: npt.NDArray[np.bool_], reason: str | None = None) -> Self:
        """Some of the rows; `reason` is noted in `left_out`."""
        columns = {n: c[keep] for n in (*_NUMBERS, *_LABELS) if (c := getattr(self, n)) is not None}
        records = self.records and tuple(p for p, kept in zip(self.records, keep, strict=True) if kept)
        notes = self.left_out if reason is None else (*self.left_out, reason)
        return replace(self, **columns, records=records, left_out=notes)

    def logs(self, form: Form) -> dict[str, FloatArray]:
        """The ln of each column `form` reads; -inf where base_tokens is 0.

        Raises:
            PointError: a column is missing.
        """
        found = {}
        for name in form.columns:
            column = getattr(self, name)
            if column is None:
                raise PointError(
                    f"The form {form.name!r} needs the column {name}, which these points lack. "
                    f"Name it with columns={{{name!r}: 'its name'}}, or choose another form."
                )
            with np.errstate(divide="ignore"):
                found[name] = np.log(column)
        return found

    def digest(self) -> str:
        """SHA-256 of the numbers and ids a fit depends on, row by row."""
        lines = [f"{name}={value!r}" for name, column in self._table().items() for value in column.tolist()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_csv(self) -> str:
        """The rows as CSV text under our names, numbers in full precision."""
        table = self._table()
        lines = [",".join(table)]
        for row in zip(*table.values(), strict=True):
            cells = ("" if value is None else str(value) for value in row)
            lines.append(",".join(f'"{c}"' if "," in c or '"' in c else c for c in cells))
        return "\n".join(lines) + "\n"

    def _table(self) -> dict[str, _Column]:
        present = {name: getattr(self, name) for name in (*_NUMBERS, *_LABELS)}
        return {name: column.astype(object) for name, column in present.items() if column is not None}


def _load(data: Any) -> tuple[dict[str, _Column], tuple[ScalingPoint, ...] | None, list[str]]:
    if isinstance(data, str | Path):
        path = Path(data)
        if path.suffix in (".jsonl", ".json"):
            points, notes = _read_jsonl(path)
            return _from_records(points), tuple(points), notes
        return (_read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)), None, []
    if isinstance(data, Mapping):
        return {str(name): _column(values) for name, values in data.items()}, None, []
    if hasattr(data, "columns") and hasattr(data, "to_dict"):
        return {str(name): _column(data[name]) for name in data.columns}, None, []
    if isinstance(data, Iterable):
        records = tuple(data)
        if all(isinstance(point, ScalingPoint) for point in records):
            return _from_records(records), records, []
    raise PointError(
        f"Points cannot be read from a {type(data).__name__}. Give a list of ScalingPoint, a path to points.jsonl "
        "or a CSV file, a mapping of columns, or a DataFrame."
    )


def _column(values: Any) -> _Column:
    items = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else list(values)
    column = np.empty(len(items), dtype=object)
    column[:] = [item.item() if isinstance(item, np.generic) else item for item in items]
    return column


def _from_records(points: Sequence[ScalingPoint]) -> dict[str, _Column]:
    names = [name for name in (*_NUMBERS, *_LABELS) if name not in _NOT_RECORDED]
    table = {name: _column(getattr(point, name) for point in points) for name in names}
    sizes = _column(point.n_params_non_embedding for point in points)
    return table if any(size is None for size in sizes) else {**table, "n_params": sizes}


def _read_jsonl(path: Path) -> tuple[list[ScalingPoint], list[str]]:
    read = read_points(path)
    notes = []
    for number, why in read.problems:
        if number not in read.harmless:
            raise PointError(f"{path} line {number}: {why}")
        notes.append(f"1 row left out: line {number} of {path.name}: {why}")
    return read.points, notes


def _read_parquet(path: Path) -> dict[str, _Column]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise PointError(
            f"{path} is a Parquet file, and pyarrow, which reads it, is not installed: pip install pyarrow."
        ) from error
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read as Parquet: {error}. Write it again, or give a CSV file.") from error
    return {name: _column(table[name].to_pylist()) for name in table.column_names}


def _read_csv(path: Path) -> dict[str, _Column]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} cannot be read: {error}. Give a points.jsonl or a CSV file in UTF-8.") from error
    if not rows:
        raise PointError(f"{path} is empty. A table begins with a line of column names.")
    header, *body = rows
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise PointError(f"{path} row {number} has {len(row)} cells, but there are {len(header)} column names.")
    return {name.strip(): _column(_cell(row[i]) for row in body) for i, name in enumerate(header)}


def _cell(text: str) -> Any:
    text = text.strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _rename(table: dict[str, _Column], columns: Mapping[str, str]) -> dict[str, _Column]:
    for ours, theirs in columns.items():
        if ours not in (*_NUMBERS, *_LABELS):
            raise PointError(f"There is no column {ours!r} here. {did_you_mean(ours, (*_NUMBERS, *_LABELS))}")
        if theirs not in table:
            raise PointError(f"The table has no column {theirs!r} to use as {ours}. {did_you_mean(theirs, table)}")
        table = {**table, ours: table[theirs]}
    for needed in ("tokens", "loss"):
        if needed not in table:
            raise PointError(
                f"The table has no column {needed!r}. It has: {', '.join(table) or 'none'}. "
                f"Name it with columns={{{needed!r}: 'its name'}}."
            )
    return table


def _rows(which: npt.NDArray[np.bool_], kind: str = "") -> str:
    count = int(np.sum(which))
    return f"{count} {kind}row{'' if count == 1 else 's'}"


def _label_text(table: dict[str, _Column]) -> dict[str, _Column]:
    """Ids are text wherever they came from, so that a table and its copy on disk agree; empty ones are None."""
    text = {}
    for name in _LABELS:
        if name in table and not (set(map(type, table[name])) <= {str, type(None)} and "" not in set(table[name])):
            text[name] = _column(None if v is None or v != v or v == "" else str(v) for v in table[name])
    return {**table, **text}


def _check_where(table: Mapping[str, _Column], where: Mapping[str, Any]) -> None:
    for column in where:
        if column not in table:
            raise PointError(f"where names the column {column!r}, which is not there. {did_you_mean(column, table)}")


def _matching(table: Mapping[str, _Column], column: str, wanted: Any) -> npt.NDArray[np.bool_]:
    options = list(wanted) if isinstance(wanted, list | tuple | set) else [wanted]
    words = {str(option) for option in options}
    chosen = np.array([value in options or str(value) in words for value in table[column]], dtype=bool)
    if column == "method" and "base_tokens" in table:
        # The from-scratch rows are the yardstick of every method.
        chosen |= table["base_tokens"] == 0
    return chosen


def _end_of_run(table: Mapping[str, _Column], keep: npt.NDArray[np.bool_], notes: list[str]) -> Any:
    if "phase" not in table:
        return keep
    ended = np.array([phase in (None, "end") for phase in table["phase"]], dtype=bool)
    if np.any(keep & ~ended):
        notes.append(f"{_rows(keep & ~ended)} left out: measured before their run's learning rate had decayed.")
    return keep & ended


def _numbers(table: Mapping[str, _Column], keep: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """The numeric columns as floats; rows not kept are NaN and never looked at."""
    found = {}
    for name in _NUMBERS:
        if name not in table:
            continue
        column = np.full(len(keep), np.nan)
        least = "positive" if name in _POSITIVE else "zero or more"
        values = table[name][keep]
        if set(map(type, values)) <= {int, float} and _fits(values):
            column[keep] = values.astype(float)
            if np.all(np.isfinite(column[keep]) & (column[keep] > 0 if least == "positive" else column[keep] >= 0)):
                found[name] = column
                continue
        for row in np.flatnonzero(keep):
            value = table[name][row]
            real = isinstance(value, int | float) and not isinstance(value, bool)
            if not real or not np.isfinite(value) or value < 0 or (value == 0 and least == "positive"):
                raise PointError(
                    f"Row {row + 1} has {name} {value!r}; it must be a number, {least} and finite. "
                    "Correct it, or leave the row out."
                )
            column[row] = value
        found[name] = column
    return found


def _fits(values: _Column) -> bool:
    """Whether no whole number is too large for a float."""
    return all(type(value) is float or -(2**1000) < value < 2**1000 for value in values.tolist())


def _trained(columns: Mapping[str, FloatArray], keep: npt.NDArray[np.bool_], notes: list[str]) -> Any:
    untrained = keep & (columns["tokens"] == 0)
    if untrained.any():
        notes.append(f"{_rows(untrained)} left out: 0 tokens, a model before its second stage has no place here.")
    return keep & ~untrained


def _refuse_duplicates(table: Mapping[str, _Column], keep: npt.NDArray[np.bool_]) -> None:
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
    table: Mapping[str, _Column], columns: Mapping[str, FloatArray], keep: npt.NDArray[np.bool_], notes: list[str]
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
