"""Rows from scratch beside rows with a base: a form that diverges at D1 = 0, completed there by a law of its own."""

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from .terms import FloatArray, Form, Logs, Part, Term

__all__ = ["WithScratch"]


@final
class WithScratch(Form):
    """A form that diverges at D1 = 0, completed there by a law of its own that shares the floor.

    Rows with base_tokens 0 follow A_scratch * D2^-alpha_scratch + E, the others the inner form.

    Args:
        inner: a form whose `covers_scratch` is False and that has a floor E.
    """

    def __init__(self, inner: Form) -> None:
        self.inner = inner
        self.name = inner.name
        self.formula = f"{inner.formula}; from scratch (D1 = 0): L = A_scratch * D2^-alpha_scratch + E"
        self.source = inner.source
        self.columns = inner.columns
        self.parameters = (*inner.parameters, "A_scratch", "alpha_scratch")
        self.positive = inner.positive | {"A_scratch"}
        self.covers_scratch = True
        self._floor = inner.parameters.index("E")

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """The inner terms on rows with a base, one power law on the others, and the shared floor."""
        k = len(self.inner.parameters)
        v, based = logs["tokens"], np.isfinite(logs["base_tokens"])
        whole: list[Term | Part] = []
        for term in self.inner.terms({name: column[based] for name, column in logs.items()}, theta[:, :k]):
            slope = np.zeros((len(term.slope), len(v), k + 2))
            slope[:, based, :k] = term.slope
            curvature = {pair: _spread(bend, based, 0.0) for pair, bend in term.curvature.items()}
            if isinstance(term, Term):
                whole.append(Term(_spread(term.log, based, -np.inf), slope, curvature))
            else:
                whole.append(Part(_spread(term.value, based, 0.0), slope, curvature))
        branch = np.where(based, -np.inf, theta[:, k, None] - theta[:, k + 1, None] * v)
        floor = np.where(based, -np.inf, theta[:, self._floor, None])
        branch_slope, floor_slope = np.zeros((2, 1, len(v), k + 2))
        branch_slope[0, ~based, k] = 1
        branch_slope[0, ~based, k + 1] = -v[~based]
        floor_slope[0, ~based, self._floor] = 1
        return [*whole, Term(branch, branch_slope), Term(floor, floor_slope)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Those of the inner form, each with the regression from scratch above its floor."""
        based = np.isfinite(logs["base_tokens"])
        inner = self.inner.starts({name: column[based] for name, column in logs.items()}, loss[based])
        v, scratch = logs["tokens"][~based], loss[~based]
        found = []
        for start in inner:
            floor = min(float(np.exp(start[self._floor])), 0.995 * float(loss.min()))
            branch = np.linalg.lstsq(np.stack([np.ones_like(v), -v], axis=1), np.log(scratch - floor), rcond=None)[0]
            found.append([*start, *branch])
        return np.array(found)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """Those of the inner form; on rows from scratch alpha_scratch, and no answer for base_tokens."""
        k = len(self.inner.parameters)
        based = np.isfinite(logs["base_tokens"])
        safe = {**logs, "base_tokens": np.where(based, logs["base_tokens"], 0.0)}
        inner = self.inner.exponents(safe, theta[:, :k])
        if inner is None:
            return None
        return {
            "base_tokens": np.where(based, inner["base_tokens"], np.nan),
            "tokens": np.where(based, inner["tokens"], theta[:, k + 1, None]),
        }


def _spread(values: FloatArray, based: npt.NDArray[np.bool_], fill: float) -> FloatArray:
    """Values of the rows with a base, among all rows."""
    whole = np.full((len(values), len(based)), fill)
    whole[:, based] = values
    return whole
