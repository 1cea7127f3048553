"""A law as a page that answers questions: one file that asks no server, agreeing with Python to 1e-6.

The page's arithmetic is `templates/planner.js`, which repeats every form and the closed and searched answers of
`decisions` and `budgets`; tests hold the two together.
"""

import base64
import hashlib
import json
import math
from importlib.resources import files
from typing import Any

import numpy as np

from .. import __version__
from ..errors import LawError
from ..pages import fill
from ..units import format_count
from .budgets import flops_factor
from .fitted import FittedLaw, LawLike
from .forms import FORMS
from .points import Points
from .report import parameter_rows
from .scratch import WithScratch

__all__ = ["planner_page", "planner_record"]

_LEVEL = 0.95
_LABELS = {
    "base_tokens": "Base tokens (D1)",
    "tokens": "Second-stage tokens (D2)",
    "n_params": "Parameters (N)",
    "unique_tokens": "Unique tokens (U)",
    "mixture_ratio": "Mixture ratio (r)",
    "base_size": "Parameters of the base",
    "size": "Parameters of the model",
    "flops": "Budget (FLOPs)",
}
# Where nothing is known of the data: smallest, largest, and where the control begins.
_USUAL = {
    "base_tokens": (1e8, 1e14, 1e11),
    "tokens": (1e8, 1e14, 1e11),
    "n_params": (1e6, 1e13, 1e9),
    "unique_tokens": (1e8, 1e14, 1e11),
    "mixture_ratio": (0.01, 1.0, 0.5),
}
_FACTOR = 6.0  # FLOPs per parameter and token, as in `budgets`


def planner_page(law: LawLike) -> str:
    """The page as HTML: law and joint refits inside, no request ever, and nothing in it that is not the law's.

    Args:
        law: a fitted law, or one with published parameters, of a form in `FORMS`.

    Raises:
        LawError: a form of one's own, whose formula the page cannot know.
    """
    from markupsafe import Markup

    fitted = law.fitted
    inner = fitted.form.inner if isinstance(fitted.form, WithScratch) else fitted.form
    if type(FORMS.get(inner.name)) is not type(inner):
        raise LawError(f"The form {inner.name!r} is not in FORMS, so a page cannot know its formula. Add it.")
    script = "\n".join(_asset(name) for name in ("planner.js", "planner_page.js"))
    style = _asset("planner.css")
    two_stages = {"base_tokens", "tokens"} <= set(fitted.form.columns)
    record = json.dumps(planner_record(fitted), allow_nan=False, separators=(",", ":"))
    boxes, missing = _boxes(fitted, two_stages=two_stages)
    columns = fitted.form.columns
    values = {
        "title": f"Scaling law: {inner.name.replace('_', ' ')}",
        "formula": fitted.form.formula,
        "script": Markup(script),  # noqa: S704  our own file
        "style": Markup(style),  # noqa: S704
        # A "<" could end the block; as an escape it is the same JSON.
        "law": Markup(record.replace("<", "\\u003c").replace("&", "\\u0026")),  # noqa: S704
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "groups": _groups(fitted, law.points_, two_stages=two_stages),
        "boxes": boxes,
        "missing": missing,
        "curve": f"loss{' at this base' if two_stages else ' at this size' if 'n_params' in columns else ''}",
        "scratch": two_stages and fitted.form.covers_scratch,
        "band": fitted.replicates.method != "none",
        "parameters": parameter_rows(fitted),
        "about": _about(fitted),
        "warnings": fitted.warnings,
        "source": f"Source of the form: {inner.source}.",
        "version": __version__,
    }
    return fill("planner.html", values)


def planner_record(law: FittedLaw) -> dict[str, Any]:
    """What the page computes with, as plain JSON; numbers in full precision."""
    from scipy.special import ndtr, stdtrit

    found = law.replicates
    inner = law.form.inner if isinstance(law.form, WithScratch) else law.form
    width = tail = None
    if found.method != "none":
        width = float(stdtrit(found.clusters - 1, 0.5 + _LEVEL / 2))
        tail = float(ndtr(-width * np.sqrt(found.clusters / (found.clusters - 1))))
    return {
        "form": inner.name,
        "unit": str(law.loss_unit),
        "scratch": isinstance(law.form, WithScratch),
        "shared": len(inner.shared),
        "covers_scratch": law.form.covers_scratch,
        "stages": 2 if {"base_tokens", "tokens"} <= set(law.form.columns) else 1,
        "parameters": list(law.form.parameters),
        "theta": law.theta.tolist(),
        "draws": found.theta.tolist(),
        "method": found.method,
        "width": width,
        "tail": tail,
        "by_error": found.by_error,
        "flops_factor": flops_factor(law),
        "shares": [(m - 1) / m for m in found.strata.tolist()] if found.method == "jackknife" else [],
        "ranges": {name: list(ends) for name, ends in law.ranges.items()},
        "unidentified": list(law.unidentified),
    }


def _asset(name: str) -> str:
    return (files("hf_bootstrap") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _groups(law: FittedLaw, points: Points | None, *, two_stages: bool) -> list[dict[str, Any]]:
    """The controls: the law's columns, then the budget and the sizes it pays for."""
    asked = [_control(name, *_span(law, name)) for name in law.form.columns]
    if not two_stages:
        asked = [{**one, "label": "Tokens (D)"} if one["name"] == "tokens" else one for one in asked]
    groups = [{"title": "The run", "controls": asked}]
    start = {one["name"]: one["start"] for one in asked}
    known = None if points is None or points.n_params is None else float(np.median(points.n_params))
    size = start.get("n_params", known or 1e9)
    tokens = start["tokens"] + start.get("base_tokens", 0.0)
    flops = _control("flops", *_around(_FACTOR * size * tokens, 1e4))
    if two_stages:
        controls = [flops, _control("base_size", *_around(size, 1e3))]
        if "n_params" not in law.form.columns:
            controls.append(_control("size", *_around(size, 1e3)))
        groups.append({"title": "The budget of both stages", "controls": controls})
    elif set(law.form.columns) == {"tokens", "n_params"}:
        groups.append({"title": "A budget", "controls": [flops]})
    return groups


def _control(name: str, low: float, high: float, start: float) -> dict[str, Any]:
    return {"name": name, "label": _LABELS[name], "low": repr(low), "high": repr(high), "start": start}


def _around(value: float, factor: float) -> tuple[float, float, float]:
    return value / factor, value * factor, _short(value)


def _span(law: FittedLaw, name: str) -> tuple[float, float, float]:
    """What a control reaches: two decades beyond the data, as far as the law answers."""
    if name not in law.ranges:
        return _USUAL[name]
    low, high = law.ranges[name]
    top = min(high * 100, 1.0) if name == "mixture_ratio" else high * 100
    return low / 100, top, _short(math.sqrt(low * high))


def _short(value: float) -> float:
    """Three digits, as the page shows them."""
    return float(f"{value:.3g}")


def _boxes(law: FittedLaw, *, two_stages: bool) -> tuple[list[dict[str, str]], str]:
    """The answers this law can give, and why it cannot give others."""
    inner = law.form.inner if isinstance(law.form, WithScratch) else law.form
    known = not law.unidentified
    boxes, missing = [{"id": "loss", "title": "Predicted loss"}], []
    one = {"base_tokens": np.zeros(1), "tokens": np.zeros(1), "n_params": np.zeros(1)}
    has_exponent = two_stages and law.form.exponents(one, law.theta[None]) is not None
    if two_stages:
        if law.form.covers_scratch and known:
            boxes.append({"id": "crossover", "title": "Reuse beats scratch up to"})
        elif not law.form.covers_scratch:
            missing.append("This law was made without runs from scratch, so it cannot say until when reuse pays.")
        if has_exponent and not {"alpha2", "alpha3"} & set(law.unidentified):
            boxes.append({"id": "exponent", "title": "Exponent"})
        if "alpha3" in inner.parameters:
            boxes.append({"id": "saturation", "title": "Saturation"})
        if known:
            boxes.append({"id": "split", "title": "Best split of the budget"})
    elif set(law.form.columns) == {"tokens", "n_params"} and known:
        boxes.append({"id": "optimal", "title": "Best size for the budget"})
    if not known:
        missing.append(
            f"These points cannot tell {', '.join(law.unidentified)} apart, so the law says nothing off their line and "
            "decides nothing."
        )
    return boxes, " ".join(missing)


def _about(law: FittedLaw) -> str:
    if law.error is None:
        return "The parameters were given, not fitted here: there are no intervals."
    ranges = "; ".join(f"{n} {format_count(a)} to {format_count(b)}" for n, (a, b) in law.ranges.items())
    scratch = f", {law.n_scratch} of them from scratch" if law.n_scratch else ""
    return f"{law.n_points} points{scratch}; {ranges}; mean absolute error {law.error:.2%}."
