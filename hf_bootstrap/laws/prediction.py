"""What a law says of runs that were not made: losses and exponents, and what it must not be asked.

Refused are questions far from the data, where the formula has ended, and those the points do not determine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import LawError, PredictionError
from ..units import format_count
from .arguments import amounts_of, check_level
from .fitted import FittedLaw, Question
from .terms import FloatArray

__all__ = ["Prediction", "exponent", "predict", "refuse_undetermined", "refuse_unread", "why_rising"]

_MAX_REACH = 2.0  # decades beyond the data
_SEED_NOISE = 2e-3  # of a loss: what two runs with other seeds differ by


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """An answer with its interval: floats when every argument was a number, else arrays.

    Attributes:
        value: the law's answer.
        low, high: the interval of the law itself (a new run scatters around it); None where it is not known.
        reach: decades beyond the data, 0 inside them; None for a law that does not know its data.
    """

    value: float | FloatArray
    low: float | FloatArray | None
    high: float | FloatArray | None
    reach: float | FloatArray | None


def predict(
    law: FittedLaw, columns: Mapping[str, npt.ArrayLike | None], *, level: float = 0.95, extrapolate: bool = False
) -> Prediction:
    """The loss in the unit of the law; see `ScalingLaw.predict`.

    Raises:
        PredictionError: an argument is missing or impossible, or the answer would rest on nothing.
    """
    check_level(level)
    refuse_unread(law, columns)
    logs, shape = law.logs(columns)
    reach = law.reach(logs)

    def question(theta: FloatArray) -> FloatArray:
        return law.form.log_loss(logs, theta)

    refuse_undetermined(law, question, "This loss", _SEED_NOISE)
    if not extrapolate:
        _refuse_far(law, reach)
        _refuse_rising(why_rising(law, logs, reach))
    value, found = law.ask(question, level)
    low, high = (None, None) if found is None else (_shaped(np.exp(x), shape) for x in found)
    return Prediction(
        value=_shaped(np.exp(value), shape),
        low=low,
        high=high,
        reach=None if reach is None else _shaped(reach, shape),
    )


def exponent(
    law: FittedLaw, base_tokens: npt.ArrayLike, level: float = 0.95, *, extrapolate: bool = False
) -> Prediction:
    """How fast the second stage lowers the loss above its floor, at fixed D1; see `ScalingLaw.exponent`.

    Raises:
        LawError: the form has no exponent that is the same for all D2.
        PredictionError: base_tokens are impossible, or the answer would rest on nothing.
    """
    check_level(level)
    one = np.ones_like(amounts_of("base_tokens", base_tokens))
    logs, shape = law.logs({"base_tokens": base_tokens, "tokens": one, "n_params": one})
    elsewhere = {**logs, "tokens": logs["tokens"] + 20}
    here, there = (law.form.exponents(at, law.theta[None]) for at in (logs, elsewhere))
    if here is None or there is None or np.any(np.abs(here["tokens"] - there["tokens"]) > 1e-12):
        raise LawError(
            f"The form {law.form.name!r} has no exponent of D2 at fixed D1; predict losses: {law.form.formula}"
        )

    def question(theta: FloatArray) -> FloatArray:
        exponents = law.form.exponents(logs, theta)
        assert exponents is not None
        return exponents["tokens"]

    refuse_undetermined(law, question, "This exponent", _SEED_NOISE)
    reach = law.reach({"base_tokens": logs["base_tokens"]}) if "base_tokens" in logs else None
    if not extrapolate:
        _refuse_far(law, reach)
        _refuse_rising(why_rising(law, logs, reach, "tokens"))
    value, found = law.ask(question, level)
    low, high = (None, None) if found is None else (_shaped(x, shape) for x in found)
    far = None if reach is None else _shaped(reach, shape)
    return Prediction(value=_shaped(value, shape), low=low, high=high, reach=far)


def refuse_undetermined(law: FittedLaw, question: Question, what: str, most: float) -> None:
    """Refuse an answer that follows parameters the points cannot tell apart.

    Args:
        law: the law.
        question: as for `FittedLaw.ask`.
        what: the answer, as a message begins.
        most: the change that is let pass, on the scale of the question.

    Raises:
        PredictionError: moving those parameters together, so that no fitted point notices, changes it by more.
    """
    if not law.unidentified:
        return
    change = float(np.max(law.doubt(question), initial=0.0))
    if change > most:
        moved = f"by {np.expm1(change):.1%}" if change < 10 else "out of all bounds"
        raise PredictionError(
            f"{what} rests on parameters these points cannot tell apart ({', '.join(law.unidentified)}): moved "
            f"together so that no fitted point notices, they change it {moved}. Ask where the points lie (summary() "
            "says what they know), or measure runs that vary each column by itself."
        )


def refuse_unread(law: FittedLaw, asked: Mapping[str, object]) -> None:
    """Refuse an argument that the form would pass over: who gives it believes that it matters.

    Raises:
        PredictionError: one is given, and not among the form's columns.
    """
    for name, value in asked.items():
        if value is not None and name not in law.form.columns:
            raise PredictionError(
                f"The form {law.form.name!r} does not read {name}, so its answer would be the same for any. Leave it "
                f"out, or choose a form that does: {law.form.formula}"
            )


def why_rising(law: FittedLaw, logs: Mapping[str, FloatArray], reach: FloatArray | None, *names: str) -> str | None:
    """Why an answer beyond the data says nothing, in a sentence; None where loss still falls with more tokens there.

    Inside the data more tokens can hurt, and the points have shown it; beyond them it is the formula's end. An
    exponent that the points do not determine says nothing of the kind.

    Args:
        law: the law.
        logs: the places, as for `FittedLaw.logs`.
        reach: of the places, or of what matters in them.
        names: columns whose exponents are looked at; all by default.
    """
    beyond = np.ones(len(next(iter(logs.values()))), dtype=bool) if reach is None else reach > 0
    exponents = law.form.exponents(logs, law.theta[None]) or {}
    for name in names or exponents:
        if name not in exponents:
            continue
        values = exponents[name][0]
        doubt = law.doubt(lambda theta, name=name: (law.form.exponents(logs, theta) or {})[name])  # type: ignore[misc]
        rising = values[beyond & (values <= 0) & (doubt < _SEED_NOISE)]
        if len(rising):
            return (
                f"There the exponent of {name} is {rising.min():.3g}: the law says loss rises with more of them, "
                "which is where its formula ends, not what a model does."
            )
    return None


def _refuse_far(law: FittedLaw, reach: FloatArray | None) -> None:
    if reach is not None and np.any(reach > _MAX_REACH):
        ranges = "; ".join(
            f"{name} {format_count(low)} to {format_count(high)}" for name, (low, high) in law.ranges.items()
        )
        raise PredictionError(
            f"This is {reach.max():.1f} decades beyond the data ({ranges}); nothing there checks the law. "
            "Ask nearer to the data, or say extrapolate=True and carry the risk."
        )


def _refuse_rising(why: str | None) -> None:
    if why is not None:
        raise PredictionError(f"{why} Ask inside the data, or say extrapolate=True.")


def _shaped(values: FloatArray, shape: tuple[int, ...]) -> float | FloatArray:
    """Flat values in their shape; a float where that is ()."""
    return float(values[0]) if shape == () else values.reshape(shape)
