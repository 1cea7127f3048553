"""`hf-bootstrap demo`: the main job on text found on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs, points, laws and the report.")] = Path("demo-out"),
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time, one thread each.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the answer.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON at the end; progress goes to standard error.")
    ] = False,
) -> None:
    """Train, continue and grow a tiny model, fit the law, and write a report; offline, about ten minutes.

    Everything is kept in the folder. Stopped and started again, it goes on where it was.

    Example: hf-bootstrap demo --out demo-out
    """
    from ..demo import run_demo

    def say(sentence: str) -> None:
        if not quiet:
            typer.echo(sentence, err=as_json)

    report = run_demo(out, workers=workers, say=say)
    record = {"report": str(report), "points": str(out / "points")}
    typer.echo(json.dumps(record, indent=2) if as_json else f"Report: {report}")
