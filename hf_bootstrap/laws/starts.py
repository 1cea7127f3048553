"""Good places to start a fit: exponents from a grid, amounts from least squares.

Which exponents a form has is its own business (`one_stage`, `two_stage`).
"""

from collections.abc import Sequence

import numpy as np

from .terms import FloatArray

__all__ = ["EXPONENTS", "FEW_FLOORS", "FLOORS", "amounts", "matrix", "power_term_starts", "two_term_starts"]

EXPONENTS = (0.1, 0.2, 0.35, 0.55, 0.8)
# Floors to start from, as fractions of the smallest loss. The last ones lie close together because a
# floor near the data bends the curve most.
FLOORS = (1e-6, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.92, 0.96, 0.98, 0.995)
FEW_FLOORS = (1e-6, 0.3, 0.6, 0.8, 0.95)


def matrix(rows: int, *columns: FloatArray | float) -> FloatArray:
    """Columns side by side, (rows, columns); a number fills its column."""
    found = np.empty((rows, len(columns)))
    for i, column in enumerate(columns):
        found[:, i] = column
    return found


def power_term_starts(design: FloatArray, loss: FloatArray, floors: Sequence[float]) -> FloatArray:
    """For each floor, the least-squares power law ln(L - E) = design @ x: (2 * floors, parameters + 1).

    Twice: with equal weights, and with those that make an error of ln(L - E) count as one of ln L.
    """
    found = []
    for fraction in floors:
        floor = fraction * loss.min()
        reducible = loss - floor
        for weight in (np.ones_like(loss), reducible / loss):
            solution = np.linalg.lstsq(design * weight[:, None], np.log(reducible) * weight, rcond=None)[0]
            found.append([*solution, np.log(floor)])
    return np.array(found)


def two_term_starts(first: FloatArray, second: FloatArray, loss: FloatArray) -> FloatArray:
    """Starts (ln A, a, ln B, b, ln E) of L = A exp(-a first) + B exp(-b second) + E.

    A, B by least squares of the relative error for each pair of exponents and each floor, kept positive.
    """
    found = []
    middle = np.array([first.mean(), second.mean()])
    for a in EXPONENTS:
        for b in EXPONENTS:
            shapes = np.stack([np.exp(-a * (first - middle[0])), np.exp(-b * (second - middle[1]))], axis=1)
            for fraction in FEW_FLOORS:
                floor = fraction * loss.min()
                amounts = np.linalg.lstsq(shapes / loss[:, None], (loss - floor) / loss, rcond=None)[0]
                amounts = np.maximum(amounts, 0.01 * (loss.mean() - floor))
                found.append(
                    [np.log(amounts[0]) + a * middle[0], a, np.log(amounts[1]) + b * middle[1], b, np.log(floor)]
                )
    return np.array(found)


def amounts(logs: Sequence[FloatArray], loss: FloatArray) -> FloatArray:
    """The ln of the positive amounts c in L = sum of c_k exp(logs[k]), by least squares of the relative error.

    Args:
        logs: ln of each term at amount 1, (rows,); a floor is zeros.
        loss: (rows,).
    """
    centers = np.array([log[np.isfinite(log)].mean() for log in logs])
    shapes = np.stack([np.exp(log - center) for log, center in zip(logs, centers, strict=True)], axis=1)
    found = np.linalg.lstsq(shapes / loss[:, None], np.ones_like(loss), rcond=None)[0]
    # An amount the data push below zero starts small instead: in logs it cannot come back from nothing.
    return np.asarray(np.log(np.maximum(found, 0.01 * loss.mean())) - centers)
