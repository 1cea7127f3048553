"""What a law is for: how many tokens a loss takes, where force is lost; and what every answer consists of.

Every answer is a `Decision` computed from joint refits, never a bare number. When reuse beats training from scratch
is answered in `crossover`, how to divide a budget in `budgets`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import LawError
from ..units import format_count
from .arguments import is_positive
from .fitted import FittedLaw, Question
from .prediction import refuse_undetermined, refuse_unread, why_rising
from .scratch import WithScratch
from .terms import FloatArray

__all__ = [
    "TOKENS_GRID",
    "Decision",
    "add_distance",
    "chance_of",
    "from_log",
    "in_parts",
    "no_answer",
    "probability_below",
    "saturation",
    "tokens_for",
    "why_ended",
    "why_no_interval",
]

# ln D2 from 1 token to 1e24, 40 a decade, where no closed answer is known.
TOKENS_GRID = np.log(10.0) * np.linspace(0, 24, 961)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An answer to act on.

    Attributes:
        value: the answer; None where there is none, with the reason in `notes`.
        low, high: its 95% interval; None where it is not known, with the reason in `notes`.
        reach: decades beyond the data, of the answer where it is finite and of what was asked; None where the data are
            not known, or there is no place to measure from.
        notes: sentences one must have read before acting.
        probability: that the first of the two things compared is better, where two were compared at one budget.
        also: further numbers of the same answer, name -> (value, low, high), the interval None where not known.
        limits: what 0 and infinity mean here, in words.
    """

    value: float | None
    low: float | None
    high: float | None
    reach: float | None
    notes: tuple[str, ...]
    probability: float | None = None
    also: Mapping[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    limits: tuple[str, str] = ("never", "always")

    def __str__(self) -> str:
        """The answer, its interval and its notes in one line."""
        told = "no answer" if self.value is None else self._word(self.value)
        if self.low is not None and self.high is not None:
            told += f" [{self._word(self.low)}, {self._word(self.high)}]"
        return " ".join([f"{told}.", *self.notes])

    def _word(self, value: float) -> str:
        if value in (0.0, np.inf):
            return self.limits[int(value > 0)]
        return "<1" if value < 1 else ">1e18" if value > 1e18 else format_count(value)


def from_log(log_tokens: float) -> float:
    """Tokens from their logarithm; infinite where no float holds them."""
    return float(np.exp(log_tokens)) if log_tokens < 700 else np.inf


def add_distance(
    law: FittedLaw, logs: Mapping[str, FloatArray], notes: list[str], what: str = "This", data: str = "the data"
) -> float | None:
    """Decades of one row beyond the data, with a note where they are some; None where the data are not known.

    Args:
        law: the law.
        logs: the row, as for `FittedLaw.logs`, or some of its columns.
        notes: are told.
        what: lies there, as the note begins.
        data: of the law, as a note names them.
    """
    beyond = law.reach(logs)
    if beyond is None:
        return None
    if beyond[0] >= 0.05:
        notes.append(f"{what} lies {beyond[0]:.1f} decades beyond {data}.")
    return float(beyond[0])


def why_ended(law: FittedLaw, place: Mapping[str, FloatArray]) -> str | None:
    """Why no number of tokens can be told at a place beyond the data: more of them would raise the loss there.

    Args:
        law: the law.
        place: one row of its columns, without `tokens`.

    Returns:
        The sentence; None where loss falls with tokens, or where the points have shown what it does.
    """
    if not place:
        return None
    why = why_rising(law, {**place, "tokens": np.zeros(1)}, law.reach(place), "tokens")
    return why and f"{why} No answer there is to be trusted. Where the formula holds: {law.form.domain}"


def probability_below(law: FittedLaw, gap: Question) -> float | None:
    """How probable it is that a number is below 0: the share of draws, or from its spread; None where not known."""
    if law.replicates.method == "bootstrap":
        return float(np.mean(in_parts(gap)(law.replicates.theta) < 0))
    value, found = law.ask(in_parts(gap), level=0.683)
    return None if found is None else chance_of(value, found)


def chance_of(value: FloatArray, found: tuple[FloatArray, FloatArray]) -> float | None:
    """The probability that a number is below 0, from its 68.3% interval; None where that is not finite."""
    from scipy.special import ndtr

    if not np.isfinite(found).all():
        return None
    return float(ndtr(-float(value) / max(float(found[1] - found[0]) / 2, 1e-300)))


def in_parts(question: Question, size: int = 64) -> Question:
    """The same question, asked for a few thetas at a time: a grid times all refits need not fit in memory."""
    return lambda theta: np.concatenate([question(theta[i : i + size]) for i in range(0, len(theta), size)])


def why_no_interval(law: FittedLaw, otherwise: str) -> str:
    """Why a decision of this law has no interval: what is known of its refits, or else the reason given."""
    if law.replicates.method == "none":
        return " ".join(law.replicates.notes[-1:])
    return f"There is no interval: {otherwise}."


def tokens_for(law: FittedLaw, *, loss: float, **columns: float | None) -> Decision:
    """The tokens of the second stage (or the only one) after which the law is at `loss`.

    Args:
        law: any form.
        loss: in the unit of the law.
        **columns: the others that the form reads: base_tokens (0 is from scratch), n_params, unique_tokens,
            mixture_ratio.

    Returns:
        The tokens; no answer where the law never gets there. An interval may end at infinity: some refits never do.

    Raises:
        LawError: a loss that is not positive and finite.
        PredictionError: a column is missing or not read, or the answer rests on what the points do not know.
    """
    refuse_unread(law, columns)
    if not is_positive(loss):
        raise LawError(f"loss is {loss!r}; ask for a positive, finite number of {law.loss_unit}.")
    logs, _ = law.logs({**columns, "tokens": np.exp(TOKENS_GRID)})

    def question(theta: FloatArray) -> FloatArray:
        return _first_below(law.form.log_loss(logs, theta) - np.log(loss))

    limits = ("none", "no number of tokens")
    place = {name: column[:1] for name, column in logs.items() if name != "tokens"}
    if why := why_ended(law, place):
        return no_answer(why, limits)
    refuse_undetermined(law, question, "This number of tokens", 0.02)
    value, found = law.ask(in_parts(question))
    if not np.isfinite(value):
        least = float(np.exp(law.form.log_loss(logs, law.theta[None]).min()))
        return no_answer(
            f"The law never gets to {loss:.4g} {law.loss_unit}: the least it says there is {least:.4g}.", limits
        )
    notes = [f"The law gets to {loss:.4g} {law.loss_unit} after this many tokens."]
    low, high = _ends(law, found, notes)
    reach = add_distance(law, {**place, "tokens": np.array([float(value)])}, notes)
    return Decision(value=from_log(float(value)), low=low, high=high, reach=reach, notes=tuple(notes), limits=limits)


def _ends(
    law: FittedLaw, found: tuple[FloatArray, FloatArray] | None, notes: list[str]
) -> tuple[float | None, float | None]:
    """The interval in tokens from that in their logarithm; notes say why there is none, or why it has no end."""
    never = "in some refits the loss is never reached (it lies near the floor E, which these points hardly know)"
    if found is None or np.isnan(found).any():
        notes.append(why_no_interval(law, "some refits have no answer"))
        return None, None
    if found[0] == -np.inf:  # a width of t standard errors, one of which is infinite, leaves both ends open
        notes.append(why_no_interval(law, f"{never}, and of few bases left out in turn one such leaves both ends open"))
        return None, None
    if found[1] == np.inf:
        notes.append(f"{never[0].upper()}{never[1:]}.")
    return from_log(float(found[0])), from_log(float(found[1]))


def _first_below(above: FloatArray) -> FloatArray:
    """The ln of tokens at which each row of the grid first falls to 0; infinite where it never does."""
    there = above <= 0
    first = np.maximum(np.argmax(there, axis=1), 1)
    before, after = (above[np.arange(len(above)), first - 1 + i] for i in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        at = TOKENS_GRID[first - 1] + before / (before - after) * (TOKENS_GRID[1] - TOKENS_GRID[0])
    return np.where(there.any(axis=1), np.where(there[:, 0], 0.0, at), np.inf)


def saturation(law: FittedLaw) -> Decision:
    """The base tokens at which the second stage's exponent reaches 0: D1_sat = exp(alpha2 / alpha3).

    Source: the zero of alpha2 - alpha3 ln D1 in Liew & Kato 2025, arXiv:2510.06548.

    Raises:
        LawError: the form has no alpha3.
    """
    inner = law.form.inner if isinstance(law.form, WithScratch) else law.form
    if "alpha3" not in inner.parameters:
        raise LawError(f"The form {law.form.name!r} has no alpha3; saturation is a question to the form 'bootstrap'.")
    a2, a3 = inner.parameters.index("alpha2"), inner.parameters.index("alpha3")
    wall = "Saturation is a falling slope, not a wall: long before this point more tokens help less and less."
    lost = {"alpha2", "alpha3"} & set(law.unidentified)
    if lost:
        return no_answer(f"These points cannot tell {', '.join(sorted(lost))} apart from other parameters.")
    if law.theta[a3] <= 0:
        return no_answer(f"alpha3 = {law.theta[a3]:.4g} is not positive: on these points the exponent does not fall.")
    found = law.interval("alpha3")
    if found is not None and found[0] <= 0:
        return no_answer(
            f"The interval of alpha3, [{found[0]:.3g}, {found[1]:.3g}], includes 0: these points do not show that the "
            "exponent falls at all."
        )
    value, interval = law.ask(lambda theta: theta[:, a2] / theta[:, a3])
    low, high = (None, None) if interval is None or np.isnan(interval).any() else (float(x) for x in interval)
    notes = [wall] if low is not None else [wall, why_no_interval(law, "in some refits the exponent does not fall")]
    tokens = [None if x is None else float(np.exp(min(x, 709.0))) for x in (float(value), low, high)]
    reach = None
    if law.ranges and tokens[0] is not None:
        reach = max(0.0, float(np.log10(tokens[0] / law.ranges["base_tokens"][1])))
        if reach > 2:
            notes.append(f"It lies {reach:.0f} decades beyond the data and says how slow the fall is, nothing more.")
    return Decision(value=tokens[0], low=tokens[1], high=tokens[2], reach=reach, notes=tuple(notes))


def no_answer(reason: str, limits: tuple[str, str] = ("never", "always")) -> Decision:
    """A decision without an answer, and why."""
    return Decision(value=None, low=None, high=None, reach=None, notes=(reason,), limits=limits)
