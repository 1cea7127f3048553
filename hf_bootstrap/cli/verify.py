"""`hf-bootstrap verify`: is a grown checkpoint what its growth promised?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from .bars import announce
from .loading import loading_for_good

__all__ = ["verify"]


def verify(
    source: Annotated[Path, typer.Argument(help="Folder of the model before growth.")],
    grown: Annotated[Path, typer.Argument(help="Folder of the model after growth.")],
    text: Annotated[Path | None, typer.Option(help="Text to compare on; default: a built-in one.")] = None,
    gradients: Annotated[bool, typer.Option(help="See which tensors a backward pass reaches.")] = True,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read .bin weights, guarded.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Print a block of Markdown for the card.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a grown checkpoint with its source: weights, logits, loss, gradients; in the memory of one layer.

    The exit code is 1 when a promise of the method was not kept.

    Example: hf-bootstrap verify base grown --text sample.txt
    """
    with loading_for_good():
        from ..growth.verify_files import verify_checkpoint

    announce("Reading both checkpoints, and running one layer at a time: seconds for small models, minutes for large")
    probe = None if text is None else _read(text)
    report = verify_checkpoint(source, grown, probe, gradients=gradients, allow_pickle=allow_pickle)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        typer.echo(report.to_card() if card else str(report))


def _read(text: Path) -> str:
    from ..errors import StoreError

    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{text} cannot be read: {error}. Give a UTF-8 text file.") from error
