"""The page that `hf-bootstrap plan` prints: what is known, what it costs, what laws say, what to do."""

import textwrap
from typing import TYPE_CHECKING

from ..units import LossUnit, format_bytes, format_count, format_duration
from .base_tokens import KINDS
from .candidates import Candidate
from .outlook import Outlook, spell_chance

if TYPE_CHECKING:
    from .reuse import ReusePlan

__all__ = ["reuse_page"]

_WIDTH = 110


def reuse_page(plan: "ReusePlan") -> str:
    """A plan as text for people."""
    base = plan.base_tokens
    lines = [
        f"Should I reuse {plan.model}?",
        "",
        *_row("model", f"{plan.model_type}, {format_count(plan.n_params)} parameters, "
              f"{format_count(plan.n_params_non_embedding)} without embeddings"),
        *_row("base tokens", f"{base or 'not known'}{f' ({base.kind})' if base else ''}: {plan.base_note}"),
    ]  # fmt: skip
    if base is not None:
        lines += _row("", KINDS[base.kind])
        lines += _row("", f"source: {base.source}") if base.source else []
    lines += _row("budget", plan.budget.said)
    shared = "one rank" if plan.ranks == 1 else f"each of {plan.ranks} ranks"
    limit = "" if plan.memory_limit is None else f"; {format_bytes(plan.memory_limit)} there"
    lines += ["", f"What it takes (memory of {shared}: weights, gradients, Adam; activations come on top{limit})"]
    lines += _table([_cost(candidate) for candidate in plan.candidates])
    lines += [f"  {c.name}: {c.problem}" for c in plan.candidates if c.problem]
    units = dict.fromkeys(o.unit for o in plan.outlooks if o.reused is not None) or [LossUnit.NATS]
    lines += ["", f"What to expect ({' or '.join(units)}, 95% intervals)"]
    for outlook in plan.outlooks:
        lines += _outlook(outlook)
    lines += ["", "Recommendation"]
    for found in plan.recommendations:
        lines += _wrap(f"{found.choice or 'none yet'}: {found.reason}", "  ")
    if len(plan.recommendations) > 1:
        lines += _wrap(
            "Their losses are on different text or tokenizers: across these lines nothing can be compared.", "  "
        )
    lines += ["", "What would settle it most cheaply"]
    if plan.experiment is None:
        lines += _wrap("State the base's tokens and a budget that comes to tokens, and a study is laid out here.", "  ")
    else:
        lines += _wrap(str(plan.experiment), "  ")
    return "\n".join(lines)


def _cost(found: Candidate) -> tuple[str, ...]:
    if found.n_params is None:
        return (found.name, "cannot be done", "", "", "", "", "", "")
    known = [None if x is None else format_count(x) for x in (found.flops_per_token, found.tokens, found.flops)]
    hours = None if found.gpu_hours is None else format_duration(found.gpu_hours * 3600)
    memory = format_bytes(found.memory or 0) + ("" if found.fits is not False else " DOES NOT FIT")
    start = "at the base's loss" if found.keeps_function else "above it, recovers"
    size = format_count(found.n_params)
    return (found.name, size, *(x or "?" for x in known), hours or "?", memory, start)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    head = ("method", "parameters", "FLOPs/token", "tokens", "FLOPs", "device time", "memory", "training starts")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def _outlook(found: Outlook) -> list[str]:
    lines = [f"  {found.method}" + (f", by {found.law}" if found.law else "")]
    if found.reused is not None and found.unit is not LossUnit.NATS:
        lines[0] += f", in {found.unit}"
    for name, value in (("reused", found.reused), ("from scratch", found.scratch)):
        if value is not None:
            lines.append(f"    {name:<13}{value}")
    if found.probability is not None:
        lines.append(f"    {'reuse wins':<13}with probability {spell_chance(found.probability)} at this budget")
    for name, text in (("crossover", found.crossover), ("saturation", found.saturation)):
        lines += _wrap(text, f"    {name:<13}") if text else []
    for note in found.notes:
        lines += _wrap(note, "    - ")
    return lines


def _row(name: str, text: str) -> list[str]:
    return _wrap(text, f"  {name:<13}")


def _wrap(text: str, first: str) -> list[str]:
    """Lines of a paragraph; words longer than a line, such as addresses, stay whole."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
