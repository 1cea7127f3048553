"""The sixteen checks a fit makes by itself: each looks at one thing and says a sentence, or nothing.

The sentences become the numbered warnings of `ScalingLaw.summary()`. Checks of the points alone, before any
fit is looked at, are in `design_checks`; which parameters a design can tell apart is worked out in `identifiability`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from . import design_checks
from .fitting import Fit, refit
from .identifiability import Identifiability, identify
from .noise import outliers
from .points import Points
from .resampling import Replicates
from .scratch import WithScratch
from .terms import FloatArray

__all__ = ["CHECKS", "Check", "run_checks"]

_Look = Callable[[Points, Fit, Replicates], Iterator[str]]
_MANY_ROWS = 400  # beyond which single rows have no influence worth a refit each


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        about: what it looks at, in a sentence.
        look: the sentences it has to say about points, a fit and its replicates; None for a check that is made
            elsewhere, where `about` says.
    """

    about: str
    look: _Look | None


def run_checks(points: Points, fit: Fit, replicates: Replicates) -> tuple[str, ...]:
    """Every sentence of every check, in order, then what is known of intervals and of rows left out."""
    looks = [check.look for check in CHECKS.values() if check.look is not None]
    found = [sentence for look in looks for sentence in look(points, fit, replicates)]
    return (*found, *replicates.notes, *points.left_out)


def _look_convergence(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    if not fit.converged:
        yield "The search stopped before it converged; the parameters may not be the best ones."
    if fit.share < 0.1:
        yield f"Only {fit.share:.0%} of {fit.n_starts} starts reached the optimum; there may be a better one."
    if fit.second is not None and fit.second[0] < 1.02 * fit.value + 1e-20:
        other, lost = fit.form.to_params(fit.second[1]), identify(points, fit).lost
        told = ", ".join(f"{name} {value:.4g}" for name, value in other.items() if name not in lost)
        more = max(fit.second[0] / max(fit.value, 1e-20) - 1, 0.0)
        yield f"A second optimum fits almost as well (loss {more:+.2%}): {told or 'none of its values is known'}."


def _look_count(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    n, k = len(points), len(fit.theta)
    if n < 2 * k:
        yield f"{n} points for {k} parameters: fewer than two each. Errors on these points flatter the law."


def _look_identifiability(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    found = identify(points, fit)
    if found.constant and not found.by_ratio:
        yield (
            f"{_ratios(found)} constant at these points, so they follow one line: off it nothing checks the law, and "
            "what the form does with each column by itself is told by curvature alone. Vary each column by itself."
        )
    if found.lost:
        yield _lost(found, fit)
        return
    names, related = fit.form.parameters, _correlations(fit, replicates)
    close = [(i, j) for i in range(len(names)) for j in range(i) if abs(related[i, j]) > 0.98]
    if close:
        told = ", ".join(f"{names[j]} and {names[i]} ({related[i, j]:+.3f})" for i, j in close)
        yield (
            f"These parameters are known only together, their estimates are correlated: {told} (condition number "
            f"of the scaled Jacobian {found.condition:.1e}). Predictions are known better than they are."
        )


def _lost(found: Identifiability, fit: Fit) -> str:
    """What has no value of its own, why, and what is known instead."""
    known = f" Known are {', '.join(found.combinations)}."
    if not found.combinations:
        known = (
            f" Of {len(fit.theta)} parameters these points know {len(fit.theta) - len(found.moves)}, in no combination "
            "that holds away from this fit."
        )
    because = f" because {_ratios(found)} constant" if found.by_ratio else ""
    if len(found.lost) == 1:
        return (
            f"{found.lost[0]} has no value of its own: around the best fit it changes no prediction at these "
            f"points{because}.{known}"
        )
    curved = "D2/D1" in found.constant and "alpha3" in fit.form.parameters and "alpha3" not in found.lost
    return (
        f"{', '.join(found.lost)} cannot be told apart by these points{because}, and have no value of their own"
        f"{'; alpha3 rests on curvature alone' if curved else ''}.{known}"
    )


def _ratios(found: Identifiability) -> str:
    return f"{' and '.join(found.constant)} {'are' if len(found.constant) > 1 else 'is'}"


def _correlations(fit: Fit, replicates: Replicates) -> FloatArray:
    """Of the estimates: from the resamples, or where there are few or none from the slopes, as of independent rows.

    A handful of values, as leaving out one base at a time gives, would look related by chance.
    """
    related = np.zeros((len(fit.theta), len(fit.theta)))
    if replicates.method == "bootstrap" and len(replicates.theta) > 20:
        moving = replicates.theta.std(axis=0) > 1e-9 * np.maximum(np.abs(fit.theta), 1)
        if moving.sum() > 1:
            related[np.ix_(moving, moving)] = np.corrcoef(replicates.theta[:, moving].T)
        return related
    size = np.linalg.norm(fit.slopes, axis=0)
    moving = size > 1e-9 * size.max()
    scaled = fit.slopes[:, moving] / size[moving]
    variance = np.linalg.pinv(scaled.T @ scaled)
    error = np.sqrt(np.diag(variance))
    related[np.ix_(moving, moving)] = variance / np.outer(error, error)
    return related


def _look_bounds(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    yield from _floor(points, fit, replicates)
    yield from _exponents(points, fit)


def _floor(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    form = fit.form
    floors = form.floors(fit.theta[None])
    if floors is None:
        return
    floor, least = float(floors[0]), float(points.loss.min())
    if not np.isfinite(floor):
        yield f"{form.floor} is no floor here: {form.formula} goes on falling or rising with ever more tokens."
    elif floor < 1e-3 * least:
        where = "has gone to 0" if floor >= 0 else f"= {floor:.4g} is below 0"
        yield f"{form.floor} {where}: these points show no floor, so every other parameter stands in for it."
    elif floor >= least:
        yield f"{form.floor} = {floor:.4g} is not below the smallest loss, {least:.4g}; the floor is not believable."
    else:
        found = replicates.interval(np.array(floor), np.asarray(form.floors(replicates.theta)))
        if found is not None and np.isfinite(found).all() and found[0] <= 0.05 * floor:
            yield f"{form.floor} is not identified: its interval runs from 0 to {float(found[1]):.3g}."


def _exponents(points: Points, fit: Fit) -> Iterator[str]:
    lost = identify(points, fit).lost
    for name, value in fit.form.to_params(fit.theta).items():
        if value < 0 and name not in (*fit.form.either_sign, *lost):
            what = "larger models" if "exponent of N" in fit.form.units.get(name, "") else "more tokens"
            yield f"{name} = {value:.4g} is negative: the law says {what} make the loss worse."
    if lost:  # the exponents at a point are made of what the points do not know
        return
    local = fit.form.exponents(points.logs(fit.form), fit.theta[None])
    for name, values in (local or {}).items():
        rising = np.flatnonzero(values[0] <= 0)
        if len(rising):
            yield (
                f"Inside the data, at {len(rising)} of {len(points)} points, the exponent of {name} is not positive: "
                "there the law says loss rises with more tokens."
            )


def _look_clusters(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    if replicates.unit not in ("row", "run_id"):
        return
    if "base_tokens" in fit.form.columns:
        if _err_together(points.base_tokens, fit.residuals):
            yield (
                "There are no base ids, and rows of one D1 err together: the intervals, which treat rows as "
                "independent, are too narrow. Name base_run_id and base_checkpoint_id."
            )
    elif _err_together(points.n_params, fit.residuals):
        yield (
            "Rows of one model size err together: the intervals, which treat "
            f"{'runs' if replicates.unit == 'run_id' else 'rows'} as independent, are too narrow. Name what they share "
            "as base_run_id."
        )


def _err_together(column: FloatArray | None, residuals: FloatArray) -> bool:
    """Whether rows of one level do, which resampling by row would not see."""
    from scipy.special import fdtrc

    if column is None:
        return False
    levels, group = np.unique(column, return_inverse=True)
    counts = np.bincount(group)
    between, within = len(levels) - 1, len(residuals) - len(levels)
    if between < 1 or within < 2:
        return False
    means = np.bincount(group, residuals) / counts
    inside = np.sum((residuals - means[group]) ** 2) / within
    ratio = np.sum(counts * (means - residuals.mean()) ** 2) / between / max(inside, 1e-30)
    return bool(fdtrc(between, within, ratio) < 0.05)


def _look_residuals(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    far = np.flatnonzero(outliers(fit.residuals, len(fit.theta)))
    if 0 < len(far) <= len(points) // 4:
        names = points.run_id if points.run_id is not None else [f"row {row + 1}" for row in range(len(points))]
        told = ", ".join(f"{names[row]} ({fit.residuals[row]:+.1%})" for row in far[:5])
        yield f"{len(far)} outlier{'s' if len(far) > 1 else ''} beyond five times the usual error: {told}."
    error = float(np.sqrt(np.mean(fit.residuals**2)))
    if error > 0.05:
        yield f"The law misses by {error:.1%} (root mean square); this form does not describe these points."
    yield from _trends(points, fit)


def _trends(points: Points, fit: Fit) -> Iterator[str]:
    """What a form that fits leaves behind along no axis: a slope or a bend of the residuals, or a growing spread."""
    from scipy.special import stdtr

    for name in fit.form.columns:
        column = getattr(points, name)
        rows = column > 0
        if rows.sum() < 12 or len(np.unique(column[rows])) < 4:
            continue
        axis = np.log(column[rows])
        axis = (axis - axis.mean()) / axis.std()
        free = int(rows.sum()) - 2
        for shape, values in (("slope", axis), ("bend", axis**2 - np.mean(axis**2))):
            related = float(np.corrcoef(values, fit.residuals[rows])[0, 1]) if np.ptp(fit.residuals[rows]) else 0.0
            t = abs(related) * np.sqrt(free / max(1 - related**2, 1e-12))
            if 2 * stdtr(free, -t) < 0.001:
                yield f"The residuals have a {shape} along {name} (correlation {related:+.2f}): the form misses it."
        if np.ptp(np.abs(fit.residuals[rows])) == 0:
            continue
        # Spearman's correlation and its t test; importing scipy.stats for them costs more than a fit.
        ordered = float(np.corrcoef(_ranks(axis), _ranks(np.abs(fit.residuals[rows])))[0, 1])
        t = abs(ordered) * np.sqrt(free / max(1 - ordered**2, 1e-12))
        if 2 * stdtr(free, -t) < 0.001:
            way = "large" if ordered > 0 else "small"
            yield f"The residuals spread more at {way} {name}; one noise for all rows is not what they have."


def _ranks(values: FloatArray) -> FloatArray:
    """From 1, ties sharing their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[group])


def _look_objective(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """Least squares and near-absolute values from the same optimum: parameters that move by more than two errors."""
    if replicates.method == "none":
        yield (
            "Whether another objective or a single point moves the parameters was not checked: there are no standard "
            "errors to hold it against."
        )
        return
    error, lost = replicates.error(fit.theta, replicates.theta), identify(points, fit).lost
    logs, ones = points.logs(fit.form), np.ones((1, len(points)))
    rivals = {"least squares": ("lsq", fit.delta), "absolute values": ("huber", 1e-5), "Huber 1e-3": ("huber", 1e-3)}
    for name, (objective, delta) in rivals.items():
        if (objective, delta) == (fit.objective, fit.delta):
            continue
        other = refit(replace(fit, objective=objective, delta=delta), logs, points.loss[None], ones).theta[0]
        far = np.abs(other - fit.theta) / np.maximum(error, 1e-12 * np.maximum(np.abs(fit.theta), 1))
        moved = [(p, f) for p, f, e in zip(fit.form.parameters, far, error, strict=True) if f > 2 and e > 1e-8]
        told = ", ".join(f"{p} by {f:.1f}" for p, f in moved if p not in lost)
        if told:
            yield f"By {name} the parameters move, in standard errors: {told}. The choice of objective matters here."


def _look_influence(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    if replicates.method != "none" and len(fit.theta) + 1 < len(points) <= _MANY_ROWS:
        yield from _one_point(points, fit, replicates)
    yield from _largest(points, fit)


def _one_point(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """Each row left out in turn."""
    error = np.maximum(replicates.error(fit.theta, replicates.theta), 1e-8 * np.maximum(np.abs(fit.theta), 1))
    others = refit(fit, points.logs(fit.form), points.loss[None], 1 - np.eye(len(points))).theta
    known = ~np.isin(fit.form.parameters, identify(points, fit).lost)
    moved = np.where(known, np.abs(others - fit.theta) / error, 0.0)
    row, which = np.unravel_index(int(np.argmax(moved)), moved.shape)
    if moved[row, which] > 1:
        name = points.run_id[row] if points.run_id is not None else f"row {row + 1}"
        yield (
            f"One point carries much: without {name}, {fit.form.parameters[which]} moves by "
            f"{moved[row, which]:.1f} standard errors."
        )


def _largest(points: Points, fit: Fit) -> Iterator[str]:
    """The rows of the largest D1, D2 or N left out together, and predicted from the rest."""
    logs, n = points.logs(fit.form), len(points)
    inside = float(np.mean(np.abs(fit.residuals)))
    for name in fit.form.columns:
        largest = getattr(points, name) == getattr(points, name).max()
        left = n - int(largest.sum())
        if len(np.unique(getattr(points, name))) < 4 or left <= len(fit.theta) + 1:
            continue
        other = refit(fit, logs, points.loss[None], (~largest).astype(float)[None])
        missed = np.abs(fit.form.log_loss(logs, other.theta)[0] - np.log(points.loss))[largest]
        if missed.mean() > max(3 * inside, 0.005):
            yield (
                f"Predicted from the rest, the rows of the largest {name} are missed by {missed.mean():.1%} (all rows, "
                f"fitted, by {inside:.1%}): expect at least that beyond the data."
            )


def _look_lack_of_fit(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """Repeats of one cell show the noise by themselves; a law that fits misses by no more. Copies are no repeats."""
    from scipy.special import fdtrc

    del replicates
    columns = [getattr(points, name) for name in fit.form.columns]
    yield from design_checks.look_copies(np.stack([*columns, points.loss], axis=1))
    _, cell = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    cell = cell.ravel()
    count = np.bincount(cell)
    repeats, spare = len(cell) - len(count), len(count) - len(fit.theta)
    if repeats < 3 or spare < 1:
        return
    means = np.bincount(cell, fit.residuals) / count
    pure = float(np.sum((fit.residuals - means[cell]) ** 2)) / repeats
    lack = float(np.sum(count * means**2)) / spare
    p = float(fdtrc(spare, repeats, lack / max(pure, 1e-30)))
    if p < 0.01:
        yield (
            f"Lack of fit: repeated cells scatter by {np.sqrt(pure):.2%}, but their means are missed by "
            f"{np.sqrt(np.mean(means**2)):.2%} (p = {p:.1g}). What is missing is the form's fault, not noise."
        )


def _look_precision(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    """Losses rounded more coarsely than the law misses them: rounding once cost a published fit its optimum."""
    del replicates
    for digits in (1, 2, 3):
        if np.allclose(points.loss, np.round(points.loss, digits), rtol=0, atol=1e-9):
            step = 10.0**-digits / float(np.median(points.loss)) / np.sqrt(12)
            if step > 0.3 * float(np.sqrt(np.mean(fit.residuals**2))) or digits == 1:
                yield f"The losses are rounded to {digits} decimals, coarse beside the residuals. Log all digits."
            return


def _look_zero_rows(points: Points, fit: Fit, replicates: Replicates) -> Iterator[str]:
    del replicates
    if "base_tokens" in fit.form.columns and points.from_scratch.all():
        yield (
            f"All {len(points)} rows are from scratch (base_tokens 0): nothing here checks what this law says of a "
            "base, and it refuses to say it. Fit rows with a base too."
        )
    if isinstance(fit.form, WithScratch):
        yield (
            f"{int(points.from_scratch.sum())} from-scratch rows (D1 = 0), where this form diverges, were fitted with "
            "it as A_scratch * D2^-alpha_scratch + E with the same E."
        )


CHECKS: dict[str, Check] = {
    "convergence": Check("Did the search end at an optimum that several starts share?", _look_convergence),
    "count": Check(
        "Are there at least two points for each parameter? (As many as parameters are refused.)", _look_count
    ),
    "identifiability": Check("Which parameters can this design tell apart, and why not?", _look_identifiability),
    "range": Check("Does every axis span a decade, and have three levels?", design_checks.look_range),
    "bounds": Check("Is the floor believable, and is every exponent positive inside the data?", _look_bounds),
    "clusters": Check("Without ids, do rows of one base, or of one model size, err together?", _look_clusters),
    "residuals": Check("Are there outliers, trends, unequal spread or a misfit?", _look_residuals),
    "objective": Check("Do other objectives move the parameters?", _look_objective),
    "influence": Check("Does one point, or the largest runs, carry the fit?", _look_influence),
    "extrapolation": Check("How far beyond the data is a question? Checked, and refused, by every prediction.", None),
    "learning rates": Check("Do cells hold several learning rates?", design_checks.look_learning_rates),
    "schedule": Check("Are decayed and undecayed runs mixed?", design_checks.look_schedule),
    "units": Check("Are tokens and sizes raw counts, and losses all in one unit?", design_checks.look_units),
    "zero rows": Check("What became of rows with D1 = 0?", _look_zero_rows),
    "precision": Check("Were losses rounded away? (Laws themselves are saved in full.)", _look_precision),
    "lack of fit": Check("Do repeats show less noise than the law misses?", _look_lack_of_fit),
}
