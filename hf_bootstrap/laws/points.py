"""Points as columns of numbers and ids, ready for one fit, with what was left out and why.

Reading them is the business of `tables`, choosing rows that of `rows`; fitting and judging them that of others.
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import PointError
from ..records import ScalingPoint
from ..units import LossUnit
from .rows import choose_rows
from .tables import BITS, LABELS, NUMBERS, Column, load_table
from .terms import FloatArray, Form

__all__ = ["Points"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """The rows a law may see, as columns of equal length.

    A column that was not given is None. `base_tokens` (D1) and `tokens` (D2) are raw counts, `n_params` (N)
    is the non-embedding count where it came from a `ScalingPoint`, `unique_tokens` (U) are those of one epoch,
    `mixture_ratio` (r) is the share of the measured domain in the training tokens, `loss` is in `loss_unit`.

    Attributes:
        left_out: one sentence for each kind of row that was not used, with how many.
        records: the `ScalingPoint` behind each row, when the rows came as such.
        n_params_are: what `n_params` counts, in words; None where nobody said.
        loss_unit: nats per token, unless the loss was read from a column `bits_per_byte`.
    """

    tokens: FloatArray
    loss: FloatArray
    base_tokens: FloatArray | None = None
    n_params: FloatArray | None = None
    unique_tokens: FloatArray | None = None
    mixture_ratio: FloatArray | None = None
    run_id: Column | None = None
    parent_run_id: Column | None = None
    base_run_id: Column | None = None
    base_checkpoint_id: Column | None = None
    base_decayed: Column | None = None
    phase: Column | None = None
    method: Column | None = None
    domain: Column | None = None
    seed: Column | None = None
    peak_lr: Column | None = None
    left_out: tuple[str, ...] = ()
    records: tuple[ScalingPoint, ...] | None = None
    n_params_are: str | None = None
    loss_unit: LossUnit = LossUnit.NATS

    @classmethod
    def read(
        cls,
        data: Any,
        *,
        where: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        n_params_are: str | None = None,
    ) -> Self:
        """Points from whatever holds them, ready for one fit.

        Used are rows at the end of a run (`phase` "end", where known), with at least one token, that match
        `where`. Rows with base_tokens 0 are from scratch: they stay beside any method, if they share its
        domain and model size.

        Args:
            data: `Points`, a sequence of `ScalingPoint`, the path of a ``.jsonl`` points file or of a CSV or
                Parquet file, a mapping of columns, or a DataFrame.
            where: column -> the value (or a list of values) a row must have, such as ``{"method": "continue"}``.
            columns: our name -> the name in the table, such as ``{"tokens": "D2"}``. ``{"loss": "bits_per_byte"}``
                also says the unit of every loss of the law.
            n_params_are: what `n_params` counts, such as "non-embedding parameters"; known of a `ScalingPoint`.

        Raises:
            PointError: a loss or a count no law can use (with its row), a repeated row, a broken line, an unknown
                column, several methods or domains, or no row left.
        """
        for given, what in ((where, "where={'method': 'stack'}"), (columns, "columns={'tokens': 'D2'}")):
            if given is not None and not isinstance(given, Mapping):
                raise PointError(f"{given!r} is not a mapping from our names. Give it in the manner of {what}.")
        if isinstance(data, Points):
            source = replace(
                load_table(data._table(), columns or {}),
                records=data.records,
                notes=data.left_out,
                n_params_are=data.n_params_are,
                loss_unit=data.loss_unit,
            )
        else:
            source = load_table(data, columns or {})
        notes = list(source.notes)
        keep, numbers = choose_rows(source.columns, where or {}, notes)
        labels = {name: source.columns[name][keep] for name in LABELS if name in source.columns}
        found: dict[str, Any] = {name: column[keep] for name, column in numbers.items()}
        found |= {name: column for name, column in labels.items() if any(value is not None for value in column)}
        records = source.records
        return cls(
            **found,
            left_out=tuple(notes),
            records=None if records is None else tuple(p for p, kept in zip(records, keep, strict=True) if kept),
            n_params_are=n_params_are or source.n_params_are,
            loss_unit=source.loss_unit,
        )

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def from_scratch(self) -> npt.NDArray[np.bool_]:
        """Which rows have no first stage; none where base_tokens is not known."""
        return np.zeros(len(self), dtype=bool) if self.base_tokens is None else self.base_tokens == 0

    def take(self, keep: npt.NDArray[np.bool_], reason: str | None = None) -> Self:
        """Some of the rows; `reason` is noted in `left_out`."""
        columns = {n: c[keep] for n in (*NUMBERS, *LABELS) if (c := getattr(self, n)) is not None}
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
                    f"Name it with columns={{{name!r}: 'its name'}}, or choose another form with form=."
                )
            with np.errstate(divide="ignore"):
                found[name] = np.log(column)
        return found

    def digest(self) -> str:
        """SHA-256 of the numbers and ids a fit depends on, row by row."""
        lines = [f"{name}={value!r}" for name, column in self._table().items() for value in column.tolist()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_csv(self) -> str:
        """The rows as CSV text under our names (a loss in bits per byte under that), numbers in full precision."""
        in_bits = self.loss_unit is LossUnit.BITS
        table = {BITS if in_bits and name == "loss" else name: column for name, column in self._table().items()}
        file = io.StringIO()
        # Text is quoted whatever it holds: a bare carriage return in a name would end the row.
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
        return file.getvalue()

    def _table(self) -> dict[str, Column]:
        present = {name: getattr(self, name) for name in (*NUMBERS, *LABELS)}
        return {name: column.astype(object) for name, column in present.items() if column is not None}
