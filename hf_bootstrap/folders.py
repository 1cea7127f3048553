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
from .store import sync_folder

__all__ = ["read_unchanged", "replace_folder", "standing"]

_Read = TypeVar("_Read")
# Inside a folder that cannot be exchanged: all of its new files, while copies are put in their places.
_SAVED = ".hf_bootstrap.saved"
# What a file system answers that cannot exchange two folders, or a parent that takes no new names.
_CANNOT_SWAP = {errno.EXDEV, errno.EBUSY, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fs.h


def replace_folder(folder: str | Path, files: Mapping[str, bytes], *, owned: Iterable[str] = ()) -> None:
    """Make a folder hold these files, in the place of earlier ones of ours.

    They are written into a hidden folder beside it, which then takes its place in one step. Where that cannot be (the
    folder also holds what is not ours, is where this process works, is a mount of its own, or the file system has
    no such step) they are written into a hidden folder inside it, which gets its name when it is whole; a copy
    of each file is then put in its place, and the hidden folder removed. Whoever reads where `standing` leads finds one
    set of files.

    Args:
        folder: made where it does not exist.
        files: path inside it -> content.
        owned: patterns of paths that are ours: those not in `files` go away.

    Raises:
        StoreError: it cannot be written; it says which files a reader finds now.
    """
    target = Path(os.path.realpath(folder))
    patterns = (*files, *owned)
    ours = (*patterns, f"{_SAVED}*/*")
    try:
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of this name", str(folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target, ours)
        if not _works_in(target) and not any(_strangers(target, ours)):
            try:
                with _staging(target) as staged:
                    _write_all(staged, files)
                    _swap(staged, target, ours)
                return
            except OSError as error:
                if error.errno not in _CANNOT_SWAP:
                    raise
        _replace_inside(target, files, patterns)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error}. It still holds what it held before; free some space or check "
            "the permissions, then try again."
        ) from error


def standing(folder: str | Path) -> Path:
    """Where the files of a folder stand: in it, or whole in a hidden folder inside it whose writer was cut short."""
    saved = Path(folder) / _SAVED
    return saved if saved.is_dir() else Path(folder)


def read_unchanged(
    folder: str | Path, read: Callable[[Path], _Read], error: type[Exception] | tuple[type[Exception], ...]
) -> _Read:
    """What `read` says of where a folder's files stand; asked again when it fails and the folder changed meanwhile."""
    while True:
        before = _identity(folder)
        try:
            return read(standing(folder))
        except error:
            if _identity(folder) == before:
                raise


def _identity(folder: str | Path) -> tuple[int, int, int] | None:
    """Changes when another folder takes its place, and when a file in it does."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


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


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """New files in a new folder, safe on the disk with their names."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for made in {path.parent for path in folder.rglob("*")} | {folder}:
        sync_folder(made)


def _swap(staged: Path, target: Path, patterns: Iterable[str]) -> None:
    """Put the staged folder in the target's place; the old one, if any, then has the staged one's name."""
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


def _replace_inside(target: Path, files: Mapping[str, bytes], patterns: Iterable[str]) -> None:
    """Save all files inside the target under a hidden name, then put a copy of each in its place."""
    if not target.exists():
        target.mkdir()
        sync_folder(target.parent)
    with _alone_in(target) as alone:
        if alone:
            for left in target.glob(f"{_SAVED}.*"):
                shutil.rmtree(left, ignore_errors=True)
        _settle(target, patterns)
        with _passing(target) as staged:
            staged.mkdir()
            _write_all(staged, files)
            os.rename(staged, target / _SAVED)
        sync_folder(target)
        _settle(target, patterns)


def _settle(target: Path, patterns: Iterable[str]) -> None:
    """Put copies of what was saved inside a folder in their places, and stop speaking of it; again after a kill."""
    saved = target / _SAVED
    if not saved.is_dir():
        return
    files = {path.relative_to(saved).as_posix(): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    try:
        with _passing(target) as copies:
            copies.mkdir()
            _write_all(copies, files)
            for name in files:
                (target / name).parent.mkdir(exist_ok=True)
                os.replace(copies / name, target / name)
    except OSError as error:
        raise StoreError(
            f"The new files are whole in {saved}, where they are read from, but cannot be put in their places: "
            f"{error}. Free some space or check the permissions; the next save does the rest."
        ) from error
    for path in {path for pattern in patterns for path in target.glob(pattern)}:
        if path.relative_to(target).as_posix() not in files and path.is_file():
            path.unlink(missing_ok=True)
    for folder in {(target / name).parent for name in files}:
        sync_folder(folder)
    with _passing(target) as done:
        os.rename(saved, done)
        sync_folder(target)


@contextlib.contextmanager
def _passing(target: Path) -> Iterator[Path]:
    """A hidden name inside a folder, of which nothing stays; what a kill leaves there the next writer sweeps."""
    path = target / f"{_SAVED}.{secrets.token_hex(6)}"
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Wait until no other writer is at work in a folder; false on a file system that cannot tell."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(held)
