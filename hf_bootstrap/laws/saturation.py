"""Whether alpha3 means saturation: held against laws without it that give a positive alpha3 all the same.

A positive alpha3 alone proves nothing: points of `TotalTokens` give one too. So it is held against what the
nulls produce on the same design, and its profile with the floor shows how far the two stand in for each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import LawError
from ..units import LossUnit
from .fitted import LawLike, completed
from .fitting import fit_form, refit
from .forms import find_form
from .noise import draw_noise, two_scales
from .points import Points
from .profiles import Profile, profile
from .resampling import find_clusters
from .scratch import WithScratch
from .size import WithSize
from .terms import FloatArray, Form

__all__ = ["NULLS", "NullTest", "SaturationTest", "Verdict", "null_test", "saturation_test", "verdict"]

# What mimics a falling exponent without one: a law of all tokens together, and one of tokens transferred.
NULLS = ("total_tokens", "effective_transfer")


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
        noise, luck: the scale of the noise in the draws, in log loss: of every row, and of what rows of one base
            share.
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
    luck: float

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
    points: Any,
    null: str | Form = "total_tokens",
    n: int = 500,
    *,
    form: str | Form = "bootstrap",
    objective: str = "huber",
    delta: float = 1e-3,
    seed: int = 0,
    **read: Any,
) -> NullTest:
    """Draw points from the fitted null, fit the bootstrap law to them, and see where the observed alpha3 stands.

    Where that law has a term of model size ("bootstrap_n"), the null gets one like it: they differ in tokens alone.

    The draws have the design of the points and log-normal noise of two parts, one for every row and one for every
    base. Both are estimated from the residuals of the null's fit or of the bootstrap law's, whichever are smaller,
    because what a law misses by being wrong is not noise; see `noise.two_scales`.

    Args:
        points: as for `Points.read`, with its `where` and `columns`.
        null: a form that covers every row, without an interaction: "total_tokens" or "effective_transfer".
        n: draws.
        form: the bootstrap law whose alpha3 is judged, "bootstrap" or "bootstrap_n".
        objective, delta: as in `fit_form`, of every fit.
        seed: of the draws.
        **read: `where` and `columns`.

    Raises:
        LawError, FitError, PointError: as `compare_forms`.
    """
    rows = Points.read(points, **read)
    null_form = find_form(null)
    law_form, rows = completed(find_form(form), rows)
    _refuse_without_alpha3(law_form)
    if "alpha3" in null_form.parameters:
        raise LawError(f"The form {null_form.name!r} has an alpha3 itself and cannot be its null. Name one without.")
    if "n_params" in law_form.columns and "n_params" not in null_form.columns:
        null_form = WithSize(null_form)
    null_form, rows = completed(null_form, rows)
    logs, ones = rows.logs(law_form), np.ones((1, len(rows)))
    observed = fit_form(law_form, logs, rows.loss, objective=objective, delta=delta)
    null_fit = fit_form(null_form, logs, rows.loss, objective=objective, delta=delta)
    means = np.exp(null_form.log_loss(logs, null_fit.theta[None]))[0]
    mimic = fit_form(law_form, logs, means, objective=objective, delta=delta)
    clusters = [members for stratum in find_clusters(rows).strata for members in stratum]
    noise, luck = min((two_scales(fit.residuals, fit.slopes, clusters) for fit in (null_fit, observed)), key=_total)
    losses = means * np.exp(draw_noise(noise, luck, clusters, n, len(rows), seed))
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
        luck=luck,
    )


def _refuse_without_alpha3(form: Form) -> None:
    if "alpha3" not in form.parameters:
        raise LawError(
            f"The form {form.name!r} has no alpha3, so there is no exponent that could fall with it. Ask a law of the "
            "form 'bootstrap' or 'bootstrap_n'."
        )


def _total(scales: tuple[float, float]) -> float:
    return math.hypot(*scales)


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
        law: of the form "bootstrap" or "bootstrap_n".
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
    _refuse_without_alpha3(fitted.form)
    if "alpha3" in fitted.unidentified:
        told = "These points cannot tell alpha3 from other parameters, so they do not show whether the exponent falls."
        return Verdict(finding="cannot be told", sentence=told)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class SaturationTest:
    """All there is to say about alpha3: its interval, the nulls, and its profile with the floor.

    Attributes:
        nulls: one test per null; none where the points cannot tell alpha3.
        profile: the joint profile of alpha3 and E; None there, and where nothing could be resampled or left out.
        verdict: the finding and its sentence.
        loss_unit: of E.
    """

    nulls: tuple[NullTest, ...]
    profile: Profile | None
    verdict: Verdict
    loss_unit: LossUnit = LossUnit.NATS

    def __str__(self) -> str:
        """The verdict, then a line per null, then what the floor does to alpha3."""
        lines = [str(self.verdict), *map(str, self.nulls)]
        if self.profile is not None and self.profile.limit is not None:
            low, high = self._floors(self.profile)
            lines.append(
                f"Held at any alpha3 that 95% of the resampled laws allow, the best E runs from {low:.3g} to "
                f"{high:.3g} {self.loss_unit}."
            )
        return "\n".join(lines)

    @staticmethod
    def _floors(found: Profile) -> tuple[float, float]:
        floors, excess = found.best
        allowed = floors[excess <= max(found.limit or 0.0, float(excess.min()))]
        return float(allowed.min()), float(allowed.max())


def saturation_test(
    law: LawLike, nulls: Sequence[str | Form] = NULLS, n: int = 200, *, steps: int | None = None, seed: int = 0
) -> SaturationTest:
    """Whether alpha3 > 0 means saturation, with everything that speaks against it; seconds, so not part of `fit`.

    Args:
        law: of the form "bootstrap" or "bootstrap_n", with its points at hand.
        nulls: forms without saturation.
        n: draws per null.
        steps: values of alpha3 and of E in the profile.
        seed: of the draws.

    Raises:
        LawError: the form has no alpha3, or the law has no points at hand.
    """
    fitted = law.fitted
    _refuse_without_alpha3(fitted.form)
    if law.points_ is None:
        raise LawError("This law has no points at hand. Fit it, or load it from a folder that holds its points.")
    known = "alpha3" not in fitted.unidentified
    form = fitted.form.inner if isinstance(fitted.form, WithScratch) else fitted.form
    tests = tuple(
        null_test(law.points_, null, n, form=form, objective=fitted.objective, delta=fitted.delta, seed=seed)
        for null in nulls
        if known
    )
    return SaturationTest(
        nulls=tests,
        profile=profile(law, "alpha3", "E", steps=steps) if known and len(fitted.replicates.theta) else None,
        verdict=verdict(law, tests),
        loss_unit=fitted.loss_unit,
    )
