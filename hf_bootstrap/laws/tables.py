"""Tables of points as they come: from records, files, mappings and DataFrames, under our column names, unjudged.

Which rows a law may see, and what a number must be, is decided in `rows`.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PointError, StoreError, did_you_mean
from ..records import ScalingPoint
from ..store import read_points
from ..units import LossUnit

__all__ = ["BITS", "LABELS", "NUMBERS", "Column", "Table", "load_table"]

Column = npt.NDArray[np.object_]

NUMBERS = ("base_tokens", "tokens", "n_params", "unique_tokens", "mixture_ratio", "loss")
LABELS = (
    "run_id", "parent_run_id", "base_run_id", "base_checkpoint_id", "base_decayed", "phase", "method", "domain", "seed",
    "peak_lr",
)  # fmt: skip
BITS = "bits_per_byte"  # the one column of losses that are not in nats per token
_NOT_RECORDED = ("n_params", "unique_tokens", "mixture_ratio")  # by a `ScalingPoint`, under these names


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Columns of Python values, of any length and content.

    Attributes:
        columns: name -> values; our own names where a mapping gave them.
        records: the `ScalingPoint` behind each row, when the rows came as such.
        notes: what was left out while reading.
        n_params_are: what `n_params` counts, where the source says so.
        loss_unit: of the column `loss`.
    """

    columns: Mapping[str, Column]
    records: tuple[ScalingPoint, ...] | None = None
    notes: tuple[str, ...] = ()
    n_params_are: str | None = None
    loss_unit: LossUnit = LossUnit.NATS


def load_table(data: Any, names: Mapping[str, str]) -> Table:
    """Whatever holds points, as a table with the columns a law needs.

    Args:
        data: a sequence of `ScalingPoint`, a path, a mapping of columns, or a DataFrame.
        names: our name -> the name in the data.

    Raises:
        PointError: nothing that holds points, a broken line, a column that is missing or is none.
        StoreError: a file that cannot be read.
    """
    table = _load(data, names)
    if names.get("loss") != BITS:  # of several tokenizers, losses per token do not compare
        return table
    note = f"The loss is {BITS}: every loss of this law, and its floor, is in bits per UTF-8 byte."
    return replace(table, notes=(*table.notes, note), loss_unit=LossUnit.BITS)


def _load(data: Any, names: Mapping[str, str]) -> Table:
    if isinstance(data, str | Path):
        return _from_file(Path(data), names)
    if isinstance(data, Mapping):
        found = {str(name): _column(values, str(name)) for name, values in data.items()}
        return Table(columns=_labelled(_renamed(found, names)))
    if hasattr(data, "columns") and hasattr(data, "to_dict"):
        _refuse_twice([str(name) for name in data.columns], "The DataFrame")
        found = {str(name): _column(data[name], str(name)) for name in data.columns}
        return Table(columns=_labelled(_renamed(found, names)))
    if isinstance(data, Iterable):
        records = tuple(data)
        if all(isinstance(point, ScalingPoint) for point in records):
            return _from_records(records, names)
    raise PointError(
        f"Points cannot be read from a {type(data).__name__}. Give a list of ScalingPoint, a path to points.jsonl "
        "or a CSV file, a mapping of columns, or a DataFrame."
    )


def _from_file(path: Path, names: Mapping[str, str]) -> Table:
    if path.suffix in (".jsonl", ".json"):
        points, notes = _read_jsonl(path)
        return _from_records(tuple(points), names, notes)
    if path.suffix == ".parquet":
        return Table(columns=_labelled(_renamed(_read_parquet(path), names)))
    # A cell is a number or a name by the column it stands in: an id "007" is not 7.
    found = _renamed(_read_csv(path), names)
    return Table(columns=_labelled({n: c if n in LABELS else _filled(map(_cell, c)) for n, c in found.items()}))


def _column(values: Any, name: str) -> Column:
    single = isinstance(values, str | bytes) or (isinstance(values, np.ndarray) and values.ndim == 0)
    if single or not isinstance(values, Iterable):
        raise PointError(f"The column {name!r} is {values!r}, not a list of values. Give one value for each row.")
    return _filled(values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else list(values))


def _filled(values: Iterable[Any]) -> Column:
    items = list(values)
    kinds = set(map(type, items))
    if any(issubclass(kind, np.generic) for kind in kinds):
        items = [item.item() if isinstance(item, np.generic) else item for item in items]
    column = np.empty(len(items), dtype=object)
    if any(issubclass(kind, Sequence | np.ndarray) and not issubclass(kind, str | bytes) for kind in kinds):
        for row, item in enumerate(items):  # numpy would unpack them
            column[row] = item
    else:
        column[:] = items
    return column


def _from_records(points: tuple[ScalingPoint, ...], names: Mapping[str, str], notes: Sequence[str] = ()) -> Table:
    known = [name for name in (*NUMBERS, *LABELS) if name not in _NOT_RECORDED]
    table = {name: _filled(getattr(point, name) for point in points) for name in known}
    sizes = _filled(point.n_params_non_embedding for point in points)
    counted = None
    if len(sizes) and not any(size is None for size in sizes):
        table["n_params"] = sizes
        counted = None if "n_params" in names else "non-embedding parameters"
    records: tuple[ScalingPoint, ...] | None = points
    if names.get("loss") == BITS:
        table[BITS] = _filled(point.bits_per_byte for point in points)
        records = None  # whose own loss is another one
    return Table(columns=_labelled(_renamed(table, names)), records=records, notes=tuple(notes), n_params_are=counted)


def _read_jsonl(path: Path) -> tuple[list[ScalingPoint], list[str]]:
    read = read_points(path)
    notes = []
    for number, why in read.problems:
        if number not in read.harmless:
            raise PointError(f"{path} line {number}: {why} Correct or remove that line.")
        notes.append(f"1 row left out: line {number} of {path.name}: {why}")
    return read.points, notes


def _read_parquet(path: Path) -> dict[str, Column]:
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
    _refuse_twice(table.column_names, str(path))
    return {name: _filled(table[name].to_pylist()) for name in table.column_names}


def _read_csv(path: Path) -> dict[str, Column]:
    """Every cell as text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # with or without the mark that Excel puts first
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} cannot be read: {error}. Give a points.jsonl or a CSV file in UTF-8.") from error
    if not rows:
        raise PointError(f"{path} is empty. A table begins with a line of column names.")
    header, *body = rows
    names = [name.strip() for name in header]
    _refuse_twice(names, str(path))
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise PointError(
                f"{path} row {number} has {len(row)} cells, but there are {len(header)} column names. Correct it."
            )
    return {name: _filled(row[i] for row in body) for i, name in enumerate(names)}


def _refuse_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PointError(f"{what} has {names.count(name)} columns named {name!r}. Rename or remove all but one.")


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


def _renamed(table: dict[str, Column], columns: Mapping[str, str]) -> dict[str, Column]:
    for ours, theirs in columns.items():
        if ours not in (*NUMBERS, *LABELS):
            raise PointError(f"There is no column {ours!r} here. {did_you_mean(str(ours), (*NUMBERS, *LABELS))}")
        if theirs not in table:
            raise PointError(f"The table has no column {theirs!r} to use as {ours}. {did_you_mean(str(theirs), table)}")
        table = {**table, ours: table[theirs]}
    for needed in ("tokens", "loss"):
        if needed not in table:
            raise PointError(
                f"The table has no column {needed!r}. It has: {', '.join(table) or 'none'}. "
                f"Name it with columns={{{needed!r}: 'its name'}}."
            )
    return table


def _labelled(table: dict[str, Column]) -> dict[str, Column]:
    """Ids are text wherever they came from, so that a table and its copy on disk agree; empty ones are None."""
    return {**table, **{name: _filled(map(_label, table[name])) for name in LABELS if name in table}}


def _label(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    try:
        unknown = value is None or bool(value != value)
    except TypeError:  # pandas' own "not known"
        unknown = True
    except ValueError:  # an array
        unknown = False
    return None if unknown else str(value)
