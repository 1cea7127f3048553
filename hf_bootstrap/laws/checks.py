"""The checks a fit makes by itself: each looks at one thing and says a sentence, or nothing.

The sentences become the numbered warnings of `ScalingLaw.summary()`.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ..units import format_count
from .fitting import Fit
from .points import Points
from .resampling import Replicates
from .scratch import WithScratch
from .terms import FloatArray

__all__ = ["CHECKS", "run_checks", "unidentified"]

_Check = Callable[[Points, Fit, Replicates], Iterator[str]]


def run_checks(points: Points, fit: Fit, replicates: Replicates) -> tuple[str, ...]:
    """Every sentence of every check, in order, then what is known of intervals and of rows left out."""
    found = [sentence for check in CHECKS for sentence in check(points, fit, replicates)]
    return (*found, *replicates.notes, *points.left_out)


def unidentified(fit: Fit) -> tuple[str, ...]:
    """The parameters these points cannot tell apart: those in a direction that leaves every prediction as it is."""
    size = np.linalg.norm(fit.slopes, axis=0)
    seen = size > 1e-9 * size.max()
    _, singular, directions = np.linalg.svd(fit.slopes[:, seen] / size[seen], full_matrices=False)
    flat = directions[singular < 1e-7 * singular[0]]
    lost = ~seen
    lost[seen] = np.any(np.abs(flat) > 1e-3, axis=0)
    return tuple(name for name, gone in zip(fit.form.parameters, lost, strict=True) if gone)


def _convergence(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del points, replicates
    if not fit.converged:
        yield "The search stopped before it converged; the parameters may not be the best ones."
    if fit.share < 0.1:
        yield f"Only {fit.share:.0%} of {fit.n_starts} starts reached the optimum; there may be a better one."
    if fit.second is not None and fit.second[0] < 1.02 * fit.value:
        other = fit.form.to_params(fit.second[1])
        told = ", ".join(f"{name} {value:.4g}" for name, value in other.items())
        yield f"A second optimum fits almost as well (loss {fit.second[0] / fit.value - 1:+.2%}): {told}."


def _count(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    n, k = len(points), len(fit.theta)
    if n < 2 * k:
        yield f"{n} points for {k} parameters: fewer than two each. Errors on these points flatter the law."


def _identifiability(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    lost = [name for name in unidentified(fit) if name != "E" or fit.form.to_params(fit.theta)["E"] > 1e-6]
    if not lost:
        return
    cause = ""
    if points.base_tokens is not None and not points.from_scratch.all():
        based = ~points.from_scratch
        ratio = points.tokens[based] / points.base_tokens[based]
        if np.ptp(np.log(ratio)) < 1e-3:
            cause = " because D2/D1 is constant"
    yield f"{', '.join(lost)} cannot be told apart by these points{cause}; their single values mean nothing."


def _range(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    based = ~points.from_scratch
    for name in fit.form.columns:
        column = getattr(points, name)
        column = column[based] if name == "base_tokens" else column
        if not len(column):
            continue
        levels = len(np.unique(column))
        decades = np.log10(column.max() / column.min())
        if levels < 3:
            yield f"{name} has {levels} level{'s' if levels > 1 else ''}; a curve needs at least 3."
        elif decades < 1:
            yield f"{name} spans {decades:.2f} decades ({_span(column)}); exponents need at least one."
    if points.n_params is not None and "n_params" not in fit.form.columns and len(np.unique(points.n_params)) > 1:
        yield f"Model sizes differ ({_span(points.n_params)}), but this form has no term for size."


def _span(column: FloatArray) -> str:
    return f"{format_count(column.min())} to {format_count(column.max())}"


def _floor(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    if "E" not in fit.form.parameters:
        return
    index = fit.form.parameters.index("E")
    floor, least = float(np.exp(fit.theta[index])), float(points.loss.min())
    if floor < 1e-3 * least:
        yield "E has gone to 0: these points show no floor, so every other parameter stands in for it."
    elif floor >= least:
        yield f"E = {floor:.4g} is not below the smallest loss, {least:.4g}; the floor is not believable."
    else:
        found = replicates.interval(np.array(floor), np.exp(replicates.theta[:, index]))
        if found is not None and found[0] <= 0.05 * floor:
            yield f"E is not identified: its interval runs from 0 to {float(found[1]):.3g}."


def _exponents(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    for name, value in fit.form.to_params(fit.theta).items():
        if value < 0 and name != "alpha3":
            yield f"{name} = {value:.4g} is negative: the law says more tokens make the loss worse."
    local = fit.form.exponents(points.logs(fit.form), fit.theta[None])
    for name, values in (local or {}).items():
        rising = np.flatnonzero(values[0] <= 0)
        if len(rising):
            yield (
                f"Inside the data, at {len(rising)} of {len(points)} points, the exponent of {name} is not positive: "
                "there the law says loss rises with more tokens."
            )


def _residuals(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    spread = 1.4826 * np.median(np.abs(fit.residuals - np.median(fit.residuals)))
    far = np.flatnonzero(np.abs(fit.residuals) > 5 * max(spread, 1e-6))
    if 0 < len(far) <= len(points) // 4:
        names = points.run_id if points.run_id is not None else [f"row {row + 1}" for row in range(len(points))]
        told = ", ".join(f"{names[row]} ({fit.residuals[row]:+.1%})" for row in far[:5])
        yield f"{len(far)} outlier{'s' if len(far) > 1 else ''} beyond five times the usual error: {told}."
    error = float(np.sqrt(np.mean(fit.residuals**2)))
    if error > 0.05:
        yield f"The law misses by {error:.1%} (root mean square); this form does not describe these points."
    if replicates.unit == "row" and points.base_tokens is not None:
        yield from _grouped(points.base_tokens, fit.residuals)


def _grouped(base_tokens: FloatArray, residuals: FloatArray) -> Iterator[str]:
    """Whether rows of one D1 err together, which resampling by row would not see."""
    from scipy.special import fdtrc

    levels, group = np.unique(base_tokens, return_inverse=True)
    counts = np.bincount(group)
    between, within = len(levels) - 1, len(residuals) - len(levels)
    if between < 1 or within < 2:
        return
    means = np.bincount(group, residuals) / counts
    inside = np.sum((residuals - means[group]) ** 2) / within
    ratio = np.sum(counts * (means - residuals.mean()) ** 2) / between / max(inside, 1e-30)
    if fdtrc(between, within, ratio) < 0.05:
        yield (
            "There are no base ids, and rows of one D1 err together: the intervals, which treat rows as independent, "
            "are too narrow. Name base_run_id and base_checkpoint_id."
        )


def _scratch(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    if isinstance(fit.form, WithScratch):
        yield (
            f"{int(points.from_scratch.sum())} from-scratch rows (D1 = 0), where this form diverges, were fitted with "
            "it as A_scratch * D2^-alpha_scratch + E with the same E."
        )


CHECKS: tuple[_Check, ...] = (
    _convergence,
    _count,
    _identifiability,
    _range,
    _floor,
    _exponents,
    _residuals,
    _scratch,
)
