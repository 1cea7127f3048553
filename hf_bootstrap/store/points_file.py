"""Points in a file that only grows: one sealed line each, either absent or whole.

Everything that is no valid point is given back with its line number and the reason; nothing is dropped in silence.
"""

import contextlib
import fcntl
import gc
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import PointError, RecordError, StoreError
from ..records import ScalingPoint
from ..sealing import seal, unseal
from .files import make_folder, sync_folder

__all__ = ["LONGEST_LINE", "PointsFile", "append_point", "append_record", "read_points"]

# Ends a line that a crash cut short, so that no reader takes it for a line that was damaged later.
_TORN = b"\x18"
# A point takes about a kilobyte; what is longer is no point, and must not fill the memory.
LONGEST_LINE = 2**20
# A resumed run measures again what it measured before, up to the order of sums; two runs differ by more.
_SAME_LOSS = 1e-3


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
    if len(line) > LONGEST_LINE:
        raise too_long(
            f"a {kind} of run {record['run_id'][:80]!r} takes {len(line):,} bytes; a line may have {LONGEST_LINE:,}. "
            "Put less into its text fields."
        )
    try:
        make_folder(path.parent)
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
    tail = os.pread(descriptor, LONGEST_LINE, max(0, size - LONGEST_LINE)).rpartition(b"\n")[2]
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
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        rest = raw
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
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
            if is_torn and len(raw) <= LONGEST_LINE:
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
    if len(raw) > LONGEST_LINE:
        raise PointError(f"The line is longer than {LONGEST_LINE:,} bytes, so it is no point. Remove it.")
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
