"""`hf-bootstrap compare`: which forms of law these points speak for."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .bars import announce
from .choosing import named_columns, wanted_rows
from .wording import in_options

__all__ = ["compare"]


def compare(
    points: Annotated[Path, typer.Argument(help="A points.jsonl, CSV or Parquet file.")],
    forms: Annotated[str, typer.Option(help="Names with commas between; by default those the columns allow.")] = "",
    where: Annotated[list[str] | None, typer.Option(help="Use rows with this value, such as method=stack.")] = None,
    columns: Annotated[str, typer.Option(help="Our names = the table's, such as tokens=D2,loss=L.")] = "",
    n_params_are: Annotated[str | None, typer.Option(help="What n_params counts: non-embedding, total, ...")] = None,
    objective: Annotated[str, typer.Option(help="huber (robust) or lsq (least squares).")] = "huber",
    delta: Annotated[float, typer.Option(help="Where Huber's loss turns, in nats of log loss.")] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not say what takes a while.")] = False,
) -> None:
    """Fit several forms to the same points and hold out rows and bases to see which one predicts.

    Example: hf-bootstrap compare points.jsonl --where method=continue
    """
    from ..laws.evidence import compare_forms

    announce(
        "Fitting each form, and again without every row and base: seconds for dozens of rows, minutes for hundreds",
        quiet=quiet,
    )
    found = compare_forms(
        points,
        [name.strip() for name in forms.split(",") if name.strip()] or None,
        where=wanted_rows(where),
        columns=named_columns(columns),
        n_params_are=n_params_are,
        objective=objective,
        delta=delta,
    )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else in_options(str(found)))
