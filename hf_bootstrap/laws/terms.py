"""What a form is: a sum of positive terms, each stated by its logarithm with exact derivatives.

The forms themselves are in `forms`; how a sum is fitted to points is the business of `fitting`.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import LawError, did_you_mean

__all__ = ["FloatArray", "Form", "LogLinear", "Logs", "Term"]

FloatArray = npt.NDArray[np.float64]
Logs = Mapping[str, FloatArray]  # column name -> ln of the column, (rows,); ln 0 is -inf


@dataclass(frozen=True)
class Term:
    """One positive term of a law, by its logarithm.

    Attributes:
        log: (problems, rows), ln of the term; -inf where the term is absent.
        slope: (problems or 1, rows, parameters), its derivative in each parameter.
        curvature: (problems, rows, parameters, parameters), its second derivative; None where that is zero.
    """

    log: FloatArray
    slope: FloatArray
    curvature: FloatArray | None = None


class Form(abc.ABC):
    """A law's shape. `theta` holds the parameters in order, those in `positive` by their natural log.

    Attributes:
        name: how files and the command line call it.
        formula: as a reader would write it.
        source: where it comes from.
        columns: the columns it reads, of base_tokens, tokens, n_params.
        parameters: names in the order of `theta`; the floor is called E.
        positive: those that are positive by construction, held as logs.
        covers_scratch: whether the formula means something for rows with base_tokens 0.
    """

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    positive: frozenset[str]
    covers_scratch: bool

    @abc.abstractmethod
    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term]:
        """The log of every term at `theta` (problems, parameters), with exact derivatives."""

    @abc.abstractmethod
    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Places to begin a fit, scaled to the data: (starts, parameters)."""

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """How fast the reducible loss falls: -d ln(L - E) / d ln column, each (problems, rows).

        None where the form has no such closed answer.
        """
        del logs, theta
        return None

    def log_loss(self, logs: Logs, theta: FloatArray) -> FloatArray:
        """The predicted ln L, (problems, rows), for `theta` (problems, parameters)."""
        total: FloatArray = np.logaddexp.reduce([term.log for term in self.terms(logs, theta)], axis=0)
        return total

    def to_params(self, theta: FloatArray) -> dict[str, float]:
        """One `theta` (parameters,) under the names people use, logs undone."""
        with np.errstate(over="ignore"):
            return {
                name: float(np.exp(value)) if name in self.positive else float(value)
                for name, value in zip(self.parameters, theta, strict=True)
            }

    def to_theta(self, params: Mapping[str, float]) -> FloatArray:
        """The inverse of `to_params`.

        Raises:
            LawError: a name is unknown or missing, a number not finite, or a positive parameter is not positive.
        """
        for name in params:
            if name not in self.parameters:
                raise LawError(
                    f"The form {self.name!r} has no parameter {name!r}. {did_you_mean(name, self.parameters)}"
                )
        missing = [name for name in self.parameters if name not in params]
        if missing:
            raise LawError(f"The form {self.name!r} also needs {', '.join(missing)}: {self.formula}")
        for name, value in params.items():
            if not np.isfinite(value) or (name in self.positive and value <= 0):
                raise LawError(
                    f"{name} is {value!r}; it must be {'positive and ' if name in self.positive else ''}finite."
                )
        return np.array([np.log(params[n]) if n in self.positive else params[n] for n in self.parameters])


class LogLinear(Form):
    """A form whose terms are log-linear: ln(term k) = design[k] @ theta. Most laws are."""

    @abc.abstractmethod
    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """One matrix (rows, parameters) per term."""

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term]:
        """As promised by `Form`; second derivatives are zero."""
        return [Term(theta @ matrix.T, matrix[None]) for matrix in self.design(logs)]
