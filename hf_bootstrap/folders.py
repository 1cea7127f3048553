"""A small folder that changes as one: whoever looks, also after a crash, finds all of the old or all of the new.

Single files are the business of `store`. What the files are is not known here.
"""

import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from .errors import StoreError
from .store import sync_folder, write_atomic

__all__ = ["read_unchanged", "replace_folder"]

_Read = TypeVar("_Read")
# What a file system answers that cannot exchange two folders, or a parent that takes no new names.
_CANNOT_SWAP = {errno.EXDEV, errno.EBUSY, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fs.h


def replace_folder(folder: str | Path, files: Mapping[str, bytes], *, last: str, owned: Iterable[str] = ()) -> None:
    """Make a folder hold these files, in the place of earlier ones of ours.

    They are written into a hidden folder beside it, which then takes its place in one step. Where that cannot be (the
    folder also holds what is not ours, is where this process works, is a mount of its own, or the file system has
    no such step) each file is replaced atomically and `last` comes last; a crash then can leave new files beside an
    old `last`, and its reader has to know that they are not its own.

    Args:
        folder: made where it does not exist.
        files: path inside it -> content.
        last: the one of `files` that speaks for the others.
        owned: patterns of paths that are ours: those not in `files` go away.

    Raises:
        StoreError: it cannot be written; what was there is still there, file by file.
    """
    target = Path(os.path.realpath(folder))
    patterns = (*files, *owned)
    try:
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of this name", str(folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target, patterns)
        if not _works_in(target) and not any(_strangers(target, patterns)):
            with _staging(target) as staged:
                for name, content in files.items():
                    _write(staged / name, content)
                _swap(staged, target, patterns)
            return
    except OSError as error:
        if error.errno not in _CANNOT_SWAP:
            raise StoreError(
                f"{folder} cannot be written: {error}. It still holds what it held before; free some space or check "
                "the permissions, then try again."
            ) from error
    _one_by_one(target, files, last, patterns)


def read_unchanged(
    folder: str | Path, read: Callable[[], _Read], error: type[Exception] | tuple[type[Exception], ...]
) -> _Read:
    """What `read` says of a folder; asked again when it fails and another folder stands there than when it began."""
    while True:
        before = _identity(folder)
        try:
            return read()
        except error:
            if _identity(folder) == before:
                raise


def _identity(folder: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _works_in(target: Path) -> bool:
    """Whether this process would stand in a folder that is gone."""
    try:
        return Path.cwd().is_relative_to(target)
    except OSError:
        return False


def _strangers(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """What is in a folder and not ours: files of other names, and folders that hold none of ours."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(pattern.startswith(f"{name}/") for pattern in patterns):
                yield path
        elif not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            yield path


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, held by this process, and gone afterwards, also with the old files in it."""
    staged, held = _held_folder(target)
    try:
        yield staged
    finally:
        os.close(held)
        shutil.rmtree(staged, ignore_errors=True)


def _held_folder(target: Path) -> tuple[Path, int]:
    """A new hidden folder and a descriptor that locks it; one swept before it was locked is left to the sweeper."""
    while True:
        staged = target.parent / f".{target.name[:100]}.{secrets.token_hex(6)}.saving"
        staged.mkdir()
        with contextlib.suppress(FileNotFoundError):
            held = os.open(staged, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
                continue
            except OSError:  # a file system without locks: then nobody sweeps
                return staged, held
            if staged.exists():
                return staged, held
            os.close(held)


def _sweep(target: Path, patterns: Iterable[str]) -> None:
    """Remove what killed processes left; what a living one holds, and what is not ours, stays."""
    for left in target.parent.glob(f".{glob.escape(target.name[:100])}.????????????.saving"):
        with contextlib.suppress(OSError):
            held = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not any(_strangers(left, patterns)):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(staged: Path, target: Path, patterns: Iterable[str]) -> None:
    """Put the staged folder in the target's place; the old one, if any, then has the staged one's name."""
    for folder in {path.parent for path in staged.rglob("*")} | {staged}:
        sync_folder(folder)
    if target.exists():
        os.chmod(staged, stat.S_IMODE(target.stat().st_mode))
        _exchange(staged, target)
        for stranger in sorted(_strangers(staged, patterns)):  # put there since we looked
            with contextlib.suppress(OSError):
                os.rename(stranger, target / stranger.relative_to(staged))
    else:
        os.rename(staged, target)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Two names change places in one step of the file system."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "renameat2 is not here")
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _one_by_one(target: Path, files: Mapping[str, bytes], last: str, patterns: Iterable[str]) -> None:
    for name in sorted(files, key=lambda name: name == last):
        if name == last:
            _remove_stale(target, files, patterns)
        write_atomic(target / name, files[name])


def _remove_stale(target: Path, files: Mapping[str, bytes], patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in target.glob(pattern):
            if path.relative_to(target).as_posix() not in files and path.is_file():
                path.unlink(missing_ok=True)
