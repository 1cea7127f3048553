"""What points say for and against a form: rivals on the same rows, held-out errors, and nulls that mimic saturation.

A positive alpha3 alone proves nothing: points of `TotalTokens` give one too. So it is held against what the
nulls produce on the same design.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError, LawError
from .fitted import LawLike, completed
from .fitting import Fit, fit_form, refit
from .forms import find_form
from .points import Points
from .terms import FloatArray, Form

__all__ = ["RIVALS", "Comparison", "FormScore", "NullTest", "Verdict", "compare_forms", "null_test", "verdict"]

RIVALS = ("bootstrap", "multiplicative", "additive", "total_tokens", "effective_transfer")


@dataclass(frozen=True, kw_only=True)
class FormScore:
    """How one form does on the points; errors are means of |predicted / measured - 1|.

    Attributes:
        n_params: parameters fitted, those of a from-scratch branch included.
        error, error_based, error_scratch: on all rows, on those with a base, on those from scratch.
        leave_one_out: on each row, predicted from all others.
        leave_base_out: on all rows of one D1, predicted from the other D1; None with fewer than three.
        aicc, bic: from the sum of squares; descriptive, because rows of one base are not independent. None where
            there are too few rows.
        alpha3: of the bootstrap form.
        floor: E.
    """

    form: str
    n_params: int
    error: float
    error_based: float | None
    error_scratch: float | None
    leave_one_out: float
    leave_base_out: float | None
    aicc: float | None
    bic: float
    alpha3: float | None
    floor: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Forms on the same points, best `leave_one_out` first; `print` shows the table."""

    scores: tuple[FormScore, ...]
    n_points: int
    n_scratch: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """A table as text."""
        head = ("form", "k", "error", "D1 > 0", "D1 = 0", "leave 1 out", "leave D1 out", "AICc", "BIC")
        rows = [
            (
                s.form,
                str(s.n_params),
                *(_percent(x) for x in (s.error, s.error_based, s.error_scratch, s.leave_one_out, s.leave_base_out)),
                "-" if s.aicc is None else f"{s.aicc:.0f}",
                f"{s.bic:.0f}",
            )
            for s in self.scores
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (head, *rows)
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
    **read: Any,
) -> Comparison:
    """Fit several forms to the same rows and hold out rows and bases.

    Rows from scratch are explained by every form: those that diverge there get a branch with two more
    parameters, which AICc and BIC count.

    Args:
        points: as for `Points.read`, with its `where` and `columns`.
        forms: names or `Form` objects; by default `RIVALS`.
        objective: as in `fit_form`.
        delta: as in `fit_form`.
        **read: `where` and `columns`.

    Raises:
        PointError: points no law can use.
        FitError: no form can be fitted to them.
    """
    rows = Points.read(points, **read)
    scores, notes, used = [], [], rows
    for form in (find_form(f) for f in (RIVALS if forms is None else forms)):
        try:
            whole, used = completed(form, rows)
            scores.append(_score(whole, used, objective, delta))
        except FitError as error:
            notes.append(f"{form.name} is not compared: {error}")
    if not scores:
        raise FitError(" ".join(notes))
    if len({score.error_scratch is None for score in scores}) > 1:
        notes.append("Some forms could not use the from-scratch rows, so the rows differ between forms.")
    notes.append("AICc and BIC are descriptive: they take the rows as independent.")
    scores.sort(key=lambda score: score.leave_one_out)
    return Comparison(
        scores=tuple(scores), n_points=len(rows), n_scratch=int(rows.from_scratch.sum()), notes=tuple(notes)
    )


def _score(form: Form, points: Points, objective: str, delta: float) -> FormScore:
    logs = points.logs(form)
    fit = fit_form(form, logs, points.loss, objective=objective, delta=delta)
    n, k = len(points), len(fit.theta)
    scratch = points.from_scratch
    missed = np.abs(np.expm1(-fit.residuals))
    spread = float(np.log(np.mean(fit.residuals**2) + 1e-300))
    params = form.to_params(fit.theta)
    bases = None
    if points.base_tokens is not None:
        bases = [points.base_tokens == level for level in np.unique(points.base_tokens[~scratch])]
    return FormScore(
        form=form.name,
        n_params=k,
        error=float(missed.mean()),
        error_based=None if scratch.all() else float(missed[~scratch].mean()),
        error_scratch=float(missed[scratch].mean()) if scratch.any() else None,
        leave_one_out=_held_out(fit, points, [np.arange(n) == row for row in range(n)]),
        leave_base_out=_held_out(fit, points, bases) if bases is not None and len(bases) >= 3 else None,
        aicc=n * spread + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else None,
        bic=n * spread + k * float(np.log(n)),
        alpha3=params.get("alpha3"),
        floor=params.get("E"),
    )


def _held_out(fit: Fit, points: Points, parts: Sequence[npt.NDArray[np.bool_]]) -> float:
    logs = points.logs(fit.form)
    out = np.array(parts)
    found = refit(fit, logs, points.loss[None], (~out).astype(np.float64))
    with np.errstate(over="ignore"):
        missed = np.abs(np.expm1(fit.form.log_loss(logs, found.theta) - np.log(points.loss)))
    return float(missed[out].mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class NullTest:
    """The bootstrap law held against what a law without saturation produces on the same design.

    Attributes:
        null: the form the draws come from.
        alpha3: as observed.
        null_low, null_high: the middle 95% of alpha3 under the null.
        p_alpha3: how often the null gives an alpha3 as far from its own median, both sides.
        fit_ratio: loss of the null fit over loss of the bootstrap fit, as observed; above 1 the bootstrap law
            fits better.
        p_fit: how often the null's own draws give a ratio as large. Small means: the null does not describe these
            points.
        draws: (n,), alpha3 of every draw.
        noise: the scale of the noise in the draws, in log loss.
    """

    null: str
    alpha3: float
    null_low: float
    null_high: float
    p_alpha3: float
    fit_ratio: float
    p_fit: float
    draws: FloatArray
    noise: float

    def __str__(self) -> str:
        """One plain sentence."""
        name = self.null.replace("_", " ")
        told = (
            f"Points of the {name} law on this design would give alpha3 = {np.median(self.draws):+.3f} "
            f"[{self.null_low:+.3f}, {self.null_high:+.3f}]; observed {self.alpha3:+.3f} (p = {self.p_alpha3:.3f}). "
        )
        if self.p_fit <= 0.05:
            return told + f"The {name} law does not describe these points (its misfit has p = {self.p_fit:.3f})."
        return told + f"The {name} law describes these points as well (p = {self.p_fit:.2f})."


def null_test(
    points: Any, null: str | Form = "total_tokens", n: int = 500, *, delta: float = 1e-3, seed: int = 0, **read: Any
) -> NullTest:
    """Draw points from the fitted null, fit the bootstrap law to them, and see where the observed alpha3 stands.

    The draws have the design of the points and independent log-normal noise of the residual scale: that of
    the null's fit or of the bootstrap law's, whichever is smaller, because what a law misses by being wrong
    is not noise. They ignore that rows of one base share noise, which makes `p_fit` somewhat too small.

    Args:
        points: as for `Points.read`, with its `where` and `columns`.
        null: a form that covers every row, without an interaction: "total_tokens" or "effective_transfer".
        n: draws.
        delta: Huber's delta.
        seed: of the draws.
        **read: `where` and `columns`.

    Raises:
        LawError, FitError, PointError: as `compare_forms`.
    """
    rows = Points.read(points, **read)
    null_form = find_form(null)
    law_form, rows = completed(find_form("bootstrap"), rows)
    if "alpha3" in null_form.parameters:
        raise LawError(f"The form {null_form.name!r} has an alpha3 itself and cannot be its null.")
    null_form, rows = completed(null_form, rows)
    logs, ones = rows.logs(law_form), np.ones((1, len(rows)))
    observed = fit_form(law_form, logs, rows.loss, delta=delta)
    null_fit = fit_form(null_form, logs, rows.loss, delta=delta)
    means = np.exp(null_form.log_loss(logs, null_fit.theta[None]))[0]
    mimic = fit_form(law_form, logs, means, delta=delta)
    scales = [np.sum(fit.residuals**2) / (len(rows) - len(fit.theta)) for fit in (null_fit, observed)]
    noise = float(np.sqrt(min(scales)))
    losses = means * np.exp(noise * np.random.default_rng(seed).standard_normal((n, len(rows))))
    under_law = refit(mimic, logs, losses, ones, starts=(observed.theta,))
    under_null = refit(null_fit, logs, losses, ones)
    index = law_form.parameters.index("alpha3")
    draws, alpha3 = under_law.theta[:, index], float(observed.theta[index])
    above, below = (1 + np.sum(draws >= alpha3)) / (n + 1), (1 + np.sum(draws <= alpha3)) / (n + 1)
    ratio = null_fit.value / max(observed.value, 1e-300)
    low, high = np.quantile(draws, [0.025, 0.975])
    return NullTest(
        null=null_form.name,
        alpha3=alpha3,
        null_low=float(low),
        null_high=float(high),
        p_alpha3=float(min(1.0, 2 * min(above, below))),
        fit_ratio=float(ratio),
        p_fit=float((1 + np.sum(under_null.value >= ratio * under_law.value)) / (n + 1)),
        draws=draws,
        noise=noise,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be said about saturation: a finding in a few words, and the sentence with its numbers."""

    finding: str
    sentence: str

    def __str__(self) -> str:
        """The sentence."""
        return self.sentence


def verdict(law: LawLike, nulls: Sequence[NullTest] = ()) -> Verdict:
    """Whether the second stage's exponent falls with the base's tokens, as far as these points can tell.

    Args:
        law: of the form "bootstrap".
        nulls: from `null_test` on the same points. A null that describes the points as well leaves the
            question open, whatever alpha3 is.

    Returns:
        One of the findings "too few bases", "cannot be told", "rises", "cannot be told from <null>", "falls",
        "falls, not tested against nulls".

    Raises:
        LawError: the form has no alpha3.
    """
    fitted = law.fitted
    params = fitted.params()
    if "alpha3" not in params:
        raise LawError(f"The form {fitted.form.name!r} has no alpha3; ask a law of the form 'bootstrap'.")
    found = fitted.interval("alpha3")
    value = f"alpha3 = {params['alpha3']:+.4f}"
    if found is None:
        why = " ".join(fitted.replicates.notes[-1:])
        return Verdict(finding="too few bases", sentence=f"{value}, of unknown uncertainty. {why}")
    low, high = found
    value += f" [{low:+.4f}, {high:+.4f}]"
    few = " (too few bases for more than a hint)" if fitted.replicates.method == "jackknife" else ""
    if low <= 0 <= high:
        told = f"{value} includes 0: these points do not show whether the exponent falls{few}."
        return Verdict(finding="cannot be told", sentence=told)
    if high < 0:
        return Verdict(finding="rises", sentence=f"{value}: the exponent rises with the base's tokens{few}.")
    open_nulls = [test.null.replace("_", " ") for test in nulls if test.p_fit > 0.05]
    if open_nulls:
        names = " and ".join(open_nulls)
        told = f"{value} is positive, but the {names} law, without saturation, describes these points as well{few}."
        return Verdict(finding=f"cannot be told from {names}", sentence=told)
    if not nulls:
        told = f"{value}: the exponent falls, but this was not held against total tokens or effective transfer{few}."
        return Verdict(finding="falls, not tested against nulls", sentence=told)
    names = " and ".join(test.null.replace("_", " ") for test in nulls)
    mimics = " and ".join(f"{np.median(test.draws):+.3f}" for test in nulls)
    told = (
        f"{value}: the exponent falls with the base's tokens{few}. The size of alpha3 alone proves nothing, {names} "
        f"would give {mimics} here; but they do not describe these points."
    )
    return Verdict(finding="falls", sentence=told)
