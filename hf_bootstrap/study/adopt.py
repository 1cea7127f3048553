"""Runs that were done elsewhere, taken from a file of their points, so that a study goes on from them here.

A points file is all that travels between machines: no checkpoint. So a run is taken over only where no run that is
still to do starts from it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import StudyError
from ..records import RunSpec, ScalingPoint
from ..sealing import seal
from ..store import RunFolder, read_points, write_atomic
from .grid import start_run_id

__all__ = ["adopt_runs"]


def adopt_runs(specs: Sequence[RunSpec], folder: str | Path, points: str | Path) -> list[str]:
    """Write the folders of the runs whose points a file holds, as if they had been done here.

    A run is known by the hash of its request, text included: points of other text or other settings have other names
    and are left alone.

    Args:
        specs: all runs of the study, each after the one it starts from; with some left out, runs that those start from
            would be taken over and their checkpoints missed later.
        folder: of the study.
        points: a points file, such as `study points` writes.

    Returns:
        The ids of the runs taken over; those done before are not among them.

    Raises:
        StudyError: the file is damaged.
        StoreError: it cannot be read, or the folder cannot be written.
    """
    read = read_points(points)
    if damaged := [f"line {number}: {why}" for number, why in read.problems if number not in read.harmless]:
        raise StudyError(f"{points} has lines that are no points ({'; '.join(damaged[:3])}). Restore the file.")
    found: dict[str, list[ScalingPoint]] = {}
    for point in read.points:
        found.setdefault(point.run_id, []).append(point)
    done = {spec.run_id for spec in specs if RunFolder(Path(folder) / "runs" / spec.run_id).is_done()}
    source = hashlib.sha256(Path(points).read_bytes()).hexdigest()
    taken = [spec for spec in _whole(specs, found, done) if spec.run_id not in done]
    for spec in taken:
        run = RunFolder.create(folder, spec)
        write_atomic(run.points_file, "".join(seal(point.to_dict()) + "\n" for point in found[spec.run_id]))
        steps = spec.tokens // spec.batch_tokens
        run.finish({"run_id": spec.run_id, "steps": steps, "growth": None, "taken_from": source})
    return [spec.run_id for spec in taken]


def _whole(specs: Sequence[RunSpec], found: dict[str, list[ScalingPoint]], done: set[str]) -> list[RunSpec]:
    """The runs measured to their end that no run starts from which is still to do, in the order of `specs`.

    A trunk that is itself a base is trained again too: a study looks for the checkpoints of its undecayed bases.
    """
    missed: set[str | None] = set()
    bases: set[str | None] = set()
    kept = []
    for spec in reversed(specs):
        is_measured = any(point.tokens == spec.tokens for point in found.get(spec.run_id, []))
        is_trunk = spec.run_id in bases and not spec.decay_tokens
        if spec.run_id in done or (is_measured and not is_trunk and spec.run_id not in missed):
            kept.append(spec)
        else:
            missed.add(start_run_id(spec))
        if not spec.resume:
            bases.add(start_run_id(spec))
    return kept[::-1]
