"""The card of a law: what it says, how sure it is, and how to use it; nothing that is not known.

The page that answers questions in a browser, and the Hub, are not its business.
"""

from collections.abc import Sequence

from .. import __version__
from ..units import format_count
from .fitted import FittedLaw, LawLike
from .points import Points
from .report import parameter_rows

__all__ = ["card_text"]


def card_text(law: LawLike, figures: Sequence[str] = ()) -> str:
    """The card as markdown with YAML front matter.

    Args:
        law: a fitted law.
        figures: names of the files in ``figures/`` to show.
    """
    fitted, points = law.fitted, law.points_
    parts = [
        _front_matter(),
        f"# Scaling law: {fitted.form.name}",
        f"`{fitted.form.formula}`",
        "D1 = `base_tokens` (first stage), D2 = `tokens` (second stage, or the only one), N = `n_params`; "
        "raw counts, natural logs, loss in nats per token. Source of the form: " + fitted.form.source + ".",
        "## Parameters",
        _table(("parameter", "value", "standard error", "2.5%", "97.5%"), parameter_rows(fitted)),
        _fit_sentence(fitted),
        *_warnings(fitted),
        *_data(fitted, points),
        *(["## Figures", *(f"![{name}](figures/{name})" for name in figures)] if figures else []),
        "## Use",
        _example(fitted),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter() -> str:
    return "---\nlibrary_name: hf-bootstrap\ntags:\n- scaling-law\n- hf-bootstrap\n---"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _fit_sentence(law: FittedLaw) -> str:
    if law.error is None:
        return "The parameters were given, not fitted here."
    objective = f"Huber loss (delta {law.delta:g}) of log loss" if law.objective == "huber" else "squares of log loss"
    return (
        f"Fitted by hf-bootstrap {__version__} to {law.n_points} points ({law.n_scratch} from scratch) by the least "
        f"sum of {objective}; mean absolute error {law.error:.2%}. Full precision, and the refits behind the "
        "intervals, are in `law.json`."
    )


def _warnings(law: FittedLaw) -> list[str]:
    if not law.warnings:
        return []
    return ["## What to know before trusting it", "\n".join(f"{i}. {w}" for i, w in enumerate(law.warnings, start=1))]


def _data(law: FittedLaw, points: Points | None) -> list[str]:
    if not law.ranges:
        return []
    rows = [(name, format_count(low), format_count(high)) for name, (low, high) in law.ranges.items()]
    told = {n: f"{d.value:.4g}" if isinstance(d.value, float) else d.value for n, d in law.definitions.items()}
    meanings = [f"`{name}`: {value}." for name, value in told.items() if value is not None]
    found = ["## Data", *meanings, _table(("column", "smallest", "largest"), rows)]
    for name in ("method", "domain"):
        column = None if points is None else getattr(points, name)
        if column is not None:
            found.append(f"{name}: {', '.join(sorted({str(value) for value in column if value is not None}))}.")
    return found


def _example(law: FittedLaw) -> str:
    middle = {name: format(float((low * high) ** 0.5), ".2g") for name, (low, high) in law.ranges.items()}
    asked = ", ".join(f"{name}={middle.get(name, '1e9')}" for name in law.form.columns)
    lines = [
        "```python",
        "from hf_bootstrap import ScalingLaw",
        "",
        'law = ScalingLaw.from_pretrained("path/to/this/folder")',
        "print(law.summary())",
        f"print(law.predict({asked}))",
        "```",
    ]
    return "\n".join(lines)
