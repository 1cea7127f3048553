"""The page `docs/laws.md`: every form with formula, source, columns, parameters and limits, written from `FORMS`.

python -m hf_bootstrap.laws.catalogue > docs/laws.md
"""

import inspect
import sys

from .forms import FORMS
from .scratch import WithScratch
from .terms import Form

__all__ = ["catalogue_text"]

_INTRODUCTION = """# The laws

Generated from `hf_bootstrap.FORMS` by `python -m hf_bootstrap.laws.catalogue > docs/laws.md`; do not edit.

Tokens and parameters are raw counts, losses nats per token, logs natural. A number without its unit means nothing
here: counted in billions instead of tokens, alpha1 and alpha2 of the bootstrap law are other numbers.

| letter | column | meaning |
|---|---|---|
| D1 | `base_tokens` | tokens of the first stage; 0 from scratch |
| D2, D | `tokens` | tokens of the second stage, or of the only one |
| N | `n_params` | non-embedding parameters |
| U | `unique_tokens` | tokens of one epoch |
| r | `mixture_ratio` | share of the measured domain in the training tokens |

Where all points have the same ratio of two columns (D2/D1, D/N), they follow one line: a fit says so, whatever the
form, and knows the law on that line alone. What that leaves of its parameters is said with each form.

"""
# What points with D2 = c D1 (of one stage: D = c N) know; of other forms every parameter, by curvature alone.
_ON_A_LINE = {
    "bootstrap": "ln A - alpha2 ln c, alpha1 + alpha2, alpha3 (by curvature alone) and E; not A, alpha1, alpha2.",
    "bootstrap_n": "ln A - alpha2 ln c, alpha1 + alpha2, alpha3 (by curvature alone), B, beta and E; not A, alpha1, "
    "alpha2.",
    "multiplicative": "ln A - alpha2 ln c, alpha1 + alpha2 and E; not A, alpha1, alpha2.",
    "hybrid": "ln A - alpha2 ln c, alpha1 + alpha2, B, beta and E; not A, alpha1, alpha2.",
    "unified": "alpha, ln A - (alpha / s) ln(c^s + k) and E; not A, k, s.",
    "total_tokens": "all of it: the form knows no other ratio.",
    "cross_lingual": "A, alpha, ln B - beta ln c, beta + gamma and E; not B, beta, gamma.",
    "gadre": "eta, a c^eta + b c^-eta and E; not a, b.",
}


def catalogue_text() -> str:
    """The whole page."""
    head = "| form | formula | k |\n|---|---|---|\n"
    rows = [f"| [`{name}`](#{name}) | `{_first(form)}` | {len(form.parameters)} |\n" for name, form in FORMS.items()]
    return _INTRODUCTION + head + "".join(rows) + "".join(_section(form) for form in FORMS.values())


def _first(form: Form) -> str:
    return form.formula.partition("; ")[0]


def _section(form: Form) -> str:
    """One form; what it is for is the first paragraph of its class."""
    text = inspect.cleandoc(type(form).__doc__ or "").replace("`Bootstrap`", "`bootstrap`")
    for other in FORMS.values():
        text = text.replace(f"`{type(other).__name__}`", f"`{other.name}`")
    lines = [f"\n## {form.name}\n", f"{text}\n", f"    {_first(form)}"]
    lines += [f"    where {part}" for part in form.formula.split("; ")[1:]]
    lines += ["", f"Source: {form.source}.", "", f"Reads {', '.join(f'`{column}`' for column in form.columns)}."]
    lines += ["", "| parameter | what it is | range |", "|---|---|---|"]
    for name in form.parameters:
        lines.append(f"| {name} | {form.units[name]} | {'above 0' if name in form.positive else 'any'} |")
    ratio = "D2/D1" if "base_tokens" in form.columns else "D/N"
    line = _ON_A_LINE.get(form.name, "its parameters by curvature alone, so hardly; the terms stand in for each other.")
    lines += [
        "",
        f"Where it holds: {form.domain}",
        "",
        f"Known at a constant {ratio} = c: {line}",
        "",
        f"From scratch: {_from_scratch(form)}",
        "",
    ]
    return "\n".join(lines)


def _from_scratch(form: Form) -> str:
    if "base_tokens" not in form.columns:
        return "it knows no first stage."
    if form.covers_scratch:
        return "D1 = 0 is a row like any other."
    branch = WithScratch(form).formula.partition("; from scratch (D1 = 0): ")[2]
    return f"it diverges at D1 = 0; such rows are fitted together with it as `{branch}`."


if __name__ == "__main__":
    sys.stdout.write(catalogue_text())
