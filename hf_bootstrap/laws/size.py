"""A form without model size, given the size term of a law that has one, to hold the two against each other."""

from collections.abc import Sequence
from typing import final

import numpy as np

from .terms import FloatArray, Form, Logs, Part, Term

__all__ = ["WithSize"]


@final
class WithSize(Form):
    """A form that reads no model size, with the term B_size * N^-beta_size beside its own, as `BootstrapN` has it.

    Args:
        inner: a form without a term of n_params.
    """

    def __init__(self, inner: Form) -> None:
        self.inner = inner
        self.name = inner.name
        self.formula = f"{inner.formula} + B_size * N^-beta_size"
        self.source = inner.source
        self.columns = (*inner.columns, "n_params")
        self.parameters = (*inner.parameters, "B_size", "beta_size")
        self.positive = inner.positive | {"B_size"}
        self.covers_scratch = inner.covers_scratch
        self.either_sign, self.floor = inner.either_sign, inner.floor
        self.shared = ("B_size * N^-beta_size", *inner.shared)
        self.domain = inner.domain
        self.units = {**inner.units, "B_size": "nats at N = 1 parameter", "beta_size": "exponent of N"}

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """The inner terms, with that of size before those that hold from scratch as well."""
        k, n = len(self.inner.parameters), logs["n_params"]
        whole: list[Term | Part] = []
        for term in self.inner.terms(logs, theta[:, :k]):
            wide = np.concatenate([term.slope, np.zeros((*term.slope.shape[:2], 2))], axis=2)
            if isinstance(term, Term):
                whole.append(Term(term.log, wide, term.curvature))
            else:
                whole.append(Part(term.value, wide, term.curvature))
        slope = np.zeros((1, len(n), k + 2))
        slope[..., k], slope[0, :, k + 1] = 1, -n
        whole.insert(-len(self.inner.shared), Term(theta[:, k, None] - theta[:, k + 1, None] * n, slope))
        return whole

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Exponents of N and shares of its term from a grid; for each, the starts of the inner form on what is left."""
        n, found = logs["n_params"], []
        for beta in (0.1, 0.2, 0.35):
            shape = np.exp(-beta * (n - n.min()))
            for share in (0.03, 0.15, 0.4):
                amount = share * np.min(loss / shape)
                inner = self.inner.starts(logs, loss - amount * shape)
                size = np.tile([np.log(amount) + beta * n.min(), beta], (len(inner), 1))
                found.append(np.concatenate([inner, size], axis=1))
        return np.concatenate(found)
