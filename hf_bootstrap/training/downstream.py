"""Scores of a checkpoint on downstream tasks, kept beside the points of its run in `scores.jsonl`.

What scores is lm-evaluation-harness; here its answer becomes records that name run, step and tokens, so that a score
can be set beside a loss. `examples/evaluate_downstream.py` calls both.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import RecordError, TrainingError
from ..fields import as_plain_json, build, settle
from ..records import SCHEMA, ScalingPoint
from ..sealing import canonical_json, unseal
from ..store import append_record, read_json, read_points
from .facts import versions

__all__ = ["SCORES", "Score", "append_scores", "find_run", "read_scores", "scores_from_harness"]

SCORES = "scores.jsonl"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number that one checkpoint reached on one task; `docs/formats.md` specifies it.

    Attributes:
        run_id, step: whose checkpoint it is; base_tokens, tokens: D1 and D2 behind it, as in its run's points.
        task, task_version, metric, filter: as the harness names them.
        value: of the metric; stderr: of the value, None where the harness gives none.
        samples: how many were scored, of `samples_total`; None for a group of tasks.
        num_fewshot: worked examples in the prompt.
        higher_is_better: None where the task does not say.
        hashes: `prompts`, of every prompt and answer that was scored.
        versions: of the packages that decide a score.
    """

    run_id: str
    task: str
    metric: str
    value: float
    schema: int = SCHEMA
    step: int | None = None
    base_tokens: int | None = None
    tokens: int | None = None
    task_version: str | None = None
    filter: str | None = None
    stderr: float | None = None
    samples: int | None = None
    samples_total: int | None = None
    num_fewshot: int | None = None
    higher_is_better: bool | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a score that names no run, task or metric, or whose value is not finite."""
        settle(self, RecordError, signed=("value",))
        for name in ("run_id", "task", "metric"):
            if not getattr(self, name):
                raise RecordError(f"a score has an empty {name}. Say whose score on what it is.")

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return as_plain_json(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """A score from a record read elsewhere.

        Raises:
            RecordError: unknown or missing keys, wrong types or values.
        """
        return build(cls, record, RecordError, SCHEMA)


def find_run(checkpoint: str | Path) -> tuple[Path, dict[str, Any]]:
    """The scores file that belongs to a checkpoint, and what its run says of it.

    Args:
        checkpoint: ``<run>/checkpoint-<step>``, or the run's folder itself with the final model in it.

    Returns:
        ``<run>/scores.jsonl``, and the fields `run_id`, `step`, `base_tokens` and `tokens` of a `Score`.

    Raises:
        TrainingError: there are no points beside it, or those of several runs.
    """
    folder = Path(checkpoint)
    run = next((path for path in (folder, folder.parent) if (path / "points.jsonl").is_file()), None)
    points = read_points(run / "points.jsonl").points if run is not None else []
    if run is None or len({point.run_id for point in points}) != 1:
        raise TrainingError(
            f"{folder} has {'points of several runs' if points else 'no points'} beside it, so nobody can say whose "
            "score it would be. Name a checkpoint of a run that was trained with ScalingCallback."
        )
    last = max(points, key=lambda point: point.tokens)
    step, tokens = (last.step, last.tokens) if folder == run else _place(folder, points)
    facts = {"run_id": last.run_id, "step": step, "base_tokens": last.base_tokens, "tokens": tokens}
    return run / SCORES, facts


def _place(checkpoint: Path, points: Iterable[ScalingPoint]) -> tuple[int, int | None]:
    """Step and trained tokens of a checkpoint: from its own history, else from a point of that step."""
    state = read_json(checkpoint / "trainer_state.json")
    step = int(state["global_step"])
    found = [
        entry["tokens"] for entry in state.get("log_history", []) if entry.get("step") == step and "tokens" in entry
    ]
    found += [point.tokens for point in points if point.step == step]
    return step, int(found[0]) if found else None


def scores_from_harness(results: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[list[Score], list[str]]:
    """The answer of `lm_eval.simple_evaluate` as records.

    Args:
        results: asked for with ``log_samples=True``, without which the prompts have no hash.
        facts: fields of a `Score` that are the same for all: those of `find_run`.

    Returns:
        The scores, and one sentence for each number that is none and was left out.
    """
    scores, left_out = [], []
    for task, entry in results["results"].items():
        counts = results.get("n-samples", {}).get(task, {})
        common = {
            **facts,
            "task": task,
            "task_version": _text(results.get("versions", {}).get(task)),
            "samples": counts.get("effective"),
            "samples_total": counts.get("original"),
            "num_fewshot": results.get("n-shot", {}).get(task),
            "hashes": _hashes(results.get("samples", {}).get(task)),
            "versions": {**versions(), "lm_eval": str(results.get("lm_eval_version"))},
        }
        for key, value in entry.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            if not _is_number(value):
                left_out.append(f"{task}: {key} is {value!r}, which is no number.")
                continue
            stderr = entry.get(f"{metric}_stderr,{filter_name}")
            better = results.get("higher_is_better", {}).get(task, {}).get(metric)
            scores.append(
                Score(
                    **common,
                    metric=metric,
                    filter=filter_name,
                    value=float(value),
                    stderr=float(stderr) if _is_number(stderr) else None,
                    higher_is_better=better,
                )
            )
    return scores, left_out


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _hashes(samples: Any) -> dict[str, str]:
    if not samples:
        return {}
    keys = ("doc_hash", "prompt_hash", "target_hash")
    listed = sorted([str(sample.get(key)) for key in keys] for sample in samples)
    return {"prompts": hashlib.sha256(canonical_json({"samples": listed}).encode()).hexdigest()}


def append_scores(path: str | Path, scores: Iterable[Score]) -> None:
    """Append scores, each as safe as a point once this has returned."""
    for score in scores:
        append_record(path, score.to_dict(), "score", RecordError)


def read_scores(path: str | Path) -> tuple[list[Score], list[str]]:
    """Every score of a file, the newest where one was measured again, and one sentence for each line that is none."""
    found: dict[tuple[object, ...], Score] = {}
    problems = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip(b" \r\x18"):
            continue
        try:
            score = Score.from_dict(unseal(line.decode()))
        except (RecordError, UnicodeDecodeError) as error:
            problems.append(f"line {number}: {error}")
            continue
        found[(score.run_id, score.step, score.task, score.metric, score.filter, score.num_fewshot)] = score
    return list(found.values()), problems
