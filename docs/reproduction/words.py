"""Numbers in words: tables, intervals, means with their spread."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

import numpy as np

from hf_bootstrap.units import format_count


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def spread(values: Sequence[float], pattern: str = "{:.3f}") -> str:
    """Mean and standard deviation in words."""
    told = pattern.format(fmean(values))
    return told if len(values) < 2 else f"{told} ± {pattern.format(stdev(values)).lstrip('+')}"


def interval(ends: tuple[float | None, float | None] | None, pattern: str = "{:+.4f}") -> str:
    """An interval in words."""
    if ends is None or None in ends:
        return "not known"
    return f"[{pattern.format(ends[0])}, {pattern.format(ends[1])}]"


def budget(value: float | None) -> str:
    """Tokens in words, where nobody trains on less than one or more than 1e15."""
    if value is None:
        return "–"
    if value < 1:
        return "never better"
    return ">1000T" if value > 1e15 and np.isfinite(value) else "always better" if value > 1e15 else format_count(value)


def within_marks(value: float) -> str:
    """A number of tokens that was measured: between the marks, or beyond one of their ends."""
    return "before the marks" if value == 0 else "beyond the marks" if value == np.inf else format_count(value)


def interval_of(low: float | None, high: float | None) -> str:
    """An interval of tokens in words."""
    return "" if low is None or high is None else f"[{budget(low)}, {budget(high)}]"
