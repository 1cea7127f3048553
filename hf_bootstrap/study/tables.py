"""What the report shows as tables: one function per kind of row, numbers already in words.

Sentences are the business of `prose`, the page itself of `report`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..laws.decisions import Decision
from ..laws.evidence import FormScore
from ..laws.law import ScalingLaw
from ..records import ScalingPoint
from ..units import format_bytes, format_count
from .analysis import Finding, GrowthProof
from .mixtures import releases
from .prose import crossover_notes, form_words
from .seeds import Cell

__all__ = [
    "alpha3_words",
    "crossover_row",
    "exponent_row",
    "form_rows",
    "growth_row",
    "point_row",
    "ridge_rows",
    "seed_table",
    "text_rows",
    "versions_words",
]


def alpha3_words(law: ScalingLaw) -> str:
    """alpha3 of a law with its interval, as text."""
    return f"{law.fitted.params()['alpha3']:+.4f} {_interval(law.interval('alpha3'), '{:+.4f}')}"


def _interval(found: tuple[Any, Any] | None, pattern: str = "{:.3f}") -> str:
    if found is None or found[0] is None or found[1] is None:
        return "not known"
    return f"[{pattern.format(found[0])}, {pattern.format(found[1])}]"


def exponent_row(law: ScalingLaw, base_tokens: int) -> dict[str, str]:
    """The exponent of the second stage from one base, with its interval."""
    found = law.exponent(base_tokens)
    return {
        "base": format_count(base_tokens),
        "value": f"{found.value:.3f}",
        "interval": _interval((found.low, found.high)),
    }


def form_rows(finding: Finding) -> list[dict[str, Any]]:
    """One row per form compared, the best first: whether it remains, its errors, and its distance to the best."""
    if finding.comparison is None:
        return []
    scores, left = finding.comparison.scores, finding.comparison.confidence_set
    percents = ("error", "error_scratch", "leave_one_out", "leave_base_out")
    return [
        {
            "form": form_words(score.form),
            "n_params": score.n_params,
            "best": score is scores[0],
            "remains": "–" if left is None else "yes" if score.form in left else "no",
            "behind": _behind(score),
            **{name: "–" if (x := getattr(score, name)) is None else f"{x:.2%}" for name in percents},
        }
        for score in scores
    ]


def _behind(score: FormScore) -> str:
    """How much more a form errs on bases left out than the best, with the interval of the difference."""
    if score.behind is None or score.behind_low is None or score.behind_high is None:
        return "–"
    if score.behind_low == score.behind_high:
        return "the best"
    low, high = (f"{100 * x:+.2f}" for x in (score.behind_low, score.behind_high))
    return f"{score.behind:+.2%} [{low}, {high}]"


def ridge_rows(finding: Finding) -> list[dict[str, str]]:
    """What the floor does to alpha3: the best E where alpha3 is held elsewhere, and how much worse the fit is."""
    found = None if finding.saturation is None else finding.saturation.profile
    if found is None:
        return []
    return [{"alpha3": f"{a:+.4f}", "floor": f"{e:.2f}", "more": f"{more:+.0%}"} for a, e, more in found.ridge()]


def seed_table(finding: Finding) -> dict[str, Any] | None:
    """Mean loss of every cell and its standard deviation over the seeds: a row for each D1, a column for each D2."""
    cells = {(cell.base_tokens, cell.tokens): cell for cell in finding.seeds.cells}
    if finding.seeds.typical is None:
        return None
    d1s, d2s = (sorted({cell[side] for cell in cells}) for side in (0, 1))
    return {
        "columns": [format_count(d2) for d2 in d2s],
        "rows": [
            {
                "base": format_count(d1) if d1 else "from scratch",
                "cells": [_cell_words(cells.get((d1, d2))) for d2 in d2s],
            }
            for d1 in d1s
        ],
    }


def _cell_words(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.loss:.4f}" if cell.spread is None else f"{cell.loss:.4f} ± {cell.spread:.4f}"


def crossover_row(base_tokens: int, decision: Decision) -> dict[str, str]:
    """Up to how many tokens reuse of one base is better, with its interval and where that lies."""
    return {
        "base": format_count(base_tokens),
        "value": "–" if decision.value is None else _budget(decision.value),
        "interval": "not known"
        if decision.low is None or decision.high is None
        else f"[{_budget(decision.low)}, {_budget(decision.high)}]",
        "notes": crossover_notes(decision),
    }


def _budget(value: float) -> str:
    """A budget of tokens as people can use it: nobody trains on less than one, or on more than 1e15."""
    if value in (0.0, float("inf")):
        return "always" if value else "never"
    return "<1" if value < 1 else ">1000T" if value > 1e15 else format_count(value)


def growth_row(proof: GrowthProof) -> dict[str, str]:
    """What growth did to one base; a dash for what was not measured."""
    before, after = proof.loss_before, proof.loss_after
    return {
        "base": format_count(proof.base_tokens),
        "drift": f"{proof.logit_drift:.1e}",
        "allowed": "not promised" if proof.tolerance is None else f"{proof.tolerance:.0e}",
        "before": "–" if before is None else f"{before:.4f}",
        "after": "–" if after is None else f"{after:.4f}",
        "end": "–" if proof.loss_end is None or proof.tokens is None else f"{proof.loss_end:.4f}",
        "tokens": "–" if proof.tokens is None else format_count(proof.tokens),
    }


def point_row(point: ScalingPoint) -> dict[str, str]:
    """One measured point."""
    size, bits = point.n_params_non_embedding, point.bits_per_byte
    return {
        "method": point.method,
        "domain": point.domain or "–",
        "n_params": "–" if size is None else f"{size:,}",
        "base_tokens": f"{point.base_tokens:,}",
        "tokens": f"{point.tokens:,}",
        "loss": f"{point.loss:.4f}",
        "bits": "–" if bits is None else f"{bits:.4f}",
        "phase": {"end": "decayed"}.get(point.phase, point.phase),
        "run_id": point.run_id,
    }


def text_rows(text: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was trained on and what was held out, by domain; see `report.write_report` for the argument."""
    rows = []
    for domain, sides in text.items():
        for side in ("train", "held_out"):
            if isinstance(sides, Mapping) and side in sides:
                facts = sides[side]
                rows.append(
                    {
                        "name": f"{domain}, {side.replace('_', ' ')}",
                        "documents": f"{facts['documents']:,}",
                        "size": format_bytes(facts["bytes"]),
                        "tokens": f"{facts['tokens']:,}",
                        "hash": str(facts["hash"]),
                    }
                )
    return rows


def versions_words(points: Sequence[ScalingPoint], text: Mapping[str, Any]) -> str:
    """Releases the points were made with; more than one of a kind is said."""
    found = releases((*(point.versions for point in points), text.get("versions", {})))
    told = ", ".join(f"{name} {' and '.join(kinds)}" for name, kinds in found.items())
    mixed = any(len(kinds) > 1 for kinds in found.values())
    return f"Made with {told or 'releases that were not recorded'}." + (" Releases are mixed." if mixed else "")
