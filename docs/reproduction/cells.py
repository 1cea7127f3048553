"""The cells of a study: end points by method, D1, D2 and seed, and what is read off between them.

Losses are nats per token on held-out text, tokens those that carry loss.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import read_points

Cells = dict[tuple[int, int], float]
Curve = Sequence[tuple[float, float]]


def load(folder: Path) -> dict[str, list[ScalingPoint]]:
    """The points of each study of a folder by its name, the main one first."""
    files = sorted(folder.glob("points-*.jsonl"))
    return {file.stem.removeprefix("points-"): read_points(file).points for file in files}


def ends(points: Iterable[ScalingPoint], method: str) -> list[ScalingPoint]:
    """The end points of a method's second stages."""
    return [p for p in points if p.method == method and p.phase == "end" and p.tokens and p.base_tokens]


def from_scratch(points: Iterable[ScalingPoint], like: ScalingPoint) -> list[ScalingPoint]:
    """The same model from scratch on the same text."""
    kind = (like.domain, like.n_params_non_embedding)
    return [
        p for p in points if not p.base_tokens and p.phase == "end" and (p.domain, p.n_params_non_embedding) == kind
    ]


def methods_of(points: Sequence[ScalingPoint]) -> list[str]:
    """Methods that a law can be fitted to, in the order of the points: of two marks none can.

    Whole grids at lower rates (`-lower`) belong to the method they repeat.
    """
    found = dict.fromkeys(p.method for p in points if p.base_tokens and not p.method.endswith("-lower"))
    return [m for m in found if len({p.tokens for p in ends(points, m)}) > 3]


def home_text(points: Iterable[ScalingPoint], own: Sequence[ScalingPoint]) -> str:
    """The text that the bases of a method's second stages were trained on."""
    marks = {p.base_tokens for p in own}
    fresh = (p.domain or "" for p in points if p.method == "scratch" and p.phase == "end" and p.tokens in marks)
    return next(fresh, "")


def by_seed(points: Iterable[ScalingPoint]) -> dict[int, Cells]:
    """Seed -> (D1, D2) -> loss."""
    found: dict[int, Cells] = {}
    for p in points:
        found.setdefault(p.seed or 0, {})[p.base_tokens, p.tokens] = p.loss
    return found


def mean_cells(points: Iterable[ScalingPoint]) -> Cells:
    """(D1, D2) -> mean loss over seeds."""
    found: dict[tuple[int, int], list[float]] = {}
    for p in points:
        found.setdefault((p.base_tokens, p.tokens), []).append(p.loss)
    return {cell: fmean(losses) for cell, losses in found.items()}


def curves(points: Sequence[ScalingPoint], d1: int) -> list[list[tuple[float, float]]]:
    """For each seed (FLOPs of the second stage, loss) from one base, rising."""
    found: dict[int, list[tuple[float, float]]] = {}
    for p in points:
        if p.base_tokens == d1 and p.flops:
            found.setdefault(p.seed or 0, []).append((p.flops, p.loss))
    return [sorted(curve) for curve in found.values()]


def at_flops(curve: Sequence[tuple[float, float]], flops: float) -> float | None:
    """The loss at a number of FLOPs inside a curve, straight in ln FLOPs; None outside it (1% aside)."""
    x, y = [float(np.log(f)) for f, _ in curve], [loss for _, loss in curve]
    if not x or not x[0] - 0.01 <= np.log(flops) <= x[-1] + 0.01:
        return None
    return float(np.interp(np.log(flops), x, y))


def loss_on(point: ScalingPoint, text: str) -> float:
    """Nats per token on one of the evaluation sets."""
    sums = point.eval[text]
    return float(sums["sum"] or 0) / float(sums["count"] or 1)


def crossing(reuse: dict[int, float], scratch: dict[int, float]) -> float:
    """D2 at which the loss from scratch falls below that of reuse, between marks by straight lines in ln D2.

    0 where scratch is better at the least mark, infinity where reuse still is at the largest.
    """
    marks = sorted(reuse.keys() & scratch.keys())
    gaps = [scratch[d2] - reuse[d2] for d2 in marks]
    if gaps[0] <= 0:
        return 0.0
    for (d2, gap), (after, below) in itertools.pairwise(zip(marks, gaps, strict=True)):
        if below <= 0:
            return float(np.exp(np.log(d2) + np.log(after / d2) * gap / (gap - below)))
    return float("inf")


def won_back(curve: Sequence[tuple[int, float]], base: float) -> float:
    """D2 at which decayed losses come down to the base's; 0 where the least mark has, infinity where none."""
    if curve[0][1] <= base:
        return 0.0
    for (d2, loss), (after, below) in itertools.pairwise(curve):
        if below <= base:
            return float(np.exp(np.log(d2) + np.log(after / d2) * (loss - base) / (loss - below)))
    return float("inf")


def crossing_flops(first: Curve, second: Curve) -> float:
    """FLOPs at which the first curve falls below the second, where both are measured, straight in ln FLOPs.

    0 where it is below from the beginning, infinity where it never is.
    """
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    for flops in np.geomspace(low, high, 400):
        mine, theirs = at_flops(first, flops), at_flops(second, flops)
        if mine is not None and theirs is not None and mine < theirs:
            return 0.0 if flops == low else float(flops)
    return float("inf")


def core_hours(points: Iterable[ScalingPoint]) -> float:
    """Hours of one core that the runs' own training took, by the tokens a second that their last points state."""
    return sum(
        _own_tokens(last) / last.tokens_per_second / 3600
        for last in {p.run_id: p for p in points}.values()
        if last.tokens_per_second
    )


def _own_tokens(last: ScalingPoint) -> float:
    """A decay branched from a stage at four fifths of its mark trained the last fifth."""
    return last.tokens * (0.2 if last.parent_run_id else 1.0)
