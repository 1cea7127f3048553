"""What a fitted law owes to choices and to chance: other objectives on the same points, and repeated seeds.

Checks 8 and 16 of a fit; they take seconds, so they are asked for and not part of `fit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import LawError
from .fitted import LawLike
from .fitting import fit_form

__all__ = ["LackOfFit", "Sensitivity", "lack_of_fit", "objective_sensitivity"]

# The absolute values' limit is taken at a delta a hundred times below any measurement's noise.
_OBJECTIVES = {"huber": ("huber", 1e-3), "absolute values": ("huber", 1e-5), "squares": ("lsq", 1e-3)}


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The parameters under other objectives.

    Attributes:
        params: objective -> parameter -> value, for Huber at 1e-3, the limit of absolute values, and squares.
        moved: objective -> parameter -> how many standard errors of the law's own fit it lies from the law's
            value, those of positive parameters on the log scale; None where the standard error is not known, or
            the points cannot tell the parameter.
    """

    params: Mapping[str, Mapping[str, float]]
    moved: Mapping[str, Mapping[str, float | None]]

    def __str__(self) -> str:
        """One sentence: what moves most, and how far."""
        known = [
            (abs(by), objective, name, by)
            for objective, moves in self.moved.items()
            for name, by in moves.items()
            if by is not None
        ]
        if not known:
            return "How far the objective moves the parameters cannot be said in standard errors: they are not known."
        _, objective, name, by = max(known)
        told = f"Of all objectives (huber 1e-3, absolute values, squares) {objective} moves the law most: "
        told += f"{name} = {self.params[objective][name]:.4g}, {by:+.1f} standard errors."
        if abs(by) > 2:
            told += " The answer depends on the objective; look for outliers, or for a form that fits better."
        return told


def objective_sensitivity(law: LawLike) -> Sensitivity:
    """Refit a law under each objective.

    Raises:
        LawError: the law has no points at hand.
    """
    fitted, points = law.fitted, law.points_
    if points is None:
        raise LawError(
            "This law has no points at hand to refit. Fit it, or load it from a folder that holds its points."
        )
    _, found = fitted.ask(lambda theta: theta, 0.683)
    error = np.full(len(fitted.theta), np.nan) if found is None else (found[1] - found[0]) / 2
    params, moved = {}, {}
    for name, (objective, delta) in _OBJECTIVES.items():
        fit = fit_form(fitted.form, points.logs(fitted.form), points.loss, objective=objective, delta=delta)
        params[name] = fitted.form.to_params(fit.theta)
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = (fit.theta - fitted.theta) / error
        moved[name] = {
            parameter: float(step) if np.isfinite(step) and parameter not in fitted.unidentified else None
            for parameter, step in zip(fitted.form.parameters, steps, strict=True)
        }
    return Sensitivity(params=params, moved=moved)


@dataclass(frozen=True, kw_only=True)
class LackOfFit:
    """Whether a law misses by more than repeated runs differ among themselves.

    Attributes:
        noise: standard deviation of ln(loss) among runs with equal counts.
        ratio: mean square of the law's misses of the means over that of the repeats.
        p: how often chance alone gives a ratio as large, if the noise is normal and rows are independent.
        cells, repeats: different counts, and rows beyond the first of each.
    """

    noise: float
    ratio: float
    p: float
    cells: int
    repeats: int

    def __str__(self) -> str:
        """One sentence."""
        told = f"Repeated runs differ by {self.noise:.2%}"
        if self.p < 0.05:
            return f"{told}; the law misses their means by more than that explains (p = {self.p:.3f})."
        return f"{told}, which explains all that the law misses (p = {self.p:.2f})."


def lack_of_fit(law: LawLike) -> LackOfFit | None:
    """Hold a law's misses against the scatter of repeated runs: the F test of pure error, Draper & Smith 1998, 2.1.

    The misses are those of the form refitted by least squares, whatever the law's own objective: the test knows no
    other, and one outlier among the repeats makes it blind.

    Returns:
        None where no counts are repeated, or there are no more different counts than parameters.

    Raises:
        LawError: the law has no points at hand.
    """
    from scipy.special import fdtrc

    fitted, points = law.fitted, law.points_
    if points is None:
        raise LawError("This law has no points at hand. Fit it, or load it from a folder that holds its points.")
    logs = points.logs(fitted.form)
    _, cell = np.unique(np.stack([logs[name] for name in fitted.form.columns]), axis=1, return_inverse=True)
    cell = cell.ravel()
    counts = np.bincount(cell)
    n, m, k = len(points), len(counts), len(fitted.theta)
    if n == m or m <= k:
        return None
    missed = fit_form(fitted.form, logs, points.loss, objective="lsq").residuals
    means = np.bincount(cell, missed) / counts
    pure = float(np.sum((missed - means[cell]) ** 2)) / (n - m)
    ratio = float(np.sum(counts * means**2)) / (m - k) / max(pure, 1e-300)
    return LackOfFit(noise=pure**0.5, ratio=ratio, p=float(fdtrc(m - k, n - m, ratio)), cells=m, repeats=n - m)
