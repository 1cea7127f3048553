"""Which parameters a design can tell apart, and which combinations of them it knows; noise is not its business.

A direction in parameter space that leaves every prediction at the points as it is cannot be known from them.
Those directions are the null space of the Jacobian, its columns scaled; what is known is its row space.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fitting import Fit, log_slopes
from .points import Points
from .terms import FloatArray, Form

__all__ = ["Identifiability", "identify"]

# Two columns whose ratio varies this little, against the range of one of them, are one column to a fit.
_SAME = 0.05
_FLAT = 1e-6
_UNNOTICED = 1e-3  # of a loss


@dataclass(frozen=True, kw_only=True)
class Identifiability:
    """What points can know of a form's parameters.

    Attributes:
        lost: parameters without a value of their own.
        combinations: what is known instead, as text: ``ln A - 11.5 alpha2``.
        cause: why, where the reason is a constant ratio such as "D2/D1"; else None.
        condition: of the scaled Jacobian, over the directions that are known.
        anchor: (parameters,), a theta that fits about as well as the fit's, and is not extreme where that is free.
        moves: (moves, parameters), changes of the anchor at right angles to each other that no point notices by more
            than a thousandth of its loss; each is as large as the parameters themselves (one e-fold at least, where
            theta is a logarithm), or smaller where points would notice.
    """

    lost: tuple[str, ...]
    combinations: tuple[str, ...]
    cause: str | None
    condition: float
    anchor: FloatArray
    moves: FloatArray


def identify(points: Points, fit: Fit) -> Identifiability:
    """Look at the design: at the points as they are, and with a nearly constant ratio of columns made constant."""
    cause, logs = _snapped(points, fit.form)
    slopes = fit.slopes if logs is None else log_slopes(fit.form, logs, fit.theta)
    slopes = _without_floor_at_zero(fit, slopes)
    size = np.linalg.norm(slopes, axis=0)
    seen = size > 1e-9 * size.max()
    _, singular, rows = np.linalg.svd(slopes[:, seen] / size[seen], full_matrices=False)
    known = singular > _FLAT * singular[0]
    flat = np.linalg.svd(rows[known])[2][int(known.sum()) :]
    lost = ~seen
    lost[seen] = np.any(np.abs(flat) > 1e-3, axis=0)
    names = np.array(fit.form.parameters)
    combinations = () if not lost.any() else _combinations(fit.form, names[seen], rows[known] * size[seen])
    anchor, moves = _moves(points, fit, seen, flat / size[seen])
    return Identifiability(
        lost=tuple(str(name) for name in names[lost]),
        combinations=combinations,
        cause=cause if lost.any() else None,
        condition=float(singular[0] / singular[known][-1]),
        anchor=anchor,
        moves=moves,
    )


def _moves(points: Points, fit: Fit, seen: npt.NDArray[np.bool_], flat: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The flat directions, and those of parameters no point sees at all, as steps of a comparable size; and from where.

    A fit may come to rest anywhere on a flat line, also at an exponent of -16, where nothing can be learnt of what
    other places on the line would answer. So steps are made from the least extreme place on it, unless the
    line is bent and they are no longer flat there.
    """
    form, logs = fit.form, points.logs(fit.form)
    directions = np.zeros((len(flat) + int((~seen).sum()), len(form.parameters)))
    directions[: len(flat), seen] = flat
    directions[np.arange(len(flat), len(directions)), np.flatnonzero(~seen)] = 1
    if not len(directions):
        return fit.theta, directions
    size = np.array([10.0 if name in form.positive else 0.3 for name in form.parameters])
    along = np.linalg.lstsq((directions / size).T, -fit.theta / size, rcond=None)[0]
    tried = []
    for anchor in (fit.theta + along @ directions, fit.theta):
        scale = np.maximum(np.abs(anchor), [1.0 if name in form.positive else 0.05 for name in form.parameters])
        moves = np.linalg.qr((directions / scale).T)[0].T * scale
        up, down = np.split(form.log_loss(logs, anchor + np.concatenate([moves, -moves])), 2)
        noticed = np.nan_to_num(np.max(np.abs(up - down), axis=1) / 2, nan=np.inf)
        tried.append((max(float(noticed.max()), 1e-6), anchor, moves, noticed))
    _, anchor, moves, noticed = min(tried, key=lambda one: one[0])
    shrink = np.minimum(1.0, _UNNOTICED / np.maximum(noticed, 1e-12))
    return anchor, np.asarray(moves * np.maximum(shrink, 1e-6)[:, None])


def _snapped(points: Points, form: Form) -> tuple[str | None, dict[str, FloatArray] | None]:
    """The logs with tokens an exact multiple of another column, where they nearly are."""
    based = ~points.from_scratch
    logs = points.logs(form)
    for name, letter in (("base_tokens", "D1"), ("n_params", "N")):
        if not {name, "tokens"} <= set(form.columns) or based.sum() < 2:
            continue
        ratio = (logs["tokens"] - logs[name])[based]
        if np.ptp(ratio) <= _SAME * np.ptp(logs["tokens"][based]) and np.ptp(ratio) < 0.1:
            tokens = logs["tokens"].copy()
            tokens[based] = logs[name][based] + ratio.mean()
            return f"{'D2' if name == 'base_tokens' else 'D'}/{letter}", {**logs, "tokens": tokens}
    return None, None


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
