"""`hf-bootstrap pull`: a repository comes down as a folder, whole or not at all."""

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["RepositoryKind", "pull"]


class RepositoryKind(enum.StrEnum):
    """Kinds of repository: laws and models are models, points are datasets."""

    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"


def pull(
    repo_id: Annotated[str, typer.Argument(help="What to fetch: user/name.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; named after the repository by default.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag, commit or refs/pr/N.")] = None,
    kind: Annotated[RepositoryKind, typer.Option(help="Laws and models, or points.")] = RepositoryKind.MODEL,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a busy Hub, in all.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch a law, a model or points from the Hub into a folder, every file checked.

    Example: hf-bootstrap pull me/code-law --out law
    """
    from ..hub.pull import pull_folder

    folder = pull_folder(
        repo_id,
        Path(repo_id.rpartition("/")[2]) if out is None else out,
        kind=kind.value,
        revision=revision,
        patience=patience,
        say=lambda sentence: typer.echo(sentence, err=True),
    )
    typer.echo(json.dumps({"folder": str(folder)}, indent=2) if as_json else f"Fetched into {folder}")
