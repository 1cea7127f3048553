"""What the numbers of a law count: which parameters N is, and how many FLOPs go to a parameter and a token.

Known only where the points say so; else None, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import ScalingPoint
from .points import Points
from .terms import Form

__all__ = ["Definition", "define"]

_SAME = 0.01  # relative spread within which FLOPs per parameter and token are one number


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What something counts.

    Attributes:
        value: in words, or as a number; None where it is not known.
        reason: why it is not known; None where it is.
    """

    value: str | float | None
    reason: str | None = None


def define(form: Form, points: Points | None) -> dict[str, Definition]:
    """The definitions of `n_params` and `flops_per_param_token` behind a law; points are None where it was given."""
    return {"n_params": _n_params(form, points), "flops_per_param_token": _flops(points)}


def _n_params(form: Form, points: Points | None) -> Definition:
    if points is not None and points.n_params_are is not None:
        return Definition(value=points.n_params_are)
    if "n_params" not in form.columns:
        return Definition(value=None, reason="this form does not read n_params")
    whose = "parameters were given without it" if points is None else "points do not say it"
    return Definition(value=None, reason=f"with or without embeddings: the {whose}")


def _flops(points: Points | None) -> Definition:
    if points is None:
        return Definition(value=None, reason="the parameters were given without FLOPs")
    found = _ratios(points.records or ())
    if not found:
        return Definition(value=None, reason="the points hold no FLOPs beside their size and tokens")
    low, high = min(found), max(found)
    if high > low * (1 + _SAME):
        return Definition(value=None, reason=f"it varies between the points, from {low:.3g} to {high:.3g}")
    return Definition(value=float(np.exp(np.mean(np.log(found)))))


def _ratios(records: Sequence[ScalingPoint]) -> list[float]:
    """FLOPs over parameters and tokens of each point; none where one of them is not known for one point."""
    found = [
        point.flops / (point.n_params_non_embedding * point.tokens)
        for point in records
        if point.flops and point.n_params_non_embedding and point.tokens
    ]
    return found if len(found) == len(records) else []
