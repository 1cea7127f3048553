"""Which parameters a design can tell apart, and which combinations of them it knows; noise is not its business.

A direction in parameter space that leaves every prediction at the points as it is cannot be known from them.
Those directions are the null space of the Jacobian, its columns scaled; what is known is its row space.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fitting import Fit, log_slopes
from .points import Points
from .terms import FloatArray, Form, Logs

__all__ = ["Identifiability", "identify"]

# Two columns whose ratio varies this little, against the range of one of them, are one column to a fit.
_SAME = 0.05
_FLAT = 1e-6
_UNNOTICED = 1e-3  # of a loss
# Columns whose ratio a design may hold constant, in the order in which the first is made a multiple of the second.
_RATIOS = (
    ("base_tokens", "n_params"),
    ("unique_tokens", "n_params"),
    ("tokens", "base_tokens"),
    ("tokens", "n_params"),
    ("tokens", "unique_tokens"),
)
_LETTERS = {"base_tokens": "D1", "n_params": "N", "unique_tokens": "U"}


@dataclass(frozen=True, kw_only=True)
class Identifiability:
    """What points can know of a form's parameters.

    Attributes:
        lost: parameters without a value of their own.
        combinations: what is known instead, as text: ``ln A - 11.5 alpha2``; none where the directions that are lost
            are straight only near this fit, so that coefficients found there hold nowhere else.
        constant: ratios of columns that are the same at all points, such as "D2/D1", whether or not anything is lost.
        by_ratio: whether more is lost than would be if those ratios varied.
        condition: of the scaled Jacobian, over the directions that are known.
        anchor: (parameters,), a theta that fits about as well as the fit's, and is not extreme where that is free.
        moves: (moves, parameters), changes of the anchor at right angles to each other that no point notices by more
            than a thousandth of its loss; each is as large as the parameters themselves (one e-fold at least, where
            theta is a logarithm), or smaller where points would notice.
    """

    lost: tuple[str, ...]
    combinations: tuple[str, ...]
    constant: tuple[str, ...]
    by_ratio: bool
    condition: float
    anchor: FloatArray
    moves: FloatArray


def identify(points: Points, fit: Fit) -> Identifiability:
    """Look at the design: at the points as they are, and with a nearly constant ratio of columns made constant."""
    constant, logs = _snapped(points, fit.form)
    slopes = log_slopes(fit.form, logs, fit.theta) if constant else fit.slopes
    lost, known, directions, condition = _split(fit, slopes)
    names, seen = np.array(fit.form.parameters), known.any(axis=0)
    combinations: tuple[str, ...] = ()
    if len(directions) and _straight(fit, logs, directions):
        combinations = _combinations(fit.form, names[seen], known[:, seen])
    anchor, moves = _moves(points, fit, directions)
    return Identifiability(
        lost=tuple(str(name) for name in names[lost]),
        combinations=combinations,
        constant=constant,
        by_ratio=bool(constant) and len(_split(fit, _varied(points, fit))[2]) < len(directions),
        condition=condition,
        anchor=anchor,
        moves=moves,
    )


def _split(fit: Fit, slopes: FloatArray) -> tuple[npt.NDArray[np.bool_], FloatArray, FloatArray, float]:
    """Which parameters are lost, the directions the slopes know and those they do not, and the condition of the known.

    Directions are (directions, parameters); among those not known is that of each parameter no point sees at all.
    """
    slopes = _without_floor_at_zero(fit, slopes)
    size = np.linalg.norm(slopes, axis=0)
    seen = size > 1e-9 * size.max()
    _, singular, rows = np.linalg.svd(slopes[:, seen] / size[seen], full_matrices=False)
    enough = singular > _FLAT * singular[0]
    flat = np.linalg.svd(rows[enough])[2][int(enough.sum()) :]
    lost = ~seen
    lost[seen] = np.any(np.abs(flat) > 1e-3, axis=0)
    known = np.zeros((int(enough.sum()), len(size)))
    known[:, seen] = rows[enough] * size[seen]
    unknown = np.zeros((len(flat) + int((~seen).sum()), len(size)))
    unknown[: len(flat), seen] = flat / size[seen]
    unknown[np.arange(len(flat), len(unknown)), np.flatnonzero(~seen)] = 1
    return lost, known, unknown, float(singular[0] / singular[enough][-1])


def _varied(points: Points, fit: Fit) -> FloatArray:
    """The slopes of a design with the same levels and no constant ratio: each column's values in another order."""
    rng, logs = np.random.default_rng(0), points.logs(fit.form)
    rows = np.flatnonzero(_related_rows(points, fit.form))
    for name in fit.form.columns:
        logs[name][rows] = logs[name][rng.permutation(rows)]
    return log_slopes(fit.form, logs, fit.theta)


def _size(form: Form, theta: FloatArray) -> FloatArray:
    """How far a parameter may move and be of its own size still: one e-fold at least, where theta is a logarithm."""
    return np.maximum(np.abs(theta), [1.0 if name in form.positive else 0.05 for name in form.parameters])


def _straight(fit: Fit, logs: Logs, directions: FloatArray) -> bool:
    """Whether no point notices a move along any of them that is as large as the parameters themselves."""
    steps = directions / np.max(np.abs(directions) / _size(fit.form, fit.theta), axis=1, keepdims=True)
    there = fit.form.log_loss(logs, fit.theta + np.concatenate([steps, -steps]))
    change = np.abs(there - fit.form.log_loss(logs, fit.theta[None]))
    return bool(np.nan_to_num(change, nan=np.inf).max() < _UNNOTICED)


def _moves(points: Points, fit: Fit, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The directions as steps of a comparable size, and from where.

    A fit may come to rest anywhere on a flat line, also at an exponent of -16, where nothing can be learnt of what
    other places on the line would answer. So steps are made from the least extreme place on it, unless the
    line is bent and they are no longer flat there.
    """
    form, logs = fit.form, points.logs(fit.form)
    if not len(directions):
        return fit.theta, directions
    size = np.array([10.0 if name in form.positive else 0.3 for name in form.parameters])
    along = np.linalg.lstsq((directions / size).T, -fit.theta / size, rcond=None)[0]
    tried = []
    for anchor in (fit.theta + along @ directions, fit.theta):
        scale = _size(form, anchor)
        moves = np.linalg.qr((directions / scale).T)[0].T * scale
        up, down = np.split(form.log_loss(logs, anchor + np.concatenate([moves, -moves])), 2)
        noticed = np.nan_to_num(np.max(np.abs(up - down), axis=1) / 2, nan=np.inf)
        tried.append((max(float(noticed.max()), 1e-6), anchor, moves, noticed))
    _, anchor, moves, noticed = min(tried, key=lambda one: one[0])
    shrink = np.minimum(1.0, _UNNOTICED / np.maximum(noticed, 1e-12))
    return anchor, np.asarray(moves * np.maximum(shrink, 1e-6)[:, None])


def _snapped(points: Points, form: Form) -> tuple[tuple[str, ...], Logs]:
    """The constant ratios, and the logs with columns exact multiples of others where they nearly are."""
    rows = _related_rows(points, form)
    logs, found = points.logs(form), {}
    for name, other in _RATIOS:
        if name in found or not {name, other} <= set(form.columns) or rows.sum() < 2:
            continue
        ratio, span = (logs[name] - logs[other])[rows], np.ptp(logs[name][rows])
        if span > 0 and np.ptp(ratio) <= _SAME * span and np.ptp(ratio) < 0.1:
            column = logs[name].copy()
            column[rows] = logs[other][rows] + ratio.mean()
            logs[name] = column
            letter = _LETTERS.get(name, "D2" if "base_tokens" in form.columns else "D")
            found[name] = f"{letter}/{_LETTERS[other]}"
    return tuple(found.values()), logs


def _related_rows(points: Points, form: Form) -> npt.NDArray[np.bool_]:
    """Those whose columns can have a constant ratio: all, or in a form of two stages those with a base."""
    return ~points.from_scratch if "base_tokens" in form.columns else np.ones(len(points), dtype=bool)


def _without_floor_at_zero(fit: Fit, slopes: FloatArray) -> FloatArray:
    """A floor at 0 moves nothing; that has a check of its own, and must not look like a lost parameter here."""
    if "E" in fit.form.parameters and np.exp(fit.theta[fit.form.parameters.index("E")]) < 1e-5:
        slopes = slopes.copy()
        slopes[:, fit.form.parameters.index("E")] = 0
        rows = np.zeros((1, slopes.shape[1]))
        rows[0, fit.form.parameters.index("E")] = np.linalg.norm(slopes)
        return np.concatenate([slopes, rows])
    return slopes


def _combinations(form: Form, names: FloatArray, known: FloatArray) -> tuple[str, ...]:
    """The row space in its simplest form: each line one combination that every fit to these points agrees on."""
    # Eliminate in the order of size of the unknown; the last parameters stay free.
    matrix, pivots, row = known / np.linalg.norm(known, axis=0), [], 0
    scale = np.linalg.norm(known, axis=0)
    for column in range(matrix.shape[1]):
        if row == len(matrix):
            break
        best = row + int(np.argmax(np.abs(matrix[row:, column])))
        if abs(matrix[best, column]) < 1e-4 * np.abs(matrix[row:]).max():
            continue
        matrix[[row, best]] = matrix[[best, row]]
        matrix[row] /= matrix[row, column]
        others = np.arange(len(matrix)) != row
        matrix[others] -= np.outer(matrix[others, column], matrix[row])
        pivots.append(column)
        row += 1
    told = []
    for line, pivot in zip(matrix, pivots, strict=False):
        weights = line * scale / scale[pivot]
        parts = [(weight, i) for i, weight in enumerate(weights) if abs(line[i]) > 1e-4]
        alone = len(parts) == 1
        told.append(" ".join(_part(weight, _word(form, str(names[i]), alone), i == pivot) for weight, i in parts))
    return tuple(told)


def _word(form: Form, name: str, alone: bool) -> str:
    return f"ln {name}" if name in form.positive and not alone else name


def _part(weight: float, name: str, first: bool) -> str:
    size = "" if abs(abs(weight) - 1) < 1e-3 else f"{abs(weight):.4g} "
    return f"{size}{name}" if first else f"{'-' if weight < 0 else '+'} {size}{name}"
