"""Rival forms on the same rows: their errors, on rows they saw and on bases they did not, and which of them remain.

Whether alpha3 means saturation is asked in `saturation`; what the objective does to the answer, in `sensitivity`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError
from .fitted import completed
from .fitting import Fit, fit_form, refit
from .forms import FORMS, find_form
from .identifiability import identify
from .points import Points
from .resampling import FEW, error_over_clusters, find_clusters
from .tables import NUMBERS
from .terms import FloatArray, Form, Logs

__all__ = ["RIVALS", "Comparison", "FormScore", "compare_forms", "default_rivals", "held_out_errors"]

_TWO_STAGE = (
    "bootstrap",
    "multiplicative",
    "additive",
    "total_tokens",
    "effective_transfer",
    "cpt_dynamics",
    "unified",
)
# One standard error prefers a parameter the points do not need in a tenth of draws, two in one of twenty,
# and asking for the whole 95% interval takes the interaction for none in four of ten (benchmarks/selection.py).
_NEAR = 2.0
RIVALS = tuple(name for name in _TWO_STAGE if name in FORMS)
_SIZES = 3  # model sizes from which a term of size can be told
# What is left out by its size -> the head of its column.
_LARGEST = {"largest_base_out": "largest D1", "largest_tokens_out": "largest D2", "largest_n_params_out": "largest N"}


@dataclass(frozen=True, kw_only=True)
class FormScore:
    """How one form does on the points; errors are means of |predicted / measured - 1|.

    Attributes:
        n_params: parameters fitted, those of a from-scratch branch included.
        error, error_based, error_scratch: on all rows, on those with a base, on those from scratch.
        leave_one_out: on each row, predicted from all others.
        leave_base_out: on each base's rows, predicted from the other bases; rows from scratch are left out by
            run. Each error counts as at most 1, so that one wild extrapolation does not decide. None with fewer
            than three bases.
        largest_base_out, largest_tokens_out, largest_n_params_out: on the rows of the largest D1 (or D2, or N),
            predicted from all smaller ones; None with fewer than four values.
        behind, behind_low, behind_high: `leave_base_out` less that of the best form, with the 95% interval of
            this difference, t over the bases; None where it is not known.
        aicc, bic: from the sum of squares; descriptive, because rows of one base are not independent. None where
            there are too few rows.
        alpha3: of the bootstrap form; None where these points cannot tell it.
        floor: E, likewise.
    """

    form: str
    n_params: int
    error: float
    error_based: float | None
    error_scratch: float | None
    leave_one_out: float
    leave_base_out: float | None
    largest_base_out: float | None
    largest_tokens_out: float | None
    largest_n_params_out: float | None = None
    behind: float | None = None
    behind_low: float | None = None
    behind_high: float | None = None
    aicc: float | None
    bic: float
    alpha3: float | None
    floor: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Forms on the same points, best on bases left out first; `print` shows the table.

    Attributes:
        scores: one per form.
        confidence_set: the forms whose difference to the best may be none, at 95%; None where it is not known.
        preferred: of the forms within two standard errors of the best, the one with the fewest parameters (after
            the rule of Breiman et al. 1984, section 3.4.3, who take one); None where that is not known.
        n_points, n_scratch: rows compared, and how many of them had base_tokens 0.
        notes: what a reader must know, first of all whether the points can tell the forms apart.
    """

    scores: tuple[FormScore, ...]
    confidence_set: tuple[str, ...] | None
    preferred: str | None
    n_points: int
    n_scratch: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """A table as text."""
        largest = [name for name in _LARGEST if any(getattr(s, name) is not None for s in self.scores)]
        head = ("form", "remains", "k", "error", "leave 1 out", "leave base out", "behind the best")
        rows: list[tuple[str, ...]] = [(*head, *(_LARGEST[name] for name in largest), "AICc", "BIC")]
        for s in self.scores:
            behind = "-" if s.behind_low is None else f"{s.behind:.2%} [{s.behind_low:+.2%}, {s.behind_high:+.2%}]"
            errors = (s.error, s.leave_one_out, s.leave_base_out)
            held = [getattr(s, name) for name in largest]
            aicc = "-" if s.aicc is None else f"{s.aicc:.0f}"
            left = "-" if self.confidence_set is None else "yes" if s.form in self.confidence_set else "no"
            told = (*map(_percent, errors), behind, *map(_percent, held), aicc, f"{s.bic:.0f}")
            rows.append((s.form, left, str(s.n_params), *told))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *self.notes])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def compare_forms(
    points: Any,
    forms: Sequence[str | Form] | None = None,
    *,
    objective: str = "huber",
    delta: float = 1e-3,
    seconds: float | None = None,
    **read: Any,
) -> Comparison:
    """Fit several forms to the same rows, hold out rows and bases, and say which forms remain.

    Rows from scratch are explained by every form: those that diverge there get a branch with two more
    parameters, which AICc and BIC count.

    Args:
        points: as for `Points.read`, with its `where` and `columns`.
        forms: names or `Form` objects; by default those of `default_rivals`. One that reads a column the points lack
            is not compared, and a note says so.
        objective: as in `fit_form`.
        delta: as in `fit_form`.
        seconds: after which no further form is begun; the notes say which were not. The first always is.
        **read: `where` and `columns`.

    Raises:
        PointError: points no law can use.
        FitError: no form can be fitted to them.
    """
    rows = Points.read(points, **read)
    scores: list[FormScore] = []
    missed, notes, used = [], [], rows
    end = math.inf if seconds is None else time.monotonic() + seconds
    for form in map(find_form, default_rivals(rows) if forms is None else forms):
        lacking = [name for name in form.columns if getattr(rows, name) is None]
        if lacking:
            notes.append(f"{form.name} is not compared: it reads {' and '.join(lacking)}, which these points lack.")
            continue
        if scores and time.monotonic() > end:
            notes.append(f"{form.name} is not compared: the {seconds:g} s allowed were over.")
            continue
        try:
            whole, used = completed(form, rows)
            score, left_out = _score(whole, used, objective, delta)
        except FitError as error:
            notes.append(f"{form.name} is not compared: {error}")
            continue
        scores.append(score)
        missed.append(left_out)
    if not scores:
        raise FitError(
            f"{' '.join(notes)} Name forms that these points can support with forms=, or columns with columns=."
        )
    if len({score.error_scratch is None for score in scores}) > 1:
        notes.append("Some forms could not use the from-scratch rows, so the rows differ between forms.")
        missed = []
    ranked, chosen, preferred, sentence = _judge(scores, [rows for rows in missed if rows is not None], used)
    return Comparison(
        scores=tuple(ranked),
        confidence_set=chosen,
        preferred=preferred,
        n_points=len(rows),
        n_scratch=int(rows.from_scratch.sum()),
        notes=(sentence, *notes, "AICc and BIC are descriptive: they take the rows as independent."),
    )


def default_rivals(points: Points) -> tuple[str, ...]:
    """The forms to compare where nobody named any: as many as the columns of the points allow.

    Points with a base get `RIVALS`, and where sizes differ the law with a term of size; others the forms of one stage.

    Raises:
        FitError: no form reads only what these points have.
    """
    have = {name for name in NUMBERS if getattr(points, name) is not None}
    if "base_tokens" in have:
        sized = points.n_params is not None and len(np.unique(points.n_params)) >= _SIZES
        return (*RIVALS, "bootstrap_n") if sized else RIVALS
    found = tuple(name for name, form in FORMS.items() if set(form.columns) <= have)
    if not found:
        raise FitError(
            f"No form reads only {', '.join(sorted(have - {'loss'}))}: laws of one stage read n_params as well, and "
            "those of two base_tokens. Name the column of one of them with columns=."
        )
    return found


def _judge(
    scores: Sequence[FormScore], missed: Sequence[FloatArray], points: Points
) -> tuple[list[FormScore], tuple[str, ...] | None, str | None, str]:
    """The scores, best first; which forms remain; the preferred one; and the sentence that says both.

    Args:
        scores: one per form.
        missed: of each form, the error of every row when its base is left out; fewer where that is not known.
        points: the rows.
    """
    if len(missed) == len(scores):
        width = _t_width(points)
        ranked = _rank(scores, missed, points, width)
        return ranked, *_remaining(ranked, width)
    sentence = f"Which forms remain is not known: it takes {FEW} bases left out in turn, and the same rows."
    return sorted(scores, key=lambda score: score.leave_one_out), None, None, sentence


def _score(form: Form, points: Points, objective: str, delta: float) -> tuple[FormScore, FloatArray | None]:
    """The score, and the capped error of every row when its base is left out."""
    logs = points.logs(form)
    fit = fit_form(form, logs, points.loss, objective=objective, delta=delta)
    n, k = len(points), len(fit.theta)
    scratch = points.from_scratch
    missed = np.abs(np.expm1(-fit.residuals))
    spread = float(np.log(np.mean(fit.residuals**2) + 1e-300))
    lost = identify(points, fit).lost
    known = {name: value for name, value in form.to_params(fit.theta).items() if name not in lost}
    clusters = find_clusters(points)
    by_base = None
    if len(clusters.strata[0]) >= FEW:
        parts = [rows for stratum in clusters.strata for rows in stratum]
        by_base = np.minimum(
            held_out_errors(fit, logs, points.loss, [np.isin(np.arange(n), rows) for rows in parts]), 1.0
        )
    score = FormScore(
        form=form.name,
        n_params=k,
        error=float(missed.mean()),
        error_based=None if scratch.all() else float(missed[~scratch].mean()),
        error_scratch=float(missed[scratch].mean()) if scratch.any() else None,
        leave_one_out=float(held_out_errors(fit, logs, points.loss, [np.arange(n) == row for row in range(n)]).mean()),
        leave_base_out=None if by_base is None else float(by_base.mean()),
        largest_base_out=_largest_out(fit, points, points.base_tokens),
        largest_tokens_out=_largest_out(fit, points, points.tokens),
        largest_n_params_out=_largest_out(fit, points, points.n_params),
        aicc=n * spread + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else None,
        bic=n * spread + k * float(np.log(n)),
        alpha3=known.get("alpha3"),
        floor=known.get("E"),
    )
    return score, by_base


def held_out_errors(fit: Fit, logs: Logs, loss: FloatArray, parts: Sequence[npt.NDArray[np.bool_]]) -> FloatArray:
    """The error of every row in `parts`, in row order, each part predicted from all other rows."""
    out = np.array(parts)
    found = refit(fit, logs, loss[None], (~out).astype(np.float64))
    with np.errstate(over="ignore"):
        missed = np.abs(np.expm1(fit.form.log_loss(logs, found.theta) - np.log(loss)))
    return np.asarray(np.where(out, missed, 0.0).sum(axis=0)[out.any(axis=0)])


def _largest_out(fit: Fit, points: Points, column: FloatArray | None) -> float | None:
    if column is None or len(np.unique(column[column > 0])) <= FEW:
        return None
    return float(held_out_errors(fit, points.logs(fit.form), points.loss, [column == column.max()]).mean())


def _t_width(points: Points) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(len(find_clusters(points).strata[0]) - 1, 0.975))


def _rank(scores: Sequence[FormScore], missed: Sequence[FloatArray], points: Points, width: float) -> list[FormScore]:
    """Best first, with the interval of the difference to the best: t over whole bases, strata kept apart."""
    means = [float(rows.mean()) for rows in missed]
    best = missed[int(np.argmin(means))]
    strata = find_clusters(points).strata
    ranked = []
    for i in np.argsort(means, kind="stable"):
        gap = missed[i] - best
        half = width * error_over_clusters(gap, strata)
        behind = float(gap.mean())
        ranked.append(replace(scores[i], behind=behind, behind_low=behind - half, behind_high=behind + half))
    return ranked


def _remaining(scores: Sequence[FormScore], width: float) -> tuple[tuple[str, ...], str, str]:
    """The confidence set, the preferred form, and the sentence that says both."""
    left = tuple(s.form for s in scores if s.behind_low is not None and s.behind_low <= 0)
    near = [s for s in scores if (s.behind or 0.0) <= _NEAR * ((s.behind or 0.0) - (s.behind_low or 0.0)) / width]
    preferred = min(near, key=lambda s: s.n_params).form
    words = [name.replace("_", " ") for name in left]
    if len(left) == 1:
        return left, preferred, f"Only {words[0]} remains: every other form is worse on bases left out (95%)."
    told = f"{', '.join(words[:-1])} and {words[-1]}"
    sentence = (
        f"These points cannot tell {told} apart (95%, bases left out). Of those within {_NEAR:g} standard errors of "
        f"the best, {preferred.replace('_', ' ')} has the fewest parameters."
    )
    return left, preferred, sentence
