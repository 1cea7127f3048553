"""Marks and seeds that would mend a grid, and what a changed grid trains more than this one.

Pure arithmetic on marks, whole steps throughout; what ails the grid is for `weaknesses` to say.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import StudyError
from .config import MethodConfig, StudyConfig
from .corpora import placeholder_facts
from .costs import own_tokens
from .runs import study_runs

__all__ = [
    "DECADES",
    "LEVELS",
    "STEPS",
    "Pricing",
    "decades",
    "marks_at_hand",
    "new_marks",
    "suffice",
    "with_bases",
    "with_method",
]

# Three levels show that a slope changes, a fourth that it changes evenly; below, the form of the law decides.
LEVELS = 4
DECADES = 1.0
# Shorter runs, of which re-warming and decay take a good part, fit worst (docs/log.md).
STEPS = 400


class Pricing:
    """What studies train more than one of them.

    Args:
        config: the one.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._now = _tokens(config)

    def __call__(self, changed: StudyConfig) -> int | None:
        """Tokens that another study trains more, negative for fewer; None where either cannot be laid out."""
        then = _tokens(changed)
        return None if then is None or self._now is None else then - self._now


def _tokens(config: StudyConfig) -> int | None:
    """What all runs train. Seeds share no run, so of those with the same methods one speaks for all."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for seed in dict.fromkeys(config.seeds):
        names = tuple(method.name for method in config.methods if not method.seeds or seed in method.seeds)
        groups.setdefault(names, []).append(seed)
    total = 0
    for seeds in groups.values():
        one = config.narrowed(seeds=seeds[:1])
        try:
            total += len(seeds) * sum(own_tokens(spec) for spec in study_runs(one, placeholder_facts(one)))
        except StudyError:
            return None
    return total


def with_method(config: StudyConfig, method: MethodConfig, **changes: Any) -> StudyConfig:
    """The study with some fields of a method changed."""
    changed = replace(method, **changes)
    return replace(config, methods=tuple(changed if other is method else other for other in config.methods))


def with_bases(config: StudyConfig, model: str, marks: Sequence[int]) -> StudyConfig:
    """The study with further D1 marks of a model's bases, and as much more text reserved for them."""
    bases = []
    for base in config.bases:
        reserve = None if base.reserve_tokens is None else max(base.reserve_tokens, *marks)
        larger = replace(base, tokens=(*base.tokens, *marks), reserve_tokens=reserve) if base.model == model else base
        bases.append(larger)
    return replace(config, bases=tuple(bases))


def decades(marks: Sequence[int]) -> float:
    """How far marks span."""
    return math.log10(max(marks) / min(marks))


def suffice(marks: Sequence[int]) -> bool:
    """Whether marks are enough, and far enough apart, for an exponent."""
    return len(marks) >= LEVELS and decades(marks) >= DECADES


def marks_at_hand(marks: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """As few of the others as suffice together with the marks, the most evenly spread of these; empty if none do."""
    counts = range(1, len(others) + 1) if suffice([*marks, *others]) else ()
    for count in counts:
        fits = [some for some in itertools.combinations(others, count) if suffice([*marks, *some])]
        if fits:
            return max(fits, key=lambda some: _closest([*marks, *some]))
    return ()


def _closest(marks: Iterable[int]) -> float:
    return min(right / left for left, right in itertools.pairwise(sorted(marks)))


def new_marks(marks: Sequence[int], batch: int) -> list[tuple[int, ...]]:
    """Sets of new marks that suffice with these: above, below (not under the shortest sound run), or between.

    Args:
        marks: rising, whole steps.
        batch: tokens of a step.
    """
    missing, narrow = max(LEVELS - len(marks), 1), decades(marks) < DECADES
    options = []
    if narrow:
        lower = marks[-1] / 10**DECADES
        options.append(_spread(marks, marks[-1], marks[0] * 10**DECADES, missing, batch))
        if lower >= STEPS * batch:
            options.append(_spread(marks, lower, marks[0], missing, batch))
    else:
        options.append(_between(marks, missing, batch))
    fits = [option for option in options if suffice([*marks, *option])]
    return fits or [_spread(marks, marks[-1], (missing + 1) * marks[-1], missing, batch)]


def _spread(marks: Sequence[int], low: float, high: float, count: int, batch: int) -> tuple[int, ...]:
    """`count` marks evenly in the logarithm, the far end among them, whole steps, the far end rounded outwards."""
    far_is_high = low >= marks[-1]
    share = [(number + 1) / count for number in range(count)]
    points = [low * (high / low) ** part if far_is_high else high * (low / high) ** part for part in share]
    whole = {math.ceil(point / batch) * batch if far_is_high else int(point // batch) * batch for point in points}
    return tuple(sorted(whole - set(marks)))


def _between(marks: Sequence[int], count: int, batch: int) -> tuple[int, ...]:
    """`count` marks, each in the middle (of the logarithm) of the widest gap."""
    found = list(marks)
    for _ in range(count):
        gaps = [(right / left, left, right) for left, right in itertools.pairwise(found)]
        _, left, right = max(gaps)
        found = sorted({*found, round(math.sqrt(left * right) / batch) * batch})
    return tuple(sorted(set(found) - set(marks)))
