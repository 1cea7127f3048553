"""What a person at a terminal sees while a command works: a bar with the time left, or a sentence.

Both are silent where standard error is no terminal, and where quiet was asked for: by a flag, or by
HF_HUB_DISABLE_PROGRESS_BARS for every program that heeds it.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import typer

__all__ = ["announce", "progress_bar"]


def announce(sentence: str, *, quiet: bool = False) -> None:
    """Say on a terminal what is being done, since it takes a while."""
    if _is_seen(quiet):
        typer.echo(f"{sentence} ...", err=True)


@contextlib.contextmanager
def progress_bar(
    words: Callable[[int], str], unit: str = "", *, quiet: bool = False
) -> Iterator[Callable[[int, int], None] | None]:
    """A function that is told how much of how much is done, and shows it; None where nobody would see it.

    Args:
        words: makes a text of an amount, such as `format_bytes`.
        unit: what is counted, where the words do not say it.
        quiet: whether to show nothing.
    """
    if not _is_seen(quiet):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, description=f"{words(done)} of {words(total)} {unit}".rstrip()
        )


def _is_seen(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty() and not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
