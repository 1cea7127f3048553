"""The `hf-bootstrap` command: its verbs, and one place where errors become a sentence and an exit code."""

import sys
from typing import Annotated

import typer

from ..errors import BootstrapError
from .compare import compare
from .decide import decide
from .demo import demo
from .env import env
from .fit import fit
from .predict import predict

__all__ = ["app", "main"]

app = typer.Typer(
    help="Reuse a pretrained language model, and know what it is worth.",
    epilog="Example: hf-bootstrap demo --out demo-out",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _command in (demo, fit, compare, predict, decide, env):
    app.command()(_command)


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
    """Run a command; our errors end it with their message and code 1, Ctrl-C with code 130."""
    try:
        app()
    except BootstrapError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("Stopped. Run the same command again to go on where it was.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
