"""The `hf-bootstrap` command: its verbs, and one place where errors become a sentence and an exit code."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..errors import BootstrapError
from . import study
from .compare import compare
from .decide import decide
from .demo import demo
from .env import env
from .fit import fit
from .grow import grow
from .plan import plan
from .predict import predict
from .publish import publish
from .pull import pull
from .run import run
from .verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    help="Reuse a pretrained language model, and know what it is worth.",
    epilog="Example: hf-bootstrap demo --out demo-out",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """A command that says how to go on when it is stopped; typer would end it without a word."""

    @functools.wraps(command)
    def stoppable(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stopped:
            typer.secho(str(stopped) or "Stopped. Run the same command again to go on where it was.", err=True)
            raise typer.Exit(130) from stopped

    return stoppable


_study = typer.Typer(help="Many runs from one file: plan, run, watch, report.", no_args_is_help=True)
for _part in (study.plan, study.run, study.status, study.report, study.points, study.emit):
    _study.command()(_stoppable(_part))
app.add_typer(_study, name="study")

for _command in (plan, demo, grow, verify, run, fit, compare, predict, decide, publish, pull, env):
    # The example stands where a reader's eye ends, below the options.
    _about, _, _example = inspect.cleandoc(_command.__doc__ or "").partition("Example: ")
    app.command(help=_about, epilog=f"Example: {_example}" if _example else None)(_stoppable(_command))


def _show_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"hf-bootstrap {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Reuse a pretrained language model, and know what it is worth."""


def main() -> None:
    """Run a command; our errors end it with their message and code 1."""
    try:
        app()
    except BootstrapError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
