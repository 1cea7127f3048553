"""What the parameters would have been on other runs: refits without, or with repeated, whole clusters of rows.

Rows that grew out of the same base share its luck, so whole bases are resampled, never single rows. What a
replicate means for a prediction or a decision is worked out where the question is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import LawError
from .fitting import Fit, refit
from .noise import outliers
from .points import Points
from .terms import FloatArray

__all__ = [
    "FEW",
    "MANY",
    "Clusters",
    "Replicates",
    "draw_clusters",
    "error_over_clusters",
    "find_clusters",
    "no_replicates",
    "replicate",
]

MANY = 6  # clusters from which a bootstrap of clusters can be trusted
_PERCENTILES = 30  # clusters below which the tails of the resamples are no guide to those of the estimate
FEW = 3  # clusters below which nothing can be said about their variation
_RARE = 20  # rows for each that may be an outlier; more are the noise's own tail, or a form that does not describe them


@dataclass(frozen=True, kw_only=True, eq=False)
class Replicates:
    """Joint refits of a law, and how to turn anything computed from them into an interval.

    Attributes:
        theta: (replicates, parameters).
        method: "bootstrap" (clusters drawn with repetition), "jackknife" (one cluster left out at a time), or
            "none".
        unit: what a cluster is: base_run_id, base_checkpoint_id, run_id or row.
        clusters: how many there are among the rows with a base.
        strata: (replicates,), for the jackknife: how many clusters the stratum of the left-out one has.
        notes: sentences a reader of the intervals must know.
    """

    theta: FloatArray
    method: Literal["bootstrap", "jackknife", "none"]
    unit: str
    clusters: int
    strata: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()

    @property
    def by_error(self) -> bool:
        """Whether an interval of the bootstrap is a standard error and t, not percentiles: with few clusters."""
        return self.clusters < _PERCENTILES

    def error(self, estimate: FloatArray, values: FloatArray) -> FloatArray:
        """The standard error of a quantity, on the scale it is given in; see `interval`. There must be replicates."""
        if self.method == "bootstrap":
            return np.asarray(values.std(axis=0))
        share = ((self.strata - 1) / self.strata).reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(np.sqrt(np.sum(share * (values - estimate) ** 2, axis=0)))

    def interval(
        self, estimate: FloatArray, values: FloatArray, level: float = 0.95
    ) -> tuple[FloatArray, FloatArray] | None:
        """An interval for a quantity, on the scale it is given in.

        Jackknife: estimate -+ t * sqrt(sum (m-1)/m (value - estimate)^2), m clusters, t with m - 1 degrees of freedom.
        Bootstrap of fewer than 30 clusters: estimate -+ t * the standard deviation of the values, the same t (Cameron
        & Miller 2015, J. Human Resources 50:317, section VI); of 30 and more, and where some values are infinite:
        percentiles, expanded for the number of clusters (Hesterberg 2015, arXiv:1411.5279, section 5.3).

        Args:
            estimate: the quantity at the fit itself, any shape.
            values: (replicates, *shape), the quantity at each row of `theta`.
            level: nominal coverage.

        Returns:
            (low, high) of the estimate's shape, NaN where a replicate has no answer; None without replicates.
        """
        from scipy.special import stdtrit

        if self.method == "none":
            return None
        width = float(stdtrit(self.clusters - 1, 0.5 + level / 2))
        with np.errstate(invalid="ignore"):
            if self.method == "jackknife":
                half = width * self.error(estimate, values)
                return np.asarray(estimate - half), np.asarray(estimate + half)
            low, high = self._percentiles(values, width)
            if self.by_error:
                half = width * self.error(estimate, values)
                known = np.isfinite(half) & np.isfinite(estimate)
                low, high = np.where(known, estimate - half, low), np.where(known, estimate + half, high)
        return low, high

    def _percentiles(self, values: FloatArray, width: float) -> tuple[FloatArray, FloatArray]:
        from scipy.special import ndtr

        tail = float(ndtr(-width * np.sqrt(self.clusters / (self.clusters - 1))))
        unknown = np.isnan(values).any(axis=0)
        ordered = np.where(unknown, 0.0, values)
        low, high = np.quantile(ordered, [tail, 1 - tail], axis=0, method="inverted_cdf")
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Rows that share their luck.

    Attributes:
        unit: base_run_id, base_checkpoint_id, run_id or row.
        strata: the rows of every cluster: those with a base first, then those from scratch.
        notes: what a reader of anything clustered this way must know.
    """

    unit: str
    strata: tuple[list[npt.NDArray[np.int64]], ...]
    notes: tuple[str, ...]


def no_replicates(parameters: int, *, unit: str, clusters: int, notes: tuple[str, ...]) -> Replicates:
    """The replicates of a law about whose uncertainty nothing is known; `notes` say why."""
    return Replicates(
        theta=np.empty((0, parameters)),
        method="none",
        unit=unit,
        clusters=clusters,
        strata=np.empty(0, dtype=np.int64),
        notes=notes,
    )


def replicate(fit: Fit, points: Points, *, resamples: int = 1000, seed: int = 0) -> Replicates:
    """Refit a law on resampled clusters.

    Clusters are trunks (`base_run_id`) when there are at least six, else base checkpoints; rows from scratch
    are a stratum of their own. With fewer than six base checkpoints each is left out in turn; with fewer than
    three there are no replicates. Without ids every run, or else every row, is a cluster.

    From a robust law's bootstrap of few clusters a rare outlier is set aside: drawn two or three times it would pull
    as no single row does, and decide the width of the interval (Singh 1998, Ann. Statist. 26:1719; Salibian-Barrera
    & Zamar 2002, Ann. Statist. 30:556, who keep the weights of the robust fit). The law itself is fitted with it.

    Args:
        fit: the law on all rows.
        points: the rows it was fitted to.
        resamples: refits of the bootstrap, at least 2.
        seed: of the draws.

    Raises:
        LawError: so many refits cannot be.
    """
    if not isinstance(resamples, Integral) or isinstance(resamples, bool) or resamples < 2:
        raise LawError(f"resamples is {resamples!r}; spread takes a whole number of refits, at least 2, say 1000.")
    found = find_clusters(points)
    unit, groups, notes = found.unit, found.strata, list(found.notes)
    clusters = len(groups[0])
    if clusters < FEW:
        notes.append(
            f"There are no intervals: too few bases ({clusters}) to see how much one differs from another. "
            f"Measure second stages from at least {FEW} bases; {MANY} trunks would do well."
        )
        return no_replicates(len(fit.theta), unit=unit, clusters=clusters, notes=tuple(notes))
    few = clusters < MANY
    if few:
        notes.append(
            f"Too few bases: {clusters} clusters ({unit}). Intervals leave out one at a time (jackknife, t with "
            f"{clusters - 1} degrees of freedom); they are wide and rest on {clusters} values."
        )
    if few:
        weights, strata = _leave_out(groups, len(points))
    else:
        weights, strata = draw_clusters(groups, len(points), resamples, seed), np.zeros(resamples, dtype=np.int64)
        if fit.objective == "huber" and clusters < _PERCENTILES:
            notes += _set_aside(fit, weights)
    refitted = refit(fit, points.logs(fit.form), points.loss[None], weights)
    return Replicates(
        theta=refitted.theta,
        method="jackknife" if few else "bootstrap",
        unit=unit,
        clusters=clusters,
        strata=strata,
        notes=tuple(notes),
    )


def _set_aside(fit: Fit, weights: FloatArray) -> list[str]:
    """Give rare outliers no weight, in place; a note says so."""
    far = outliers(fit.residuals, len(fit.theta))
    count = int(far.sum())
    if not 0 < count <= len(fit.residuals) // _RARE:
        return []
    weights[:, far] = 0
    rows = "The outlier takes" if count == 1 else f"The {count} outliers take"
    return [f"{rows} part in the fit, but in no resample: repeated there, one odd row would widen every interval."]


def find_clusters(points: Points) -> Clusters:
    """Which rows share their luck: by trunk, base checkpoint, run, or not at all; see `replicate`."""
    unit, labels, notes = _labels(points)
    scratch = points.from_scratch
    strata = [_groups(labels, ~scratch)]
    if scratch.any():
        branch, note = _scratch_groups(points)
        strata.append(branch)
        notes += note
    return Clusters(unit=unit, strata=tuple(stratum for stratum in strata if stratum), notes=tuple(notes))


def _labels(points: Points) -> tuple[str, list[object], list[str]]:
    """What a cluster is, its label for every row, and what a reader must know."""
    based = np.flatnonzero(~points.from_scratch)
    trunks, checkpoints, runs = points.base_run_id, points.base_checkpoint_id, points.run_id
    known = [column is not None and all(column[row] is not None for row in based) for column in (trunks, checkpoints)]
    n_trunks = len({trunks[row] for row in based}) if trunks is not None and known[0] else 0
    if n_trunks >= MANY and trunks is not None:
        return "base_run_id", list(trunks), []
    notes = []
    if known[0] or known[1]:
        if known[1] and checkpoints is not None:
            labels = list(checkpoints)
        else:  # a trunk has one checkpoint per D1
            assert trunks is not None
            assert points.base_tokens is not None
            labels = list(zip(trunks, points.base_tokens, strict=True))
        counted = f"{n_trunks} trunk{'s' if n_trunks > 1 else ''}" if n_trunks else "an unknown number of trunks"
        notes.append(
            f"The bases come from {counted}; variation between trunks (seeds of the base) is not estimated, "
            "and is not in the intervals."
        )
        return "base_checkpoint_id", labels, notes
    if runs is not None and all(run is not None for run in runs):
        return "run_id", list(runs), notes
    return "row", list(range(len(points))), notes


def _groups(labels: Sequence[object], keep: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    found: dict[object, list[int]] = {}
    for row in np.flatnonzero(keep):
        found.setdefault(labels[int(row)], []).append(int(row))
    return [np.array(rows) for rows in found.values()]


def _scratch_groups(points: Points) -> tuple[list[npt.NDArray[np.int64]], list[str]]:
    """Rows from scratch by the run they branched from; by row where those are too few."""
    labels: list[object] = list(range(len(points)))
    for column in (points.run_id, points.parent_run_id):  # the parent last: it is the better answer
        if column is not None:
            labels = [old if new is None else new for old, new in zip(labels, column, strict=True)]
    groups = _groups(labels, points.from_scratch)
    if len(groups) >= FEW:
        return groups, []
    rows = _groups(range(len(points)), points.from_scratch)
    note = f"The {len(rows)} from-scratch rows come from {len(groups)} run(s) and are treated as independent."
    return rows, [note]


def _leave_out(groups: Sequence[list[npt.NDArray[np.int64]]], rows: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    weights, strata = [], []
    for stratum in groups:
        for left_out in stratum:
            weight = np.ones(rows)
            weight[left_out] = 0
            weights.append(weight)
            strata.append(len(stratum))
    return np.array(weights), np.array(strata)


def draw_clusters(groups: Sequence[list[npt.NDArray[np.int64]]], rows: int, resamples: int, seed: int) -> FloatArray:
    """How often each row takes part in each resample of whole clusters, stratum by stratum: (resamples, rows).

    Draws with fewer than three different clusters of a stratum are drawn again: no law can be fitted to them.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, rows))
    for stratum in groups:
        m = len(stratum)
        counts = rng.multinomial(m, np.full(m, 1 / m), size=resamples)
        while np.any(poor := np.sum(counts > 0, axis=1) < min(FEW, m)):
            counts[poor] = rng.multinomial(m, np.full(m, 1 / m), size=int(poor.sum()))
        for column, members in zip(counts.T, stratum, strict=True):
            weights[:, members] = column[:, None]
    return weights


def error_over_clusters(values: FloatArray, strata: Sequence[Sequence[npt.NDArray[np.int64]]]) -> float:
    """Standard error of the mean of `values` (rows,), where the rows of one cluster share their luck."""
    variance = 0.0
    for stratum in strata:
        sums = np.array([values[rows].sum() for rows in stratum])
        variance += len(sums) * float(sums.var(ddof=1)) if len(sums) > 1 else 0.0
    return float(variance**0.5 / len(values))
