"""The card of a law: what it says, how sure it is, and how to use it; nothing that is not known.

Its text is `templates/law_card.md`; the page that answers questions in a browser is made in `planner`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..errors import LawError
from ..hub.cards import Markdown, code, front_matter, plain, render, table
from ..units import format_count
from . import decisions
from .crossover import crossover
from .evidence import Comparison
from .fitted import FittedLaw, LawLike
from .points import Points
from .report import parameter_rows
from .scratch import WithScratch

__all__ = ["card_text"]

_SYMBOLS = {
    "base_tokens": "D1 = `base_tokens`, tokens of the first stage",
    "tokens": "D2 = `tokens`, those of the second stage",
    "n_params": "N = `n_params`, non-embedding parameters unless the source counts otherwise",
    "unique_tokens": "U = `unique_tokens`, those of one epoch",
    "mixture_ratio": "r = `mixture_ratio`, the domain's share of the tokens",
}
_ALTS = {
    "three-panels.png": "Loss against second-stage tokens, its exponent and its factor against first-stage tokens",
    "loss-curves.png": "Loss against second-stage tokens, with the law's curves and 95% bands",
    "residuals.png": "What the law misses at each point, in percent",
}
_FOUNDING = (
    "The two-stage law: Liew & Kato 2025, *From Acceleration to Saturation: Scaling Behavior of Bootstrapped Language "
    "Model Pretraining*, [arXiv:2510.06548](https://arxiv.org/abs/2510.06548)."
)


def card_text(
    law: LawLike,
    figures: Sequence[str] = (),
    *,
    address: str = "path/to/this/folder",
    title: str | None = None,
    planner: bool = False,
    comparison: Comparison | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """The card as markdown with YAML front matter.

    Args:
        law: a fitted law, or one with published parameters.
        figures: names of the files in ``figures/`` to show.
        address: what `from_pretrained` is given in the example: a folder or ``user/name``.
        title: of the card; the form's name by default.
        planner: whether ``planner.html`` lies beside the card.
        comparison: of forms on the same points, where one was made.
        metadata: further fields of the front matter: ``license``, ``datasets``, ``base_model``, ``language``.

    Raises:
        HubError: metadata that the Hub would refuse.
    """
    fitted, points = law.fitted, law.points_
    inner = fitted.form.inner if isinstance(fitted.form, WithScratch) else fitted.form
    tags = ["scaling-law", f"{inner.name.replace('_', '-')}-law"]
    given = dict(metadata or {})
    found = {"library_name": "hf-bootstrap", "tags": [*tags, *given.pop("tags", [])], **given}
    symbols = [_symbol(name, fitted) for name in fitted.form.columns]
    return render(
        "law_card.md",
        front_matter=front_matter(found),
        name=title or inner.name,
        what=_what(fitted, points),
        formula=code(fitted.form.formula),
        symbols=Markdown(f"{'; '.join(symbols)}. Raw counts, natural logarithms; loss L in {fitted.loss_unit}."),
        source=inner.source,
        parameters=_parameters(fitted),
        fitted=_fit_sentence(fitted),
        warnings=list(fitted.warnings),
        address=Markdown(address.replace("\\", "/").replace('"', "").replace("\n", " ")),
        example=Markdown(_example(fitted)),
        planner=planner,
        decisions=_decisions(fitted),
        figures=[{"name": Markdown(name), "label": _ALTS.get(name, name)} for name in figures],
        ranges=_ranges(fitted),
        data=[*_definitions(fitted), *_data(points)],
        limits=_limits(fitted, inner.domain),
        residuals=_residuals(fitted, points),
        comparison=None if comparison is None else _comparison(comparison),
        comparison_note="" if comparison is None else " ".join(comparison.notes),
        provenance=_provenance(fitted, points),
        citation=_citation(fitted, inner.source),
    )


def _citation(law: FittedLaw, source: str) -> Markdown:
    two_stages = {"base_tokens", "tokens"} <= set(law.form.columns)
    return Markdown("\n".join([f"- The form: {plain(source)}.", *([f"- {_FOUNDING}"] if two_stages else [])]))


def _symbol(name: str, law: FittedLaw) -> str:
    if name == "tokens" and "base_tokens" not in law.form.columns:
        return "D = `tokens`, trained tokens"
    return _SYMBOLS[name]


def _what(law: FittedLaw, points: Points | None) -> str:
    if {"base_tokens", "tokens"} <= set(law.form.columns):
        told = (
            "The loss of a language model that is trained further: how much the tokens of each of two stages lower it."
        )
    else:
        told = "The loss of a language model after one stage of training."
    if points is not None and points.method is not None:
        methods = sorted({str(value) for value in points.method if value is not None} - {"scratch"})
        told += f" Second stage: {', '.join(methods)}." if methods else ""
    return told


def _parameters(law: FittedLaw) -> Markdown:
    units = law.form.units
    rows = [[code(row[0]), *row[1:], law.loss_unit.spell(units.get(row[0], ""))] for row in parameter_rows(law)]
    if law.replicates.method == "none":
        return table(["parameter", "value", "meaning"], [[row[0], row[1], row[5]] for row in rows])
    return table(["parameter", "value", "standard error", "2.5%", "97.5%", "meaning"], rows)


def _fit_sentence(law: FittedLaw) -> str:
    if law.error is None:
        return "The parameters were given, not fitted here; intervals are not known."
    objective = f"Huber loss (delta {law.delta:g}) of log loss" if law.objective == "huber" else "squares of log loss"
    told = (
        f"Fitted to {law.n_points} points ({law.n_scratch} from scratch) by the least sum of {objective}; mean "
        f"absolute error {law.error:.2%}. Full precision is in law.json."
    )
    replicates = law.replicates
    if replicates.method == "bootstrap":
        resampled = f"{len(replicates.theta)} resamples of {replicates.clusters} clusters"
        return f"{told} Intervals: {resampled} ({replicates.unit})."
    if replicates.method == "jackknife":
        return f"{told} Intervals: one of {replicates.clusters} clusters ({replicates.unit}) left out at a time."
    return f"{told} Intervals are not known."


def _ranges(law: FittedLaw) -> Markdown | None:
    if not law.ranges:
        return None
    rows = [[code(name), format_count(low), format_count(high)] for name, (low, high) in law.ranges.items()]
    return table(["column", "smallest", "largest"], [list(row) for row in rows])


def _definitions(law: FittedLaw) -> list[str]:
    told = {n: f"{d.value:.4g}" if isinstance(d.value, float) else d.value for n, d in law.definitions.items()}
    return [Markdown(f"{code(name)}: {plain(value)}.") for name, value in told.items() if value is not None]


def _data(points: Points | None) -> list[str]:
    found = []
    for name in ("method", "domain"):
        column = None if points is None else getattr(points, name)
        if column is not None:
            found.append(f"{name}: {', '.join(sorted({str(value) for value in column if value is not None}))}.")
    return [*found, *(points.left_out if points is not None else ())]


def _limits(law: FittedLaw, domain: str) -> str:
    near = (
        "Inside the data the law was checked by them; beyond, nothing checks it. predict says how many decades an "
        "answer lies beyond them and refuses more than two. "
        if law.ranges
        else "The data behind these parameters are not here, so how far an answer lies from them is not known. "
    )
    return f"{near}Where the formula holds: {domain}" if domain else near


def _decisions(law: FittedLaw) -> Markdown | None:
    """Examples in the middle of the data, for what this law can answer."""
    middle = {name: float((low * high) ** 0.5) for name, (low, high) in law.ranges.items()}
    rows: list[list[Any]] = []
    if law.form.covers_scratch and {"base_tokens", "tokens"} <= set(middle) and not law.unidentified:
        found = crossover(law, base_tokens=middle["base_tokens"], n_params=middle.get("n_params"))
        rows.append([f"Up to how many tokens does a base of {format_count(middle['base_tokens'])} pay?", str(found)])
    with contextlib.suppress(LawError):  # a form without saturation
        rows.append(["At how many base tokens does the second stage stop helping?", str(decisions.saturation(law))])
    return table(["question", "answer"], rows) if rows else None


def _residuals(law: FittedLaw, points: Points | None) -> Markdown | None:
    if points is None:
        return None
    found = np.expm1(np.log(points.loss) - law.form.log_loss(points.logs(law.form), law.theta[None])[0])
    groups = np.zeros(len(points)) if points.base_tokens is None else points.base_tokens
    rows = []
    for level in np.unique(groups):
        here = found[groups == level]
        name = "all" if points.base_tokens is None else format_count(float(level)) if level else "from scratch"
        rows.append([name, str(len(here)), f"{here.mean():+.2%}", f"{here.min():+.2%}", f"{here.max():+.2%}"])
    return table(["base tokens", "points", "mean", "lowest", "highest"], rows)


def _comparison(found: Comparison) -> Markdown:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    head = ["form", "parameters", "error", "one left out", "a base left out", "AICc"]
    return table(
        head,
        [
            [
                *(code(score.form), str(score.n_params), percent(score.error), percent(score.leave_one_out)),
                *(percent(score.leave_base_out), "-" if score.aicc is None else f"{score.aicc:.0f}"),
            ]
            for score in found.scores
        ],
    )


def _provenance(law: FittedLaw, points: Points | None) -> Markdown:
    rows = [["made by", f"hf-bootstrap {__version__}"]]
    if law.points_digest is not None:
        rows.append(["SHA-256 of the rows fitted", code(law.points_digest)])
    if points is not None and points.records is not None:
        versions: dict[str, set[str]] = {}
        for point in points.records:
            for name, version in (point.versions or {}).items():
                versions.setdefault(str(name), set()).add(str(version))
        rows += [[f"{name} of the runs", ", ".join(sorted(found))] for name, found in sorted(versions.items())]
        runs = {point.run_id for point in points.records}
        rows.append(["runs", str(len(runs))])
    return table(["what", "which"], rows)


def _example(law: FittedLaw) -> str:
    middle = {name: _written((low * high) ** 0.5) for name, (low, high) in law.ranges.items()}
    usual = {"mixture_ratio": "0.5", **({"base_tokens": "0"} if law.ranges else {})}
    return ", ".join(f"{name}={middle.get(name, usual.get(name, '1e9'))}" for name in law.form.columns)


def _written(value: float) -> str:
    """Two digits as a person types them: 5.2e5."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}" if abs(int(exponent)) > 3 else f"{value:.2g}"
