"""Progress on a terminal, with the time left; silent where standard error is none, and where quiet was asked for."""

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(
    total: int, words: Callable[[int], str], unit: str = "", *, quiet: bool
) -> Iterator[Callable[[int], None] | None]:
    """A function that is told how much is done and shows it; None where nobody would see it.

    Args:
        total: how much there is to do.
        words: makes a text of an amount, such as `format_bytes`.
        unit: what is counted, where the words do not say it.
        quiet: whether to show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda done: bar.update(
            task, completed=done, description=f"{words(done)} of {words(total)} {unit}".rstrip()
        )
