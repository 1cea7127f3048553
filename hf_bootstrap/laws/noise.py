"""The scales of noise in a study: what every row has of its own, the luck that rows of one base share, and outliers.

Estimated from what a law misses, and drawn again; which rows share a base is the business of `resampling`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .terms import FloatArray

__all__ = ["draw_noise", "outliers", "two_scales", "usual_error"]

_Rows = npt.NDArray[np.int64]
_FAR = 5.0  # times the usual error: what normal noise does to one row in two million
_ROUNDING = 1e-6  # of the loss: rows missed by less are not missed


def usual_error(residuals: FloatArray, parameters: int) -> float:
    """1.4826 times the median size of the residuals, which is the standard deviation of normal noise.

    Without the smallest, one for each parameter: a robust fit goes right through about so many rows, and counted with
    the others they made one clean study of 15 rows in two show an outlier (Maronna, Martin & Yohai 2006, Robust
    Statistics, section 4.4.2).

    Args:
        residuals: (rows,), ln(measured) - ln(predicted); more rows than parameters.
        parameters: of the law.
    """
    return 1.4826 * float(np.median(np.sort(np.abs(residuals))[parameters:]))


def outliers(residuals: FloatArray, parameters: int) -> npt.NDArray[np.bool_]:
    """(rows,), which are missed by more than five times the usual error."""
    return np.asarray(np.abs(residuals) > _FAR * max(usual_error(residuals, parameters), _ROUNDING))


def two_scales(residuals: FloatArray, slopes: FloatArray, clusters: Sequence[_Rows]) -> tuple[float, float]:
    """Standard deviations of the noise of a row and of the luck of a cluster, by the method of moments.

    The sums of squares between clusters and within them are set equal to what they would be on average if the
    residuals were (I - H) (luck + noise), with H the projection on the law's slopes: a law takes part of the luck of a
    few bases for its own shape, and what it leaves is too small by that part (Searle, Casella & McCulloch 1992,
    Variance Components, section 5.3, with cluster means as the quadratic form).

    Args:
        residuals: (rows,), ln(measured) - ln(predicted).
        slopes: (rows, parameters), derivative of ln(predicted).
        clusters: the rows of each; those of one row share nothing with any other.

    Returns:
        (noise, luck), both in log loss; luck is 0 where the estimate is negative or the design cannot tell.
    """
    n = len(residuals)
    inner, size, _ = np.linalg.svd(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300), full_matrices=False)
    inner = inner[:, size > 1e-9 * size.max()]
    left = np.eye(n) - inner @ inner.T  # what the law leaves of a disturbance
    shared = [rows for rows in clusters if len(rows) > 1]
    noise = float(np.sqrt(residuals @ residuals / max(np.trace(left), 1e-9)))
    if not shared:
        return noise, 0.0
    luck = np.zeros((n, len(shared)))
    for column, rows in enumerate(shared):
        luck[rows, column] = 1.0
    mean = luck / np.sqrt(luck.sum(axis=0))  # (rows, clusters), orthonormal
    between, whole = float(np.sum((mean.T @ residuals) ** 2)), float(residuals @ residuals)
    seen = left @ luck
    model = np.array(
        [
            [np.sum((mean.T @ left) ** 2), np.sum((mean.T @ seen) ** 2)],
            [np.trace(left), np.sum(seen**2)],
        ]
    )
    if np.linalg.cond(model / model.max(axis=0)) > 1e8:
        return noise, 0.0
    own, common = np.linalg.solve(model, [between, whole])
    if common <= 0 or own <= 0:
        return noise, 0.0
    return float(np.sqrt(own)), float(np.sqrt(common))


def draw_noise(noise: float, luck: float, clusters: Sequence[_Rows], n: int, rows: int, seed: int) -> FloatArray:
    """Normal disturbances of log loss, (n, rows): one for every row, and one for every cluster of several rows."""
    rng = np.random.default_rng(seed)
    drawn = noise * rng.standard_normal((n, rows))
    if luck > 0:
        for members in clusters:
            if len(members) > 1:
                drawn[:, members] += luck * rng.standard_normal((n, 1))
    return drawn
