"""Runs as processes of this machine: a bounded window of them, from a server that has loaded torch once.

Importing torch and transformers costs seconds, a forked process none of them, so a forkserver loads both
and every run is forked from it: still a process of its own that can be killed. Which run comes when is
the business of `run`.
"""

import contextlib
import importlib
import importlib.util
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

from ..errors import StoreError, StudyError
from ..store import RunFolder, lock

__all__ = ["PRELOAD", "Ended", "Window", "end_of_log"]

PRELOAD = ("torch", "transformers.trainer")
# Several single-thread processes use a few cores better than one process with several threads does. And a server that
# asks CUDA itself whether a GPU is there, as torch does, could not hand that GPU on to the processes forked from it.
_SERVER = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_LOG_LINES = 15
_GRACE = 5.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that ended: the run it was for, and None or what went wrong."""

    run_id: str
    problem: str | None


class Window:
    """At most `workers` runs at a time, each a process; leaving the context ends those that still run.

    Args:
        run_one: ``"package.module:function"``, called as ``function(folder, report)`` in the process of
            the run. It ends well when it has written `done.json`.
        workers: processes at a time.
        preload: modules the server loads before the first run, besides that of `run_one`.

    Raises:
        StudyError: `run_one` names no module, or there is no room for a single run.
    """

    def __init__(self, run_one: str, workers: int, preload: Sequence[str] = PRELOAD) -> None:
        module, _, function = run_one.partition(":")
        if not function or importlib.util.find_spec(module) is None:
            raise StudyError(
                f"run_one is {run_one!r}; it must name a function that exists, as 'package.module:function'."
            )
        if workers < 1:
            raise StudyError(f"workers is {workers}; a study needs at least one process at a time.")
        self.workers = workers
        self._run_one = run_one
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*preload, module])
        self._running: dict[str, tuple[ForkServerProcess, Any, RunFolder]] = {}

    def __enter__(self) -> Self:
        # The server takes its environment from this process when it starts; ours is put back at once. Ctrl-C reaches
        # the whole group and would end it with a traceback while it loads torch: it inherits a mask that holds it off.
        multiprocessing.resource_tracker.ensure_running()  # first, for it lifts such a mask when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _environment(_SERVER):
                multiprocessing.forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        processes = [process for process, _, _ in self._running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()
        self._running.clear()

    @property
    def running(self) -> dict[str, int]:
        """The runs in hand and the trained tokens each last reported."""
        return {run_id: counter.value for run_id, (_, counter, _) in self._running.items()}

    @property
    def is_full(self) -> bool:
        """Whether a run has to end before another may start."""
        return len(self._running) >= self.workers

    def start(self, folder: RunFolder) -> None:
        """Start the run of a folder; its output goes to ``log.txt`` there."""
        counter: Any = self._context.RawValue("q", 0)
        process = self._context.Process(target=_work, args=(str(folder.path), self._run_one, counter))
        with _without_main():
            process.start()
        self._running[folder.path.name] = (process, counter, folder)

    def stop(self, run_id: str) -> None:
        """End the process of a run that another machine has taken over."""
        process, _, _ = self._running.pop(run_id)
        process.kill()
        process.join()
        process.close()

    def wait(self, timeout: float) -> list[Ended]:
        """The runs that ended, as soon as one has; an empty list after `timeout` seconds."""
        sentinels = {process.sentinel: run_id for run_id, (process, _, _) in self._running.items()}
        ended = []
        for sentinel in multiprocessing.connection.wait(list(sentinels), timeout):
            run_id = sentinels[sentinel]  # type: ignore[index]
            process, _, folder = self._running.pop(run_id)
            process.join()
            problem = None if folder.is_done() else _problem(folder, process.exitcode)
            process.close()
            ended.append(Ended(run_id=run_id, problem=problem))
        return ended


def _problem(folder: RunFolder, code: int | None) -> str:
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    return f"{how} and left no done.json. {end_of_log(folder)}"


def end_of_log(folder: RunFolder) -> str:
    """The last lines a run wrote, for a person who has to find out why it failed."""
    log = folder.path / "log.txt"
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    end = "\n".join(f"    {line}" for line in lines) or "    (empty)"
    return f"The end of {log}:\n{end}"


def _work(path: str, run_one: str, counter: Any) -> None:
    """The life of one process: follow the parent into death, log, and do the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that clean-up code runs
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _log_to(Path(path) / "log.txt")
    module, _, function = run_one.partition(":")

    def report(tokens: int) -> None:
        counter.value = tokens

    with _sole_owner(path):
        # Its last owner may have finished it between our look and this moment.
        if not RunFolder(path).is_done():
            getattr(importlib.import_module(module), function)(RunFolder(path), report)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _log_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.close(descriptor)


@contextlib.contextmanager
def _sole_owner(path: str) -> Iterator[None]:
    """Hold the run's folder. After a kill, the last owner may need a moment to notice and die."""
    deadline = time.monotonic() + _GRACE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(path))
                break
            except StoreError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process from importing this program's main module, as multiprocessing makes it do.

    The work is named by its import path, so the main module is not needed; importing it again costs
    every run its start-up, and runs a script without the ``__name__`` guard from its beginning.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
