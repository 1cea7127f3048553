"""`hf-bootstrap fit`: points in, a law out."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .bars import announce
from .choosing import named_columns, wanted_rows
from .wording import in_options

__all__ = ["fit"]


def fit(
    points: Annotated[Path, typer.Argument(help="A points.jsonl, CSV or Parquet file.")],
    form: Annotated[
        str, typer.Option(help="One of docs/laws.md: bootstrap, total_tokens, chinchilla, ...")
    ] = "bootstrap",
    where: Annotated[list[str] | None, typer.Option(help="Use rows with this value, such as method=stack.")] = None,
    columns: Annotated[str, typer.Option(help="Our names = the table's, such as tokens=D2,loss=L.")] = "",
    n_params_are: Annotated[str | None, typer.Option(help="What n_params counts: non-embedding, total, ...")] = None,
    objective: Annotated[str, typer.Option(help="huber (robust) or lsq (least squares).")] = "huber",
    delta: Annotated[float, typer.Option(help="Where Huber's loss turns, in nats of log loss.")] = 1e-3,
    out: Annotated[Path | None, typer.Option(help="Folder for the law: law.json, points, card, figures.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the summary.")] = False,
) -> None:
    """Fit a scaling law to points and print what is known of it.

    Example: hf-bootstrap fit points.jsonl --where method=continue --out law
    """
    from ..laws.law import ScalingLaw

    law = ScalingLaw(form, objective=objective, delta=delta)
    announce("Fitting, and holding the result against laws without saturation: some seconds", quiet=quiet)
    law.fit(points, where=wanted_rows(where), columns=named_columns(columns), n_params_are=n_params_are)
    if out is not None:
        law.save_pretrained(out)
    if not as_json:
        typer.echo(in_options(law.summary()))
        if out is not None:
            typer.echo(f"Saved in {out}")
        return
    tested = law.fitted.form.name == "bootstrap" and law.params_["alpha3"] is not None
    record = {
        "form": law.fitted.form.name,
        "objective": law.objective,
        "delta": law.delta,
        "unit": law.loss_unit_,
        "params": law.params_,
        "stderr": law.stderr_,
        "intervals": law.intervals_,
        "error": law.fitted.error,
        "n_points": law.n_points_,
        "n_scratch": law.fitted.n_scratch,
        "unidentified": list(law.fitted.unidentified),
        "saturation": asdict(law.saturation_test().verdict) if tested else None,
        "warnings": list(law.checks_),
        "out": None if out is None else str(out),
    }
    typer.echo(json.dumps(record, indent=2))
