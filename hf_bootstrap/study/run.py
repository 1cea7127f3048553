"""Drives a set of runs to its end and gathers their points; started again, it goes on where it was.

What has been done is read from the files alone: a run with `done.json` is done, a run whose start is
written may start. How a run trains is handed in by name.
"""

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import StudyError
from ..records import RunSpec, ScalingPoint
from ..sealing import seal
from ..store import RunFolder, write_atomic
from .cluster import JobWindow
from .launch import PRELOAD, Window
from .leases import Leases
from .points import best_rates
from .progress import Progress, show_progress
from .queue import Queue

__all__ = ["export_points", "file_name", "run_study"]

_TICK = 0.2
# Seconds of measuring before a pace is worth showing.
_TRUSTED = 5.0


def run_study(
    specs: Sequence[RunSpec],
    folder: str | Path,
    run_one: str,
    workers: int = 2,
    on_progress: Callable[[Progress], None] | None = None,
    preload: Sequence[str] = PRELOAD,
    retries: int = 1,
    window: Window | JobWindow | None = None,
) -> list[ScalingPoint]:
    """Carry out every run that is not done, each after the run it starts from, and export all points.

    The run with the most work behind it starts first. A run that fails is tried again, then left; whatever does not
    start from it goes on, and at the end it is named. Checkpoints that only served finished decays are removed; those
    that other stages start from, the bases, stay. Several processes may work in one folder: each run is held by a
    lease (`leases`), and all return when the last run is done.

    Args:
        specs: the runs, in any order.
        folder: of the study; paths in the specs start here, runs are under ``runs/``.
        run_one: ``"package.module:function"``, see `launch.Window`.
        workers: processes at a time, one thread each.
        on_progress: told a few times a second; by default a bar on the terminal.
        preload: modules loaded once for all processes.
        retries: times a failed run is tried again.
        window: where runs go instead of processes of this machine; `run_one`, `workers` and `preload` are then unused.

    Returns:
        All points of all runs, in the order of `specs`; also written to ``points/<method>.jsonl``.

    Raises:
        StudyError: runs failed to the end or have lost their start, or the set cannot be ordered.
        StoreError: the folder cannot be written.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, when the runs in hand have ended; it says how to go on.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        queue = Queue(specs, folder)
        show = on_progress or stack.enter_context(show_progress())
        problems: dict[str, str] = {}
        if queue.waiting:
            at_work = window or Window(run_one, workers, preload)
            stop_if_asked = stack.enter_context(_interruptible(queue, at_work))
            stack.enter_context(at_work)
            leases = Leases(folder)
            # Left in the other order: first the processes end, then their runs are given back.
            try:
                problems = _drive(queue, at_work, leases, show, retries, stop_if_asked)
            finally:
                at_work.__exit__()
                leases.release(leases.held)
        queue.tidy()
        points = [point for run in queue.folders.values() if run.is_done() for point in run.points()]
        export_points(points, folder)
        _name_failures(queue, problems, retries)
    return points


def export_points(points: Sequence[ScalingPoint], folder: str | Path) -> list[Path]:
    """Write ``points/<method>.jsonl``: a method's rows and those of the same model from scratch on its text.

    Rows from scratch that belong to no method, such as those of the base itself, go to ``scratch.jsonl``; where a cell
    was trained at several peak rates, those of all but the best to ``other-rates.jsonl``.

    Returns:
        The files, each replaced as a whole.
    """
    points, other_rates = best_rates(points)
    scratch = [point for point in points if point.method == "scratch"]
    files: dict[str, list[ScalingPoint]] = {}
    placed: set[int] = set()
    for method in dict.fromkeys(point.method for point in points if point.method != "scratch"):
        own = [point for point in points if point.method == method]
        models = {(point.domain, point.n_params_non_embedding) for point in own}
        beside = [point for point in scratch if (point.domain, point.n_params_non_embedding) in models]
        placed.update(map(id, beside))
        files[method] = own + beside
    files["scratch"] = [point for point in scratch if id(point) not in placed]
    files["other-rates"] = other_rates
    paths = []
    for name, rows in files.items():
        if rows:
            paths.append(Path(folder) / "points" / f"{file_name(name)}.jsonl")
            write_atomic(paths[-1], "".join(seal(point.to_dict()) + "\n" for point in rows))
    return paths


def file_name(method: str) -> str:
    """A method's name as part of a file's name, whatever it holds."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", method)


def _drive(
    queue: Queue,
    window: Window | JobWindow,
    leases: Leases,
    show: Callable[[Progress], None],
    retries: int,
    stop_if_asked: Callable[[], None],
) -> dict[str, str]:
    """Keep the window full until nothing is left that this or another process could do; which runs failed, and why."""
    pace = _Pace()
    tries: dict[str, int] = {}
    failures: dict[str, str] = {}
    while True:
        stop_if_asked()
        # What has failed to the end is not taken again.
        while not window.is_full:
            run_id = queue.take(lambda run_id: run_id not in failures and leases.take(run_id))
            if run_id is None:
                break
            window.start(RunFolder.create(queue.study, queue.specs[run_id]))
        show(pace.progress(queue, window.running))
        if not window.running:
            queue.refresh()
            if not any(leases.holder(run_id) for run_id in queue.waiting) and not _can_go_on(queue, failures):
                break
            time.sleep(_TICK)
        for ended in window.wait(_TICK) if window.running else ():
            leases.release([ended.run_id])
            if ended.problem is None:
                queue.tidy()
                continue
            tries[ended.run_id] = tries.get(ended.run_id, 0) + 1
            if tries[ended.run_id] > retries:
                failures[ended.run_id] = ended.problem
            queue.put_back(ended.run_id)
        for run_id in leases.renew() & window.running.keys():
            window.stop(run_id)
            queue.put_back(run_id)
    return {**queue.stuck, **failures}


def _can_go_on(queue: Queue, failures: Mapping[str, str]) -> bool:
    """Whether a waiting run could start now: one that another process just gave back or made ready."""
    return any(queue.can_start(run_id) for run_id in queue.waiting - failures.keys() - queue.stuck.keys())


def _name_failures(queue: Queue, problems: Mapping[str, str], retries: int) -> None:
    if not problems:
        return
    named = "\n".join(f"run {run_id} {problem}" for run_id, problem in problems.items())
    behind = len(queue.waiting) - len(problems)
    tried = {0: "once", 1: "twice"}.get(retries, f"{retries + 1} times")
    raise StudyError(
        f"{len(problems)} of {len(queue.specs)} runs failed {tried} or have lost their start"
        f"{f'; {behind} more start from them' if behind else ''}. Everything else is finished and kept. "
        f"Mend the cause and start the study again: it goes on from here.\n{named}"
    )


class _Pace:
    """Seconds left, from how fast the share grew since the first look."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def progress(self, queue: Queue, running: Mapping[str, int]) -> Progress:
        now, share = time.monotonic(), queue.share_done(running)
        began, share_then = self._first = self._first or (now, share)
        gained = share - share_then
        left = (now - began) * (1 - share) / gained if gained > 0 and now - began > _TRUSTED else None
        done = len(queue.specs) - len(queue.waiting) - len(running)
        return Progress(
            runs_done=done, runs=len(queue.specs), share=share, seconds_left=left, running=tuple(sorted(running))
        )


@contextlib.contextmanager
def _interruptible(queue: Queue, window: Window | JobWindow) -> Iterator[Callable[[], None]]:
    """Take SIGTERM for Ctrl-C, and let either say where the study stands.

    A signal is noted, and raised by the function this gives, where the study can stop: an exception in the middle of
    a clean-up can be lost. A second one stops at once. What a shell has told a background job to ignore stays ignored.
    """
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield stop_if_asked
    except KeyboardInterrupt:
        done = sum(folder.is_done() for folder in queue.folders.values())
        left = f" {window.left}" if isinstance(window, JobWindow) and window.left else ""
        raise KeyboardInterrupt(
            f"Stopped with {done} of {len(queue.specs)} runs finished in {queue.study}. "
            f"Start the study again: it goes on from here.{left}"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
