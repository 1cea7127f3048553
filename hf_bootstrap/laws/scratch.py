"""Rows from scratch beside rows with a base: a form that diverges at D1 = 0, completed there by a law of its own."""

from collections.abc import Sequence
from typing import final

import numpy as np

from .terms import FloatArray, Form, Logs, Part, Term, add_up

__all__ = ["WithScratch"]


@final
class WithScratch(Form):
    """A form that diverges at D1 = 0, completed there by a law of its own that shares the floor.

    Rows with base_tokens 0 follow A_scratch * D2^-alpha_scratch + the inner form's `shared` terms (E, and a term of
    model size where there is one); the others follow the inner form.

    Args:
        inner: a form whose `covers_scratch` is False and that has a floor E.
    """

    def __init__(self, inner: Form) -> None:
        self.inner = inner
        self.name = inner.name
        rest = " + ".join(inner.shared)
        self.formula = f"{inner.formula}; from scratch (D1 = 0): L = A_scratch * D2^-alpha_scratch + {rest}"
        self.source = inner.source
        self.columns = inner.columns
        self.parameters = (*inner.parameters, "A_scratch", "alpha_scratch")
        self.positive = inner.positive | {"A_scratch"}
        self.covers_scratch = True
        self.either_sign, self.floor = inner.either_sign, inner.floor
        self.shared = inner.shared
        self.domain = inner.domain
        self.units = {**inner.units, "A_scratch": "nats at D2 = 1 token from scratch", "alpha_scratch": "exponent"}

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """The inner terms on rows with a base, one power law on the others, and the shared terms on all."""
        k, apart = len(self.inner.parameters), len(self.inner.shared)
        v, based = logs["tokens"], np.isfinite(logs["base_tokens"])
        inner = self.inner.terms(_safe(logs), theta[:, :k])
        whole: list[Term | Part] = []
        for n, term in enumerate(inner):
            here = based | (n >= len(inner) - apart)
            slope = np.zeros((*term.slope.shape[:2], k + 2))
            slope[..., :k] = term.slope * here[:, None]
            bends = {pair: bend * here for pair, bend in term.curvature.items()}
            if isinstance(term, Term):
                whole.append(Term(np.where(here, term.log, -np.inf), slope, bends))
            else:
                whole.append(Part(term.value * here, slope, bends))
        slope = np.zeros((1, len(v), k + 2))
        slope[0, ~based, k] = 1
        slope[0, ~based, k + 1] = -v[~based]
        return [*whole, Term(np.where(based, -np.inf, theta[:, k, None] - theta[:, k + 1, None] * v), slope)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Those of the inner form, each with the regression from scratch above its floor."""
        based = np.isfinite(logs["base_tokens"])
        inner = self.inner.starts({name: column[based] for name, column in logs.items()}, loss[based])
        rows, scratch = {name: column[~based] for name, column in _safe(logs).items()}, loss[~based]
        design = np.stack([np.ones(len(scratch)), -rows["tokens"]], axis=1)
        found = []
        for start in inner:
            shared = self.inner.terms(rows, start[None])[-len(self.inner.shared) :]
            floor = np.minimum(np.exp(add_up(shared)[0][0]), 0.995 * scratch.min())
            found.append([*start, *np.linalg.lstsq(design, np.log(scratch - floor), rcond=None)[0]])
        return np.array(found)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """Those of the inner form; on rows from scratch alpha_scratch, and no answer for base_tokens."""
        k = len(self.inner.parameters)
        based = np.isfinite(logs["base_tokens"])
        inner = self.inner.exponents(_safe(logs), theta[:, :k])
        if inner is None:
            return None
        return {
            "base_tokens": np.where(based, inner["base_tokens"], np.nan),
            "tokens": np.where(based, inner["tokens"], theta[:, k + 1, None]),
        }


def _safe(logs: Logs) -> dict[str, FloatArray]:
    """The same with 0 for ln D1 from scratch, where the inner terms are not used."""
    u = logs["base_tokens"]
    return {**logs, "base_tokens": np.where(np.isfinite(u), u, 0.0)}
