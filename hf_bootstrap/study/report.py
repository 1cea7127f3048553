"""A study's answer for people: one self-contained page, and ten lines for the terminal.

Everything shown was found by `analysis`; here it is put into words, tables and figures.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..laws.decisions import Decision
from ..laws.law import ScalingLaw
from ..records import ScalingPoint
from ..store import write_atomic
from ..units import format_bytes, format_count
from .analysis import Finding, GrowthProof
from .prose import (
    about_method,
    crossover_notes,
    finding_words,
    floor_words,
    form_words,
    growth_words,
    headline,
    limits,
    measured_words,
    overview,
    with_greek,
)
from .run import file_name

__all__ = ["terminal_summary", "write_report"]

_CURVES = (
    "Held-out loss against second-stage tokens, one colour for each base, with the fitted law's curves. Training the "
    "same model from scratch is a curve of its own."
)
_PANELS = (
    "The paper's three panels. Left: a power law of D2 for each base, above a shared floor. Middle: the exponents of "
    "these slices against D1, with intervals. Right: their factors, taken at a D2 inside the data."
)


def write_report(
    folder: str | Path,
    points: Sequence[ScalingPoint],
    findings: Sequence[Finding],
    text: Mapping[str, Any] | None = None,
) -> Path:
    """Save the laws to ``law-<method>/`` and write ``report.html``, one file without any outside reference.

    Args:
        folder: of the study.
        points: all of them, as `run_study` returns them.
        findings: from `analyse`.
        text: what the study trained on: domain -> "train" and "held_out" -> `documents`, `bytes`, `tokens`, `hash`;
            and "versions" -> name -> release.

    Returns:
        The page.

    Raises:
        StoreError: the folder cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = Path(folder)
    for finding in findings:
        if finding.law is not None:
            finding.law.save_pretrained(folder / f"law-{file_name(finding.method)}")
    environment = Environment(
        loader=PackageLoader("hf_bootstrap", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(_context(folder, points, findings, text or {}))
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def terminal_summary(findings: Sequence[Finding], points: Sequence[ScalingPoint]) -> str:
    """About ten lines: what was measured, and for each method a3, its interval and the verdict."""
    lines = [overview(points)]
    for finding in findings:
        title, _ = about_method(finding)
        if finding.verdict is None or finding.comparison is None:
            lines.append(f"{title}: no law. {finding.problem}")
            continue
        best = finding.comparison.scores[0]
        lines.append(f"{title}. {finding_words(finding)}.")
        lines.append(f"  {with_greek(str(finding.verdict))}")
        lines.append(
            f"  Best law for points left out: {form_words(best.form)}, off by {best.leave_one_out:.2%} on average."
        )
        lines[-1] += f" {measured_words(finding)}"
    return "\n".join(lines)


def _context(
    folder: Path, points: Sequence[ScalingPoint], findings: Sequence[Finding], text: Mapping[str, Any]
) -> dict[str, Any]:
    known = [finding for finding in findings if finding.law is not None]
    first = known[0] if known else None
    return {
        "title": "Reuse a trained model, or start again?",
        "headline": headline(findings),
        "overview": overview(points),
        "sections": [_section(finding) for finding in findings],
        "limits": limits(points),
        "law_folder": f"{folder.name}/law-{file_name(first.method) if first else 'method'}",
        "example": _example(first),
        "n_points": len(points),
        "folder": folder.name,
        "rows": [_row(point) for point in sorted(points, key=_order)],
        "texts": _text_rows(text),
        "versions": _versions(points, text),
    }


def _section(finding: Finding) -> dict[str, Any]:
    title, about = about_method(finding)
    section: dict[str, Any] = {
        "anchor": f"method-{file_name(finding.method)}",
        "title": title,
        "about": about,
        "problem": finding.problem,
        "finding": finding_words(finding),
        "answer": measured_words(finding),
        "growth": [_growth_row(proof) for proof in finding.growth],
        "growth_words": growth_words(finding.growth),
        "summary": None,
    }
    if finding.law is None or finding.verdict is None or finding.comparison is None:
        return section
    return section | {
        "finding_sentence": with_greek(str(finding.verdict)),
        "figures": _figures(finding.law, title),
        "null_figure": _null_figure(finding),
        "alpha3": _alpha3(finding.law),
        "floor": floor_words(finding.law.fitted.params()["E"], finding.law.interval("E")),
        "exponents": [_exponent_row(finding.law, d1) for d1 in finding.base_tokens],
        "nulls": [with_greek(str(test)) for test in finding.nulls],
        "forms": _form_rows(finding),
        "n_compared": finding.comparison.n_points,
        "apart": finding.comparison.notes[0],
        "n_scratch": finding.comparison.n_scratch,
        "crossovers": [_crossover_row(d1, decision) for d1, decision in finding.crossovers],
        "summary": finding.law.summary(),
    }


def _figures(law: ScalingLaw, title: str) -> list[dict[str, Any]]:
    from ..laws import figures

    return [
        {
            "kind": "plain",
            "svg": _svg(figures.loss_curves(law)),
            "label": f"{title}: held-out loss against second-stage tokens, a curve for each base",
            "caption": _CURVES,
        },
        {
            "kind": "wide",
            "svg": _svg(figures.three_panels(law)),
            "label": f"{title}: loss curves of each base, their exponents and their factors against D1",
            "caption": _PANELS,
        },
    ]


def _null_figure(finding: Finding) -> dict[str, Any]:
    from ..laws import figures

    interval = None if finding.law is None else finding.law.interval("alpha3")
    return {
        "kind": "plain",
        "svg": _svg(figures.null_figure(finding.nulls, interval)),
        "label": "The observed alpha3 against its values under laws without saturation",
        "caption": "How often laws without saturation give which α3 on this design. The line is what was observed.",
    }


def _svg(figure: Any) -> Any:
    """A matplotlib figure as an SVG element as wide as the page lets it be; the page's style turns it dark."""
    import matplotlib as mpl
    from markupsafe import Markup

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "hf_bootstrap", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    drawing = file.getvalue()
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], flags=re.DOTALL)
    drawing = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    return Markup(drawing)  # noqa: S704 - drawn by matplotlib, which escapes the text it is given


def _alpha3(law: ScalingLaw) -> str:
    return f"{law.fitted.params()['alpha3']:+.4f} {_interval(law.interval('alpha3'), '{:+.4f}')}"


def _interval(found: tuple[Any, Any] | None, pattern: str = "{:.3f}") -> str:
    if found is None or found[0] is None or found[1] is None:
        return "not known"
    return f"[{pattern.format(found[0])}, {pattern.format(found[1])}]"


def _exponent_row(law: ScalingLaw, base_tokens: int) -> dict[str, str]:
    found = law.exponent(base_tokens)
    return {
        "base": format_count(base_tokens),
        "value": f"{found.value:.3f}",
        "interval": _interval((found.low, found.high)),
    }


def _form_rows(finding: Finding) -> list[dict[str, Any]]:
    scores = () if finding.comparison is None else finding.comparison.scores
    percents = ("error", "error_based", "error_scratch", "leave_one_out", "leave_base_out")
    return [
        {
            "form": form_words(score.form),
            "n_params": score.n_params,
            "best": score is scores[0],
            **{name: "–" if (x := getattr(score, name)) is None else f"{x:.2%}" for name in percents},
        }
        for score in scores
    ]


def _crossover_row(base_tokens: int, decision: Decision) -> dict[str, str]:
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


def _growth_row(proof: GrowthProof) -> dict[str, str]:
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


def _example(finding: Finding | None) -> dict[str, str]:
    """Round numbers inside the data of a law, to ask it for."""
    if finding is None or finding.law is None:
        return {"base_tokens": "1e6", "tokens": "1e6"}
    ranges = finding.law.fitted.ranges
    middle = {name: (low * high) ** 0.5 for name, (low, high) in ranges.items()}
    return {name: f"{float(f'{middle[name]:.1g}'):_.0f}" for name in ("base_tokens", "tokens")}


def _order(point: ScalingPoint) -> tuple[Any, ...]:
    size = point.n_params_non_embedding or 0
    return (point.base_tokens > 0, point.method, point.domain or "", size, point.base_tokens, point.tokens)


def _row(point: ScalingPoint) -> dict[str, str]:
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


def _text_rows(text: Mapping[str, Any]) -> list[dict[str, str]]:
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


def _versions(points: Sequence[ScalingPoint], text: Mapping[str, Any]) -> str:
    """Releases the points were made with; more than one of a kind is said."""
    found: dict[str, set[str]] = {}
    for versions in (*(point.versions for point in points), text.get("versions", {})):
        for name, release in versions.items():
            found.setdefault(name, set()).add(str(release))
    told = ", ".join(f"{name} {' and '.join(sorted(releases))}" for name, releases in sorted(found.items()))
    mixed = any(len(releases) > 1 for releases in found.values())
    return f"Made with {told or 'releases that were not recorded'}." + (" Releases are mixed." if mixed else "")
