"""Files that survive a crash: atomic writes, append-only points, and run folders.

A file is either its old self or its new self; a point is either absent or whole. The state of a run is
which files its folder holds: `run.json`, then checkpoints, then points, then `done.json` last, so a
killed job needs nobody to correct a status.
"""

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CorruptFileError, PointError, RecordError, StoreError
from .records import RunSpec, ScalingPoint, canonical_json, seal, unseal

__all__ = [
    "COMPLETE",
    "PointsFile",
    "RunFolder",
    "append_point",
    "lock",
    "read_json",
    "read_points",
    "write_atomic",
    "write_json",
]

# Written into a checkpoint folder after everything else; a folder without it is not a checkpoint.
COMPLETE = "complete.json"


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a whole file so that a reader, at any moment and after any crash, sees the old or the new one.

    Raises:
        StoreError: the file cannot be written; the old one is untouched.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({len(data):,} bytes): {error}. What was there before is untouched; "
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
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not JSON: {error}. Restore it or delete it and run again.") from error
    if not isinstance(record, dict):
        raise CorruptFileError(
            f"{path} holds a {type(record).__name__}, not an object. It was not written by this library."
        )
    return record


def append_point(path: str | Path, point: ScalingPoint) -> None:
    """Append one point; when this returns, the point survives a crash of the machine.

    The line goes out in one write to an O_APPEND descriptor and is synced. A tail torn by an earlier
    crash is closed first, so it can spoil only itself.

    Raises:
        StoreError: the line could not be written whole.
    """
    path = Path(path)
    line = (seal(point.to_dict()) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot take another point: {error}. Earlier points are safe; free some space and resume."
        ) from error
    if written != len(line):
        raise StoreError(
            f"{path} took {written} of {len(line)} bytes of a point. Earlier points are safe; free some space and resume."
        )


@dataclass(frozen=True)
class PointsFile:
    """What a points file holds: its points, and each line that is not one, with the reason."""

    points: list[ScalingPoint]
    problems: list[tuple[int, str]]


def read_points(path: str | Path) -> PointsFile:
    """Read every line of a points file; nothing is dropped in silence.

    Returns:
        The valid points in file order, and (line number, reason) for every other non-empty line.

    Raises:
        StoreError: the file is missing or unreadable.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    points: list[ScalingPoint] = []
    problems: list[tuple[int, str]] = []
    for number, raw in enumerate(data.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            points.append(ScalingPoint.from_dict(unseal(raw.decode("utf-8"))))
        except UnicodeDecodeError as error:
            problems.append((number, f"The line is not UTF-8 ({error})."))
        except (PointError, RecordError) as error:
            problems.append((number, str(error)))
    return PointsFile(points, problems)


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder for this process alone; released by the system even after SIGKILL.

    Raises:
        StoreError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"Another process is working in {folder}. Wait for it to end, or choose another folder."
            ) from error
        yield


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
            StoreError: the folder holds another run.
        """
        folder = cls(Path(study) / "runs" / spec.run_id)
        if not (folder.path / "run.json").exists():
            write_json(folder.path / "run.json", spec.to_dict())
        elif folder.spec().run_id != spec.run_id:
            raise StoreError(f"{folder.path} holds run {folder.spec().run_id}, not {spec.run_id}. Use another folder.")
        return folder

    @property
    def study(self) -> Path:
        """The study's folder, which every path in the spec starts from."""
        return self.path.parent.parent

    @property
    def points_file(self) -> Path:
        """Where the run's points are."""
        return self.path / "points.jsonl"

    def spec(self) -> RunSpec:
        """What the run was asked to do."""
        return RunSpec.from_dict(read_json(self.path / "run.json"))

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
        """The run's points.

        Raises:
            CorruptFileError: a line that is not a point, unless it is the torn last one.
        """
        if not self.points_file.exists():
            return []
        read = read_points(self.points_file)
        if read.problems:
            lines = "; ".join(f"line {number}: {why}" for number, why in read.problems)
            raise CorruptFileError(
                f"{self.points_file} has lines that are not points ({lines}). Delete them, or the run's folder, and run again."
            )
        return read.points


def every_point(folders: Iterable[RunFolder]) -> list[ScalingPoint]:
    """All points of several runs, in the order of the runs."""
    return [point for folder in folders for point in folder.points()]


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
