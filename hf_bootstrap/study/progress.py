"""How far a study is, and showing it: a bar in a terminal, a plain line now and then elsewhere."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..units import format_duration

__all__ = ["Progress", "show_progress"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A moment of a study.

    Attributes:
        runs_done, runs: finished runs and all runs.
        share: of the whole compute, 0 to 1.
        seconds_left: from the pace so far; None before there is one.
        running: ids of the runs in hand.
    """

    runs_done: int
    runs: int
    share: float
    seconds_left: float | None
    running: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line, such as ``"40%, 28 of 70 runs, 3 min 05 s left"``."""
        left = "" if self.seconds_left is None else f", {format_duration(self.seconds_left)} left"
        return f"{self.share:.0%}, {self.runs_done} of {self.runs} runs{left}"


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows a `Progress`: on a terminal a live bar, else a line per tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _TenthByTenth(console.print)
        return
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda now: bar.update(task, completed=now.share, description=str(now))


class _TenthByTenth:
    """Prints a `Progress` when another tenth of the compute is done."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tenth: int | None = None

    def __call__(self, now: Progress) -> None:
        tenth = int(now.share * 10)
        if self._tenth is not None and tenth > self._tenth:
            self._write(str(now))
        self._tenth = tenth
