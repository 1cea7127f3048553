"""How far a study is, read from the files of its runs and from nothing else."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import BootstrapError
from ..records import RunSpec, ScalingPoint
from ..store import RunFolder
from .cluster import job_at_work
from .leases import Leases
from .mixtures import mixed_releases

__all__ = ["RunStatus", "StudyStatus", "read_status"]

_LOG_LINES = 8


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run: its state, who works on it, its last loss, and for a stopped one the end of its log.

    Attributes:
        state: "done", "running" (its lease is held, or a job works on it), "stopped" (begun, and nobody works on it)
            or "waiting".
    """

    run_id: str
    method: str
    base_tokens: int
    tokens: int
    seed: int
    state: str
    holder: str | None = None
    loss: float | None = None
    log_end: str | None = None


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """All runs of a study.

    Attributes:
        runs: in the order of the study.
        strangers: ids of runs in the folder that are none of the study's any more: its file, text or tokenizer changed.
        versions: releases that done runs were made with, where there is more than one of a kind.
    """

    runs: tuple[RunStatus, ...]
    strangers: tuple[str, ...]
    versions: dict[str, tuple[str, ...]]

    @property
    def counts(self) -> dict[str, int]:
        """State -> runs."""
        return dict(Counter(run.state for run in self.runs))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"counts": self.counts, **asdict(self)}


def read_status(specs: Sequence[RunSpec], folder: str | Path) -> StudyStatus:
    """Look at every run of a study."""
    folder, leases = Path(folder), Leases(folder)
    runs = []
    points: list[ScalingPoint] = []
    for spec in specs:
        run = RunFolder(folder / "runs" / spec.run_id)
        runs.append(_status(spec, run, leases, points))
    mine = {run.run_id for run in runs}
    strangers = sorted(path.parent.name for path in folder.glob("runs/*/run.json") if path.parent.name not in mine)
    return StudyStatus(runs=tuple(runs), strangers=tuple(strangers), versions=mixed_releases(points))


def _status(spec: RunSpec, run: RunFolder, leases: Leases, all_points: list[ScalingPoint]) -> RunStatus:
    known: dict[str, Any] = {
        "run_id": run.path.name,
        "method": spec.method,
        "base_tokens": spec.base_tokens,
        "tokens": spec.tokens,
        "seed": spec.seed,
    }
    if run.is_done():
        try:
            points = run.points()
        except BootstrapError as error:
            return RunStatus(**known, state="done", log_end=str(error))
        all_points += points
        return RunStatus(**known, state="done", loss=points[-1].loss if points else None)
    holder = leases.holder(run.path.name) or job_at_work(run)
    if holder is not None:
        return RunStatus(**known, state="running", holder=holder)
    if _has_begun(run):
        return RunStatus(**known, state="stopped", log_end=_log_end(run))
    return RunStatus(**known, state="waiting")


def _has_begun(run: RunFolder) -> bool:
    """Whether anything was trained or said; `run.json` alone is what `emit` writes for a run that nobody took yet."""
    return any(next(run.path.glob(left), None) for left in ("log.txt", "points.jsonl", "checkpoint-*"))


def _log_end(run: RunFolder) -> str | None:
    log = run.path / "log.txt"
    if not log.exists():
        return None
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
