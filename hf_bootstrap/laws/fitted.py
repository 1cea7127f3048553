"""A law once its parameters are known: frozen, and able to answer any question with its uncertainty.

`law` gives it a face, `prediction`, `decisions` and `figures` ask it questions, `law_file` writes it down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import FitError, PredictionError
from ..units import LossUnit
from .arguments import amounts_of, like_each_other
from .checks import run_checks
from .definitions import Definition, define
from .fitting import fit_form
from .identifiability import identify
from .points import Points
from .resampling import Replicates, no_replicates, replicate
from .scratch import WithScratch
from .terms import FloatArray, Form

__all__ = ["FittedLaw", "LawLike", "Question", "completed", "fit_law", "known_law"]

Question = Callable[[FloatArray], FloatArray]  # thetas (problems, parameters) -> answers (problems, ...)
_Numbers = npt.ArrayLike


class LawLike(Protocol):
    """Something with a fitted law and its points: a `ScalingLaw`."""

    @property
    def fitted(self) -> "FittedLaw":
        """The law."""

    @property
    def points_(self) -> Points | None:
        """The rows it was fitted to, where they are at hand."""


_NO_FLOOR = float(np.log(1e-3))  # ln of nats: a floor below a thousandth of a nat is none


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLaw:
    """A form with parameters, and what is known of where they came from.

    Attributes:
        theta: (parameters,), see `Form`.
        replicates: joint refits, the source of every interval.
        ranges: column -> smallest and largest value in the data; without base_tokens where every row is from scratch,
            and empty for published parameters.
        n_points, n_scratch: rows fitted, and how many of them had base_tokens 0.
        error: mean of |predicted / measured - 1|; None for published parameters.
        warnings: what the checks said.
        points_digest: SHA-256 of the rows.
        unidentified: parameters these points cannot tell apart; their single values mean nothing and are not shown.
        anchor, moves: a theta that fits as well, and (moves, parameters), changes of it that no fitted point
            notices, see `identifiability`; whatever they change the points do not know.
        definitions: what `n_params` and `flops_per_param_token` count, see `definitions`.
        loss_unit: of every loss, the floor and the amounts.
    """

    form: Form
    objective: str
    delta: float
    theta: FloatArray
    replicates: Replicates
    ranges: Mapping[str, tuple[float, float]]
    n_points: int
    n_scratch: int
    error: float | None
    warnings: tuple[str, ...]
    points_digest: str | None
    unidentified: tuple[str, ...] = ()
    anchor: FloatArray | None = None
    moves: FloatArray | None = None
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    loss_unit: LossUnit = LossUnit.NATS

    def ask(self, question: Question, level: float = 0.95) -> tuple[FloatArray, tuple[FloatArray, FloatArray] | None]:
        """Anything that can be computed from the parameters, with its interval.

        Args:
            question: thetas (problems, parameters) -> answers (problems, ...), on the scale on which errors
                are symmetric.
            level: nominal coverage.

        Returns:
            The answer, and (low, high) or None without replicates.
        """
        value = np.asarray(question(self.theta[None])[0])
        if self.replicates.method == "none":
            return value, None
        return value, self.replicates.interval(value, question(self.replicates.theta), level)

    def doubt(self, question: Question) -> FloatArray:
        """How far an answer follows parameters that the points cannot tell apart: 0 where they determine it.

        Returns:
            Of the answer's shape: the change that `moves` make, on the scale of the question; infinite where they
            take the answer away.
        """
        value = np.asarray(question(self.theta[None])[0])
        if self.moves is None or self.anchor is None or not len(self.moves):
            return np.zeros_like(value)
        with np.errstate(invalid="ignore", over="ignore"):
            up, down = np.split(question(self.anchor + np.concatenate([self.moves, -self.moves])), 2)
            change = np.where(up == down, 0.0, (up - down) / 2)
        same = np.isnan(up) & np.isnan(down) & np.isnan(value)  # no answer here, there and everywhere
        known = np.where(same, 0.0, np.nan_to_num(change, nan=np.inf, posinf=np.inf, neginf=np.inf))
        with np.errstate(over="ignore"):
            return np.asarray(np.linalg.norm(known, axis=0))

    def params(self) -> dict[str, float]:
        """The parameters under the names people use, to compute with."""
        return self.form.to_params(self.theta)

    def known_params(self) -> dict[str, float | None]:
        """The same to show: None for those these points cannot tell apart."""
        return {name: None if name in self.unidentified else value for name, value in self.params().items()}

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float] | None:
        """The interval of one parameter, or None where it is not known."""
        index = self.form.parameters.index(name)
        if name in self.unidentified:
            return None
        # A floor is bounded by 0 and known by its size; other positive parameters by their ratio.
        as_log = name in self.form.positive and name != "E"
        as_size = name == "E"

        def question(theta: FloatArray) -> FloatArray:
            return np.exp(theta[:, index]) if as_size else theta[:, index]

        if as_size and self.replicates.method == "jackknife" and self.theta[index] < _NO_FLOOR:
            return None  # at its bound a floor moves to one side only, and t is for what moves to both
        _, found = self.ask(question, level)
        if found is None or not np.isfinite(found).all():
            return None
        low, high = (float(np.exp(min(float(x), 700.0))) if as_log else float(x) for x in found)
        return (max(low, 0.0), high) if as_size else (low, high)

    def logs(self, columns: Mapping[str, _Numbers | None]) -> tuple[dict[str, FloatArray], tuple[int, ...]]:
        """The ln of the columns this form reads, flat, with the shape they broadcast to.

        Raises:
            PredictionError: a column is missing, or holds what no run can have.
        """
        given = {}
        for name in self.form.columns:
            values = columns.get(name)
            if values is None:
                raise PredictionError(f"The form {self.form.name!r} needs {name}=; give it. {self.form.formula}")
            array = amounts_of(name, values)
            if np.any(array == 0) and not (name == "base_tokens" and self.form.covers_scratch):
                raise PredictionError(
                    f"{name} is 0, where this law says nothing; it must be positive: {self.form.formula}"
                    + (". Fit it together with from-scratch rows to compare." if name == "base_tokens" else "")
                )
            given[name] = array
        arrays = like_each_other(given)
        with np.errstate(divide="ignore"):
            flat = {name: np.log(array.ravel()) for name, array in zip(given, arrays, strict=True)}
        return flat, arrays[0].shape

    def reach(self, logs: Mapping[str, FloatArray]) -> FloatArray | None:
        """Decades by which each row lies beyond the data, along its worst column; None where they are not known.

        Raises:
            PredictionError: it asks for a base where all rows are from scratch, at no distance from any.
        """
        if not self.ranges:
            return None
        if "base_tokens" not in self.ranges and np.any(np.isfinite(logs.get("base_tokens", -np.inf))):
            raise PredictionError(
                f"This asks for a base, but all {self.n_points} rows behind this law are from scratch (base_tokens 0), "
                "so nothing checks what it says of one. Ask with base_tokens=0, or fit rows with a base too."
            )
        worst = np.zeros(len(next(iter(logs.values()))))
        for name, (first, last) in self.ranges.items():
            if name not in logs:
                continue
            low, high, values = np.log(first), np.log(last), logs[name]
            beyond = np.maximum(low - values, values - high) / np.log(10)
            worst = np.maximum(worst, np.where(np.isfinite(values), beyond, 0.0))
        return worst


def completed(form: Form, points: Points) -> tuple[Form, Points]:
    """The form and the rows it is fitted to: rows from scratch get a branch where the form diverges.

    Three such rows at different token counts are needed for the branch; fewer are left out, with a note.
    """
    scratch = points.from_scratch
    if form.covers_scratch or not scratch.any() or "base_tokens" not in form.columns:
        return form, points
    if scratch.all():
        raise FitError(
            f"All {len(points)} points are from scratch (base_tokens 0), where the form {form.name!r} diverges. "
            "Fit a one-stage form such as 'total_tokens'."
        )
    if len(np.unique(points.tokens[scratch])) >= 3:
        return WithScratch(form), points
    count = int(scratch.sum())
    reason = f"{count} from-scratch row{'s' * (count > 1)} left out: their curve needs at least 3 token counts."
    return form, points.take(~scratch, reason)


def fit_law(
    form: Form, points: Points, *, objective: str = "huber", delta: float = 1e-3, resamples: int = 1000
) -> tuple[FittedLaw, Points]:
    """Fit, resample and check.

    Returns:
        The law, and the rows it used (see `completed`).

    Raises:
        FitError: points that cannot support the form.
        PointError: a column the form reads is missing.
    """
    form, points = completed(form, points)
    fit = fit_form(form, points.logs(form), points.loss, objective=objective, delta=delta)
    replicates = replicate(fit, points, resamples=resamples)
    ranges = {}
    for name in form.columns:
        column = getattr(points, name)
        column = column[column > 0]
        if len(column):
            ranges[name] = (float(column.min()), float(column.max()))
    found = identify(points, fit)
    law = FittedLaw(
        form=form,
        objective=objective,
        delta=float(delta),
        theta=fit.theta,
        replicates=replicates,
        ranges=ranges,
        n_points=len(points),
        n_scratch=int(points.from_scratch.sum()),
        error=float(np.mean(np.abs(np.expm1(-fit.residuals)))),
        warnings=run_checks(points, fit, replicates),
        points_digest=points.digest(),
        unidentified=found.lost,
        anchor=found.anchor,
        moves=found.moves,
        definitions=define(form, points),
        loss_unit=points.loss_unit,
    )
    return law, points


def known_law(form: Form, params: Mapping[str, float]) -> FittedLaw:
    """A law with published parameters, about whose data and uncertainty nothing is known."""
    if "A_scratch" in params and "A_scratch" not in form.parameters:
        form = WithScratch(form)
    theta = form.to_theta(params)
    note = "These parameters were given, not fitted: there are no intervals, and no data to measure distances from."
    return FittedLaw(
        form=form,
        objective="given",
        delta=float("nan"),
        theta=theta,
        replicates=no_replicates(len(theta), unit="none", clusters=0, notes=(note,)),
        ranges={},
        n_points=0,
        n_scratch=0,
        error=None,
        warnings=(note,),
        points_digest=None,
        definitions=define(form, None),
    )
