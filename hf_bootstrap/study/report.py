"""A study's answer for people: one self-contained page, the same as Markdown, and ten lines for the terminal.

Everything shown was found by `analysis`; here it is put into words, tables and figures.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hub.cards import render
from ..laws.law import ScalingLaw
from ..laws.report import summary_text
from ..pages import fill
from ..records import ScalingPoint
from ..store import write_atomic
from .analysis import Finding, across_methods, across_sizes
from .prose import (
    about_method,
    apart_words,
    finding_words,
    floor_words,
    form_words,
    growth_words,
    headline,
    limits,
    measured_words,
    overview,
    seed_words,
    with_greek,
)
from .run import file_name
from .tables import (
    alpha3_words,
    crossover_row,
    exponent_row,
    form_rows,
    growth_row,
    point_row,
    ridge_rows,
    seed_table,
    text_rows,
    versions_words,
)

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
    notes: Sequence[str] = (),
) -> Path:
    """Save the laws to ``law-<method>/`` and write ``report.html``, one file without any outside reference.

    Where a method was measured at several sizes each has a law, ``law-<method>-<size>/``. ``report.md`` says
    the same where Markdown is read; its figures are those of the saved laws.

    Args:
        folder: of the study.
        points: all of them, as `run_study` returns them.
        findings: from `analyse`.
        text: what the study trained on: domain -> "train" and "held_out" -> `documents`, `bytes`, `tokens`, `hash`;
            and "versions" -> name -> release.
        notes: sentences on what the points mix or leave out.

    Returns:
        The page.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    for finding in findings:
        if finding.law is not None:
            finding.law.save_pretrained(folder / f"law-{file_name(finding.name)}")
    context = _context(folder, points, findings, text or {}) | {"notes": notes}
    write_atomic(folder / "report.md", render("report.md", **context))
    write_atomic(folder / "report.html", fill("report.html", context))
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
        "across": [told.split("\n") for told in across_methods(points, findings)],
        "sizes": across_sizes(points),
        "limits": limits(points),
        "law_folder": f"{folder.name}/law-{file_name(first.name) if first else 'method'}",
        "example": _example(first),
        "n_points": len(points),
        "folder": folder.name,
        "rows": [point_row(point) for point in sorted(points, key=_order)],
        "texts": text_rows(text),
        "versions": versions_words(points, text),
    }


def _section(finding: Finding) -> dict[str, Any]:
    title, about = about_method(finding)
    section: dict[str, Any] = {
        "anchor": f"method-{file_name(finding.name)}",
        "title": title,
        "about": about,
        "problem": finding.problem,
        "finding": finding_words(finding),
        "answer": measured_words(finding),
        "growth": [growth_row(proof) for proof in finding.growth],
        "growth_words": growth_words(finding.growth),
        "seeds": seed_table(finding),
        "seed_words": seed_words(finding.seeds),
        "law": f"law-{file_name(finding.name)}",
        "summary": None,
    }
    if finding.law is None or finding.verdict is None or finding.comparison is None:
        return section
    return section | {
        "finding_sentence": with_greek(str(finding.verdict)),
        "figures": _figures(finding.law, title),
        "null_figure": _null_figure(finding),
        "alpha3": alpha3_words(finding.law),
        "floor": floor_words(finding.law.fitted.params()["E"], finding.law.interval("E")),
        "exponents": [exponent_row(finding.law, d1) for d1 in finding.base_tokens],
        "nulls": [with_greek(str(test)) for test in finding.nulls],
        "forms": form_rows(finding),
        "n_compared": finding.comparison.n_points,
        "apart": apart_words(finding.comparison),
        "ridge": ridge_rows(finding),
        "n_scratch": finding.comparison.n_scratch,
        "crossovers": [crossover_row(d1, decision) for d1, decision in finding.crossovers],
        "summary": summary_text(finding.law.fitted, finding.saturation),
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
    from ..laws import check_figures

    interval = None if finding.law is None else finding.law.interval("alpha3")
    return {
        "kind": "plain",
        "svg": _svg(check_figures.null_figure(finding.nulls, interval)),
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
