"""`hf-bootstrap publish`: a law, a grown checkpoint, points or a study goes to the Hub in one commit."""

import dataclasses
import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["SpaceKind", "publish"]


class SpaceKind(enum.StrEnum):
    """The kinds of Space a planner can be."""

    STATIC = "static"


def publish(
    path: Annotated[Path, typer.Argument(help="A law, a grown checkpoint, a points file, or a study.")],
    repo_id: Annotated[str, typer.Option(help="Where to: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made where it does not exist.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    points: Annotated[bool, typer.Option("--points/--no-points", help="Send a law's points with it.")] = True,
    space: Annotated[SpaceKind | None, typer.Option(help="Put a law's planner up as a Space instead.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Hub name of a model's base, or a law's.")] = None,
    base_tokens: Annotated[str | None, typer.Option(help="Tokens behind that base.")] = None,
    law: Annotated[str | None, typer.Option(help="A law, here or user/name: its forecast for a model's card.")] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="For the card: apache-2.0, ...")] = None,
    datasets: Annotated[list[str] | None, typer.Option(help="For the card: what it was measured on.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Compare a law's form with others on its points.")
    ] = True,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a busy Hub, in all.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: url, commit, changed.")] = False,
) -> None:
    """Publish on the Hub, in one commit, with a card. Log in first: hf auth login.

    Example: hf-bootstrap publish law --repo-id me/code-law --license apache-2.0
    """
    from ..publish import publish as send
    from ..units import parse_quantity

    metadata: dict[str, Any] = {"license": license_name, "datasets": datasets or None}
    done = send(
        path,
        repo_id,
        private=True if private else None,
        revision=revision,
        create_pr=create_pr,
        points=points,
        compare=compare,
        space=space is not None,
        base_model=base_model,
        base_tokens=None if base_tokens is None else parse_quantity(base_tokens, "base_tokens"),
        law=law,
        metadata={name: value for name, value in metadata.items() if value is not None},
        patience=patience,
        say=lambda sentence: typer.echo(sentence, err=True),
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done), indent=2))
        return
    typer.echo(f"{'Published' if done.changed else 'Nothing to do, it is there already'}: {done.url}")
