"""What a form is: a sum of positive terms, each stated by its logarithm, and of parts of either sign.

The forms themselves are in `forms`; how a sum is fitted to points is the business of `fitting`.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import numpy as np
import numpy.typing as npt

from ..errors import LawError, did_you_mean
from .jets import Jet, variables

__all__ = ["Curved", "FloatArray", "Form", "LogLinear", "Logs", "Part", "Term", "add_up"]

FloatArray = npt.NDArray[np.float64]
Logs = Mapping[str, FloatArray]  # column name -> ln of the column, (rows,); ln 0 is -inf


_Bends = Mapping[tuple[int, int], FloatArray]  # (i, j) with i <= j -> second derivative, (problems, rows)


@dataclass(frozen=True)
class Term:
    """One positive term of a law, by its logarithm.

    Attributes:
        log: (problems, rows), ln of the term; -inf where the term is absent.
        slope: (problems or 1, rows, parameters), its derivative in each parameter.
        curvature: its second derivatives; a pair that is absent has none.
    """

    log: FloatArray
    slope: FloatArray
    curvature: _Bends = field(default_factory=dict)

    @classmethod
    def of(cls, log: Jet, parameters: int, rows: int) -> Self:
        """From a `Jet` of its logarithm."""
        value, slope, curvature = _dense(log, parameters, rows)
        return cls(value, slope, curvature)


@dataclass(frozen=True)
class Part:
    """A part of a law that may be of either sign, by its value; the whole must stay positive.

    Attributes:
        value: (problems, rows), nats per token.
        slope, curvature: its derivatives, as in `Term`.
    """

    value: FloatArray
    slope: FloatArray
    curvature: _Bends = field(default_factory=dict)

    @classmethod
    def of(cls, value: Jet, parameters: int, rows: int) -> Self:
        """From a `Jet` of its value."""
        dense, slope, curvature = _dense(value, parameters, rows)
        return cls(dense, slope, curvature)


def _dense(jet: Jet, parameters: int, rows: int) -> tuple[FloatArray, FloatArray, _Bends]:
    shape = (len(jet.value), rows)
    problems = max([1, *(len(values) for values in jet.slope.values())])
    slope = np.zeros((problems, parameters, rows))
    for i, values in jet.slope.items():
        slope[:, i] = values
    return (
        np.broadcast_to(jet.value, shape),
        np.swapaxes(slope, 1, 2),
        {k: np.broadcast_to(v, shape) for k, v in jet.curvature.items()},
    )


def add_up(terms: Sequence[Term | Part]) -> tuple[FloatArray, list[FloatArray]]:
    """The ln of the sum, (problems, rows), and what multiplies each slope in the derivative of that logarithm.

    NaN where parts of negative sign leave nothing positive.
    """
    logs = [term.log for term in terms if isinstance(term, Term)]
    largest = logs[0]
    for log in logs[1:]:
        largest = np.maximum(largest, log)
    sizes = [np.exp(t.log - largest) if isinstance(t, Term) else np.exp(-largest) for t in terms]
    whole = sum(size if isinstance(t, Term) else size * t.value for t, size in zip(terms, sizes, strict=True))
    whole = np.where(np.asarray(whole) > 0, whole, np.nan)
    return largest + np.log(whole), [size / whole for size in sizes]


class Form(abc.ABC):
    """A law's shape. `theta` holds the parameters in order, those in `positive` by their natural log.

    Attributes:
        name: how files and the command line call it.
        formula: as a reader would write it.
        source: where it comes from.
        columns: the columns it reads: base_tokens (D1), tokens (D2, or D), n_params (N), unique_tokens (U),
            mixture_ratio (r).
        parameters: names in the order of `theta`; the floor is called E.
        positive: those that are positive by construction, held as logs.
        covers_scratch: whether the formula means something for rows with base_tokens 0.
        either_sign: those that may be negative without saying that more tokens, or a larger model, do harm.
        floor: what the loss falls to with ever more tokens, as a reader would write it.
        shared: the last terms, which hold from scratch as well, as a reader would write them.
        domain: where the formula can be trusted, and where it ends.
        units: parameter -> what it is and its unit.
    """

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    positive: frozenset[str]
    covers_scratch: bool
    either_sign: frozenset[str] = frozenset({"alpha3"})
    floor: str = "E"
    shared: tuple[str, ...] = ("E",)
    domain: str = ""
    units: Mapping[str, str] = MappingProxyType({})

    @abc.abstractmethod
    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """Every term at `theta` (problems, parameters), with exact derivatives."""

    @abc.abstractmethod
    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Places to begin a fit, scaled to the data: (starts, parameters)."""

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """How fast the reducible loss falls: -d ln(L - E) / d ln column, each (problems, rows).

        None where the form has no such closed answer.
        """
        del logs, theta
        return None

    def floors(self, theta: FloatArray) -> FloatArray | None:
        """The floor at each theta, (problems,), nats per token; None where the form has none."""
        return np.exp(theta[:, self.parameters.index("E")]) if "E" in self.parameters else None

    def to_search(self, theta: FloatArray) -> FloatArray:
        """Coordinates, of `theta`'s shape, in which a search goes straighter; the floor E stays in its place."""
        return theta

    def from_search(self, place: FloatArray) -> FloatArray:
        """The inverse of `to_search`."""
        return place

    def search_terms(self, logs: Logs, place: FloatArray) -> Sequence[Term | Part]:
        """`terms` at a place of a search, with derivatives in its coordinates."""
        return self.terms(logs, place)

    def log_loss(self, logs: Logs, theta: FloatArray) -> FloatArray:
        """The predicted ln L, (problems, rows), for `theta` (problems, parameters)."""
        return add_up(self.terms(logs, theta))[0]

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
            raise LawError(f"The form {self.name!r} also needs {', '.join(missing)}; give them: {self.formula}")
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

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """As promised by `Form`; second derivatives are zero."""
        return [Term(theta @ matrix.T, matrix[None]) for matrix in self.design(logs)]

    def log_loss(self, logs: Logs, theta: FloatArray) -> FloatArray:
        """As promised by `Form`, without the work of derivatives."""
        terms = [theta @ matrix.T for matrix in self.design(logs)]
        largest = terms[0].copy()
        for term in terms[1:]:
            np.maximum(largest, term, out=largest)
        whole = np.zeros_like(largest)
        for term in terms:
            term -= largest
            whole += np.exp(term, out=term)
        return np.asarray(np.log(whole) + largest)


class Curved(Form):
    """A form that is not log-linear: it states the logs of its terms as formulas, and derivatives follow."""

    @abc.abstractmethod
    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The ln of each positive term, of shape (problems, rows) or what broadcasts to it."""

    def signed_parts(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """Further parts in nats per token that may be negative; none unless a form has some."""
        del logs, theta
        return ()

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term | Part]:
        """As promised by `Form`."""
        return self.terms_of(logs, variables(theta))

    def terms_of(self, logs: Logs, known: Sequence[Jet]) -> Sequence[Term | Part]:
        """The terms, with derivatives in whatever the parameters are derived from."""
        k, rows = len(self.parameters), len(logs["tokens"])
        return [
            *(Term.of(log, k, rows) for log in self.logs_of_terms(logs, known)),
            *(Part.of(value, k, rows) for value in self.signed_parts(logs, known)),
        ]

    def log_loss(self, logs: Logs, theta: FloatArray) -> FloatArray:
        """As promised by `Form`, without the work of derivatives; NaN or infinite where a formula overflows."""
        known, shape = [Jet(column[:, None]) for column in theta.T], (len(theta), len(logs["tokens"]))
        none = np.zeros((1, 1, 0))
        with np.errstate(over="ignore", invalid="ignore"):  # as at refits whose parameters ran away
            terms: list[Term | Part] = [
                *(Term(np.broadcast_to(log.value, shape), none) for log in self.logs_of_terms(logs, known)),
                *(Part(np.broadcast_to(part.value, shape), none) for part in self.signed_parts(logs, known)),
            ]
            return add_up(terms)[0]
