"""The points of a study in one place: gathered from its runs, the best of several rates chosen, written as a table."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..errors import StudyError
from ..records import ScalingPoint
from ..sealing import seal
from ..store import RunFolder, write_atomic
from .runs import noted_runs

__all__ = ["best_rates", "gather_points", "study_points", "write_points"]


def gather_points(folder: str | Path, run_ids: Collection[str] | None = None) -> list[ScalingPoint]:
    """Every point of the done runs of a study, in the order of the runs' names.

    Args:
        run_ids: of these runs alone.

    Raises:
        CorruptFileError: a line that was damaged after it was written.
    """
    runs = [RunFolder(path.parent) for path in sorted(Path(folder).glob("runs/*/done.json"))]
    return [point for run in runs if run_ids is None or run.path.name in run_ids for point in run.points()]


def study_points(folder: str | Path) -> tuple[list[ScalingPoint], list[str]]:
    """Every point of the runs that are the study's as its file was when it was last run, and what is not among them.

    Returns:
        The points; and sentences about runs that are not done, and about done ones of an older file or text.

    Raises:
        StudyError: no run is done.
        CorruptFileError: a line that was damaged after it was written.
    """
    own = noted_runs(folder)
    found = gather_points(folder, own)
    done = {path.parent.name for path in Path(folder).glob("runs/*/done.json")}
    strangers = sorted(done - own) if own is not None else []
    if not found:
        others = f" {len(strangers)} of an older file or text are." if strangers else ""
        raise StudyError(f"There are no points yet: no run of the study in {folder} is done.{others} Check the path.")
    notes = []
    if missing := sorted((own or frozenset()) - done):
        notes.append(
            f"Not complete: {len(missing)} of the study's {len(own or ())} runs are not done, such as {missing[0]}. "
            "hf-bootstrap study status says which are running, stopped or waiting."
        )
    if strangers:
        notes.append(
            f"Left out: {len(strangers)} done runs that are none of this study since its file or its text changed, "
            f"such as {strangers[0]}."
        )
    return found, notes


def best_rates(points: Sequence[ScalingPoint]) -> tuple[list[ScalingPoint], list[ScalingPoint]]:
    """Where a cell was trained at several peak rates, the points of the best; and the points left out.

    A cell is method, domain, size, D1 and D2. The best rate has the least loss, averaged over the seeds, among the
    rates that were trained with the most seeds; so no seed gets a rate of its own.
    """
    cells: dict[tuple[Any, ...], dict[float | None, list[float]]] = {}
    for point in points:
        if point.phase == "end":
            cells.setdefault(_cell(point), {}).setdefault(point.peak_lr, []).append(point.loss)
    best = {cell: min(rates, key=lambda lr, rates=rates: _rank(rates[lr])) for cell, rates in cells.items()}  # type: ignore[misc]
    used = {(_stage(cell), rate) for cell, rate in best.items()}
    kept: list[ScalingPoint] = []
    left: list[ScalingPoint] = []
    for point in points:
        cell = _cell(point)
        is_best = (
            point.peak_lr == best[cell]
            if point.phase == "end"
            else (_stage(cell), point.peak_lr) in used or all(_stage(cell) != stage for stage, _ in used)
        )
        (kept if is_best else left).append(point)
    return kept, left


def write_points(points: Sequence[ScalingPoint], path: str | Path) -> None:
    """Write points as ``.jsonl`` (sealed lines) or ``.parquet`` (nested fields as JSON text).

    Raises:
        StudyError: another ending, no points, or no pyarrow for Parquet.
        StoreError: the file cannot be written.
    """
    path = Path(path)
    if not points:
        raise StudyError("There are no points yet: no run of the study is done.")
    if path.suffix == ".jsonl":
        write_atomic(path, "".join(seal(point.to_dict()) + "\n" for point in points))
    elif path.suffix == ".parquet":
        write_atomic(path, _parquet(points))
    else:
        raise StudyError(f"{path} ends in {path.suffix!r}; points are written as .jsonl or .parquet.")


def _cell(point: ScalingPoint) -> tuple[Any, ...]:
    return (
        point.method,
        point.domain,
        point.n_params_non_embedding,
        point.base_decayed,
        point.base_tokens,
        point.tokens,
    )


def _stage(cell: tuple[Any, ...]) -> tuple[Any, ...]:
    return cell[:-1]


def _rank(losses: Sequence[float]) -> tuple[int, float]:
    return -len(losses), sum(losses) / len(losses)


def _parquet(points: Sequence[ScalingPoint]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise StudyError("Parquet needs pyarrow. Install hf_bootstrap[report], or write .jsonl.") from error
    rows = [
        {key: json.dumps(value) if isinstance(value, dict) else value for key, value in point.to_dict().items()}
        for point in points
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())
