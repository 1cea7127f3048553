"""Files that survive a crash: atomic writes, append-only points, and run folders.

A file is either its old self or its new self; a point is either absent or whole. The state of a run is
which files its folder holds: `run.json`, then checkpoints, then points, then `done.json` last, so a
killed job needs nobody to correct a status.
"""

import contextlib
import errno
import fcntl
import gc
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CorruptFileError, PointError, RecordError, StoreError
from .records import RunSpec, ScalingPoint, canonical_json, seal, unseal

__all__ = [
    "COMPLETE",
    "PointsFile",
    "RunFolder",
    "append_point",
    "append_record",
    "lock",
    "read_json",
    "read_points",
    "sync_folder",
    "write_atomic",
    "write_json",
]

# Written into a checkpoint folder after everything else; a folder without it is not a checkpoint.
COMPLETE = "complete.json"

# Ends a line that a crash cut short, so that no reader takes it for a line that was damaged later.
_TORN = b"\x18"
# A point takes about a kilobyte; what is longer is no point, and must not fill the memory.
_LONGEST_LINE = 2**20
# A resumed run measures again what it measured before, up to the order of sums; two runs differ by more.
_SAME_LOSS = 1e-3


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
        _make_folder(path.parent)
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


def append_point(path: str | Path, point: ScalingPoint) -> None:
    """Append one point; when this returns, the point survives a crash of the machine.

    The line goes out in one write to an O_APPEND descriptor and is synced, so several processes may
    append to one file of a local disk. A tail torn by an earlier crash is closed first and spoils only itself.

    Raises:
        StoreError: the line could not be written whole.
        PointError: the point is longer than a line may be.
    """
    append_record(path, point.to_dict(), "point", PointError)


def append_record(path: str | Path, record: Mapping[str, Any], kind: str, too_long: type[RecordError]) -> None:
    """Append one record of a run as a sealed line, with the promise and the errors of `append_point`.

    Args:
        record: with a `run_id`; plain JSON types.
        kind: what to call it in errors: point, score.
        too_long: the error for a record that is longer than a line may be.
    """
    path = Path(path)
    line = (seal(record) + "\n").encode()
    if len(line) > _LONGEST_LINE:
        raise too_long(
            f"a {kind} of run {record['run_id'][:80]!r} takes {len(line):,} bytes; a line may have {_LONGEST_LINE:,}. "
            "Put less into its text fields."
        )
    try:
        _make_folder(path.parent)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # Between the look at the tail and the write, no other process may die in the middle of a line. Where
            # the file system knows no locks there is one writer to a file, and nothing to fear.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            line = _closing(descriptor) + line
            written = os.write(descriptor, line)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot take another {kind}: {error}. Earlier {kind}s are safe; free some space and resume."
        ) from error
    if written != len(line):
        raise StoreError(
            f"{path} took {written} of {len(line)} bytes of a {kind}. Earlier {kind}s are safe; "
            "free some space and resume."
        )


def _closing(descriptor: int) -> bytes:
    """What has to stand between the end of a points file and the next line."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _LONGEST_LINE, max(0, size - _LONGEST_LINE)).rpartition(b"\n")[2]
    if not tail:
        return b""
    try:
        unseal(tail.decode())
    except (PointError, UnicodeDecodeError):
        return _TORN + b"\n"
    return b"\n"  # only the line's end was lost


@dataclass(frozen=True)
class PointsFile:
    """What a points file holds.

    Attributes:
        points: the valid points, in file order, each counted once.
        problems: (line number, reason) for every other line that is not empty.
        harmless: the line numbers among `problems` that a crash and a resume leave behind: a line cut short, or
            a point measured again. Nothing is lost with them.
    """

    points: list[ScalingPoint]
    problems: list[tuple[int, str]]
    harmless: frozenset[int] = frozenset()


def read_points(path: str | Path) -> PointsFile:
    """Read every line of a points file; nothing is dropped in silence.

    Raises:
        StoreError: the file is missing or unreadable.
    """
    try:
        with open(path, "rb") as file, _no_garbage_collection():
            return _sort_out(_lines(file))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check the path.") from error


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Records hold no cycles; looking for some among a million of them takes longer than reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not empty; of a line that is too long, its beginning."""
    number = 0
    while raw := file.readline(_LONGEST_LINE + 1):
        number += 1
        rest = raw
        while len(rest) > _LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST_LINE + 1)
        if raw.strip().strip(_TORN):
            yield number, raw


def _sort_out(lines: Iterable[tuple[int, bytes]]) -> PointsFile:
    points: list[ScalingPoint] = []
    problems: list[tuple[int, str]] = []
    harmless: set[int] = set()
    first: dict[tuple[str, int, str], tuple[int, ScalingPoint]] = {}
    for number, raw in lines:
        try:
            point = _read_line(raw)
        except PointError as error:
            is_torn = not raw.endswith(b"\n") or raw.endswith(_TORN + b"\n")
            if is_torn and len(raw) <= _LONGEST_LINE:
                harmless.add(number)
                problems.append((number, "The line was cut short by a crash, before its point was acknowledged."))
            else:
                problems.append((number, str(error)))
            continue
        earlier, same = first.setdefault((point.run_id, point.tokens, point.phase), (number, point))
        if earlier == number:
            points.append(point)
            continue
        if math.isclose(point.loss, same.loss, rel_tol=_SAME_LOSS):
            harmless.add(number)
        problems.append((number, _repeats(point, earlier, same)))
    return PointsFile(points, problems, frozenset(harmless))


def _read_line(raw: bytes) -> ScalingPoint:
    if len(raw) > _LONGEST_LINE:
        raise PointError(f"The line is longer than {_LONGEST_LINE:,} bytes, so it is no point. Remove it.")
    try:
        return ScalingPoint.from_dict(unseal(raw.decode()))
    except UnicodeDecodeError as error:
        raise PointError(f"The line is not UTF-8 ({error}). Remove it or log the point again.") from error


def _repeats(point: ScalingPoint, earlier: int, same: ScalingPoint) -> str:
    return (
        f"The line repeats run {point.run_id!r} at {point.tokens:,} tokens, phase {point.phase}, of line {earlier} "
        f"(loss {point.loss:.6g}, there {same.loss:.6g}); a point is counted once. "
        "If these are two runs, give them two ids."
    )


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder for this process alone; released by the system even after SIGKILL.

    Raises:
        StoreError: another process holds it, or it cannot be locked.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"{folder} cannot be worked in: {error}. Check the path and its permissions.") from error
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"Another process is working in {folder}. Wait for it to end, or choose another folder."
        ) from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be locked: {error}. Use a file system that knows flock.") from error


class RunFolder:
    """The folder of one run; which files it holds is the state of the run.

    Args:
        path: ``runs/<run_id>`` inside a study's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, study: str | Path, spec: RunSpec) -> "RunFolder":
        """Make, or find again, the folder of a spec under ``<study>/runs``.

        Raises:
            StoreError: the folder holds another run, or cannot be made.
        """
        folder = cls(Path(study) / "runs" / spec.run_id)
        if (folder.path / "run.json").exists():
            folder.spec()  # refuses a run.json that was changed
        else:
            write_json(folder.path / "run.json", spec.to_dict())
        return folder

    @property
    def study(self) -> Path:
        """The study's folder, which every path in the spec starts from."""
        return Path(os.path.abspath(self.path)).parent.parent

    @property
    def points_file(self) -> Path:
        """Where the run's points are."""
        return self.path / "points.jsonl"

    def spec(self) -> RunSpec:
        """What the run was asked to do.

        Raises:
            StoreError: there is no `run.json`.
            CorruptFileError: it is not a run, or not the one that gave the folder its name.
        """
        path = self.path / "run.json"
        try:
            spec = RunSpec.from_dict(read_json(path))
        except RecordError as error:
            raise CorruptFileError(f"{path} is not a run: {error}") from error
        name = Path(os.path.abspath(self.path)).name
        if spec.run_id != name:
            raise CorruptFileError(
                f"{path} asks for run {spec.run_id}, but its folder is named {name}. A run is named by its content, so "
                "one of them was changed. Restore it, or make the changed run in a folder of its own."
            )
        return spec

    def is_done(self) -> bool:
        """Whether the run ended well."""
        return (self.path / "done.json").exists()

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write `done.json`, the last file of a run."""
        write_json(self.path / "done.json", record)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first; a folder without its `complete.json` is none."""
        found = [
            (int(m.group(1)), p)
            for p in self.path.glob("checkpoint-*")
            if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
        ]
        return [path for _, path in sorted(found) if (path / COMPLETE).exists()]

    def points(self) -> list[ScalingPoint]:
        """The run's points, each once; what a crash left behind is passed over.

        Raises:
            CorruptFileError: a line that was damaged after it was written.
        """
        if not self.points_file.exists():
            return []
        read = read_points(self.points_file)
        damaged = [f"line {number}: {why}" for number, why in read.problems if number not in read.harmless]
        if damaged:
            raise CorruptFileError(
                f"{self.points_file} has lines that are not points of this run ({'; '.join(damaged[:3])}"
                f"{', and more' if len(damaged) > 3 else ''}). Delete them, or the run's folder, and run again."
            )
        return read.points


# What a file system answers that cannot sync a folder, or may not open one: its files are as safe as it makes them.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}


def _make_folder(folder: Path) -> None:
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
