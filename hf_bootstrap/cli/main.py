"""The `hf-bootstrap` command: its verbs, and one place where errors become a sentence and an exit code."""

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

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
from .wording import in_options

__all__ = ["app", "main"]

_EXIT_CODES = "Exit codes: 0 done, 1 failed (the message says why), 2 wrong command line, 3 does not fit, 130 Ctrl-C."

app = typer.Typer(
    help="Reuse a pretrained language model, and know what it is worth.",
    epilog=f"{_EXIT_CODES}\n\nExample: hf-bootstrap demo --out demo-out",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

# The panels of the help, in the order in which somebody comes to need them.
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Decide": (plan, predict, decide),
    "Grow and train": (grow, verify, run),
    "Fit laws": (fit, compare),
    "Many runs": (demo,),
    "Share": (publish, pull),
    "Help": (env,),
}
# What these do takes long, and libraries below show bars of their own meanwhile.
_SHOW_PROGRESS = (grow, publish, pull)
_QUIET = typer.Option("--quiet", help="No progress, only the answer.")


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """A command that says how to go on when it is stopped; typer would end it without a word."""

    @functools.wraps(command)
    def stoppable(*args: Any, **kwargs: Any) -> None:
        if added and kwargs.pop("quiet"):
            _silence_bars()
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stopped:
            typer.secho(str(stopped) or "Stopped. Run the same command again to go on where it was.", err=True)
            raise typer.Exit(130) from stopped

    signature = inspect.signature(command)
    added = command in _SHOW_PROGRESS and "quiet" not in signature.parameters
    if added:
        kind = inspect.Parameter.KEYWORD_ONLY
        quiet = inspect.Parameter("quiet", kind, default=False, annotation=Annotated[bool, _QUIET])
        stoppable.__signature__ = signature.replace(parameters=[*signature.parameters.values(), quiet])  # type: ignore[attr-defined]
        stoppable.__annotations__ = {**command.__annotations__, "quiet": Annotated[bool, _QUIET]}
    return stoppable


def _silence_bars() -> None:
    for library in ("HF_HUB", "HF_DATASETS"):
        os.environ[f"{library}_DISABLE_PROGRESS_BARS"] = "1"


def _add(group: typer.Typer, command: Callable[..., None], panel: str | None = None) -> None:
    # The example stands where a reader's eye ends, below the options.
    about, _, example = inspect.cleandoc(command.__doc__ or "").partition("Example: ")
    about = re.sub(r"(?<!\n)\n(?!\n)", " ", about.strip())  # lines as wide as the terminal, not as the source
    epilog = f"Example: {example}" if example else None
    group.command(help=about, epilog=epilog, rich_help_panel=panel)(_stoppable(command))


for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _add(app, _command, _panel)

_study = typer.Typer(help="Many runs from one file: plan, run, watch, report.", no_args_is_help=True)
for _part in (study.plan, study.design, study.run, study.status, study.report, study.points, study.emit):
    _add(_study, _part)
app.add_typer(_study, name="study", rich_help_panel="Many runs", epilog="Example: hf-bootstrap study plan study.yaml")


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
    """Run a command; an error ends it with its message and code 1, never with a traceback unless one is asked for."""
    if not sys.stderr.isatty():
        _silence_bars()
    try:
        app(prog_name="hf-bootstrap")
    except BootstrapError as error:
        _fail(f"Error: {in_options(str(error))}")
    except Exception as error:
        if os.environ.get("HF_BOOTSTRAP_TRACEBACK"):
            raise
        _fail(
            f"Error: {type(error).__name__}: {error}. This was not foreseen. HF_BOOTSTRAP_TRACEBACK=1 before the "
            "command shows where it came from; please report that with what `hf-bootstrap env` prints."
        )


def _fail(message: str) -> NoReturn:
    typer.secho(message, fg="red", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
