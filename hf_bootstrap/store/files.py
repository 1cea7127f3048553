"""Whole files and folders that survive a crash: a file is either its old self or its new self.

What the files of a run mean is the business of `run_folder`; a file that grows is `points_file`.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, StoreError
from ..sealing import canonical_json

__all__ = ["lock", "make_folder", "read_json", "sync_folder", "write_atomic", "write_json"]

# What a file system answers that cannot sync a folder, or may not open one: its files are as safe as it makes them.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a whole file so that a reader, at any moment and after any crash, sees the old or the new one.

    Raises:
        StoreError: the file cannot be written; the old one is untouched.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    # Hidden, so that no reader of the folder takes it for a file of ours if a crash leaves it behind.
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(6)}.tmp"
    try:
        make_folder(path.parent)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({len(data):,} bytes): {error}. It still holds what it held before; "
            "free some space or check the permissions, then try again."
        ) from error


def write_json(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write one JSON object atomically, indented for people."""
    canonical_json(record)  # refuses what JSON cannot hold, before the old file is replaced
    write_atomic(path, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        StoreError: the file is missing or unreadable.
        CorruptFileError: it is not one JSON object.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not text: {error}. It was not written by this library.") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    try:
        record = json.loads(text)
        canonical_json(record)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not JSON: {error}. Restore it or delete it and run again.") from error
    if not isinstance(record, dict):
        raise CorruptFileError(
            f"{path} holds a {type(record).__name__}, not an object. It was not written by this library."
        )
    return record


@contextlib.contextmanager
def lock(folder: str | Path, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a folder for this process alone; released by the system even after SIGKILL.

    Args:
        wait: where given, another process is waited for, and this is told so once.

    Raises:
        StoreError: another process holds it and is not waited for, or it cannot be locked.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"{folder} cannot be worked in: {error}. Check the path and its permissions.") from error
    try:
        _take(descriptor, folder, wait)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, wait: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if wait is None:
            raise StoreError(
                f"Another process is working in {folder}. Wait for it to end, or choose another folder."
            ) from error
        wait(f"Another process is working in {folder}: waiting for it to end.")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise StoreError(f"{folder} cannot be locked: {error}. Use a file system that knows flock.") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each known to the disk before anything is put into it."""
    missing = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine, where its file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
