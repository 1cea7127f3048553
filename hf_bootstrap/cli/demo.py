"""`hf-bootstrap demo`: the main job on text found on this machine."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs, points, laws and the report.")] = Path("demo-out"),
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time, one thread each.")] = 2,
) -> None:
    """Train, continue and grow a tiny model, fit the law, and write a report; offline, about ten minutes.

    Everything is kept in the folder. Stopped and started again, it goes on where it was.

    Example: hf-bootstrap demo --out demo-out
    """
    from ..demo import run_demo

    report = run_demo(out, workers=workers, say=typer.echo)
    typer.echo(f"Report: {report}")
