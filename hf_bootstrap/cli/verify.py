"""`hf-bootstrap verify`: is a grown checkpoint what its growth promised?"""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["verify"]


def verify(
    source: Annotated[Path, typer.Argument(help="Folder of the model before growth.")],
    grown: Annotated[Path, typer.Argument(help="Folder of the model after growth.")],
    text: Annotated[Path | None, typer.Option(help="Text to compare the loss on; default: random tokens.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a grown checkpoint with its source: files, weights, and, where both fit in memory, what they compute.

    Example: hf-bootstrap verify base grown --text sample.txt
    """
    from ..growth.verify_files import verify_checkpoint

    report = verify_checkpoint(source, grown, None if text is None else _tokens(source, text))
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))


def _tokens(source: Path, text: Path) -> list[int]:
    from transformers import AutoTokenizer

    from ..errors import GrowthError, StoreError

    try:
        words = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{text} cannot be read: {error}. Give a UTF-8 text file.") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except Exception as error:  # a tokenizer's files may be wrong in any way they like
        raise GrowthError(f"{source} has no tokenizer that reads text: {error}. Leave --text out.") from error
    # One window: what a report needs is a number for the drift, and attention takes the square of the length.
    return list(tokenizer(words)["input_ids"])[:512]
