"""Timed leases on runs: several processes, here or on other machines, work in one study and do no run twice.

A lease is a file in the run's folder that names its holder and ends by itself; nobody has to correct it after a kill.
Who holds what is decided under a lock of the study's folder held for a moment.
"""

import contextlib
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import read_json, write_json

__all__ = ["LEASE", "Leases", "holds", "process_marks"]

LEASE = "lease.json"


class Leases:
    """The leases of one process on the runs of a study.

    A holder on this machine that lives keeps its lease; one that died loses it at once. One on another machine
    loses it when it has not been renewed for `seconds`.

    Args:
        study: the study's folder.
        seconds: a lease lasts without being renewed. Clocks of machines that share a study must agree to a part of it.

    Attributes:
        held: ids of the runs this process holds.
    """

    def __init__(self, study: str | Path, seconds: float = 120.0) -> None:
        self._study, self._seconds = Path(study), seconds
        self._me = {**process_marks(os.getpid()), "key": secrets.token_hex(8)}
        self._renewed = time.monotonic()
        self.held: set[str] = set()

    def take(self, run_id: str) -> bool:
        """Hold a run, if nobody holds it and it is not done.

        Raises:
            StoreError: the folder cannot be locked or written.
        """
        with self._locked():
            folder = self._study / "runs" / run_id
            if (folder / "done.json").exists() or self.holder(run_id) is not None:
                return False
            self._write(run_id)
        self.held.add(run_id)
        return True

    def holder(self, run_id: str) -> str | None:
        """Who else holds a run now, as ``"machine, process 12"``; None where nobody does."""
        try:
            lease = read_json(self._path(run_id))
        except StoreError:
            return None
        if lease.get("key") == self._me["key"] or not holds(lease):
            return None
        return f"{str(lease.get('host')).partition('/')[0]}, process {lease.get('pid')}"

    def renew(self) -> set[str]:
        """Prolong what is held, when a third of its time is over; give the runs that another took meanwhile."""
        if time.monotonic() - self._renewed < self._seconds / 3:
            return set()
        with self._locked():
            lost = {run_id for run_id in self.held if self._is_anothers(run_id)}
            self.held -= lost
            for run_id in self.held:
                self._write(run_id)
        self._renewed = time.monotonic()
        return lost

    def release(self, run_ids: Iterable[str]) -> None:
        """Give runs back."""
        for run_id in list(run_ids):
            if run_id in self.held and not self._is_anothers(run_id):
                with contextlib.suppress(OSError):
                    self._path(run_id).unlink()
            self.held.discard(run_id)

    def _path(self, run_id: str) -> Path:
        return self._study / "runs" / run_id / LEASE

    def _is_anothers(self, run_id: str) -> bool:
        try:
            return bool(read_json(self._path(run_id)).get("key") != self._me["key"])
        except StoreError:
            return False

    def _write(self, run_id: str) -> None:
        write_json(self._path(run_id), {**self._me, "until": time.time() + self._seconds})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._study.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._study / ".leases", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{self._study} cannot be shared: {error}. Use a folder that can be written, on a file system that "
                "knows flock."
            ) from error


def process_marks(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from every other, also from a later one with its number; for `holds`."""
    return {"host": _host(), "pid": pid, "born": _born(pid)}


def holds(lease: dict[str, Any]) -> bool:
    """Whether the process that a record names lives, or, on another machine, was heard of of late."""
    if lease.get("host") == _host():
        pid = lease.get("pid")
        return isinstance(pid, int) and _born(pid) == lease.get("born") is not None
    until = lease.get("until")
    return isinstance(until, int | float) and time.time() < until


def _host() -> str:
    """This machine since it was started."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}"


def _born(pid: int) -> str | None:
    """When a process began, so that another with its number is not taken for it; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
