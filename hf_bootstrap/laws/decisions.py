"""What a law is for: when reuse beats training from scratch, and where the second stage loses its force.

Every answer is a `Decision` computed from joint refits, never a bare number.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import LawError
from ..units import format_count
from .fitted import FittedLaw, Question
from .scratch import WithScratch
from .terms import FloatArray

__all__ = ["Decision", "crossover", "saturation"]

# ln D2 from 1 token to 1e24, 40 a decade, where two curves without a common floor are compared.
_GRID = np.log(10.0) * np.linspace(0, 24, 961)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An answer to act on.

    Attributes:
        value: the answer; None where there is none, with the reason in `notes`. Infinite means "always", 0 "never".
        low, high: its 95% interval; None where it is not known, with the reason in `notes`.
        reach: decades of the answer beyond the data; None where data or answer are not known or not finite.
        notes: sentences one must have read before acting.
    """

    value: float | None
    low: float | None
    high: float | None
    reach: float | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """The answer, its interval and its notes in one line."""
        if self.value is None:
            told = "no answer"
        elif self.value in (0.0, np.inf):
            told = "always" if self.value else "never"
        else:
            told = format_count(self.value)
        if self.low is not None and self.high is not None:
            told += f" [{_count(self.low)}, {_count(self.high)}]"
        return " ".join([f"{told}.", *self.notes])


def _count(value: float) -> str:
    if value in (0.0, np.inf):
        return "always" if value else "never"
    return "<1" if value < 1 else ">1e18" if value > 1e18 else format_count(value)


def crossover(
    law: FittedLaw, *, base_tokens: float, scratch: FittedLaw | None = None, n_params: float | None = None
) -> Decision:
    """The second-stage tokens up to which reusing a base beats training from scratch.

    With a shared floor, ln D2* = [ln(A_scratch/A) + alpha1 ln D1] / [alpha_scratch - alpha2 + alpha3 ln D1]
    where both are positive, else reuse is better always, never, or only beyond; with floors of their own, the
    first place where the two curves cross.

    Args:
        law: of the second stage, fitted together with from-scratch rows, or else `scratch` is given.
        base_tokens: D1 of the base, above 0.
        scratch: a law of training from scratch; taken as exact.
        n_params: model size, for laws that read it.

    Raises:
        LawError: no law of training from scratch is known, or `base_tokens` is not positive.
        PredictionError: a law lacks an argument.
    """
    if not base_tokens > 0:
        raise LawError(f"base_tokens is {base_tokens!r}; the base to reuse has seen a positive number of tokens.")
    if scratch is None and not law.form.covers_scratch:
        raise LawError(
            "This law was fitted without from-scratch rows, so there is nothing to compare with. "
            "Fit it with rows of base_tokens 0, or give scratch= a law of training from scratch."
        )
    question = _shared_floor(law, base_tokens) if scratch is None else None
    value, found = law.ask(question or _own_floors(law, scratch or law, base_tokens, n_params))
    notes = [_crossing_note(float(value), format_count(base_tokens))]
    if scratch is not None:
        notes.append("The law from scratch is taken as exact; only the reuse law's uncertainty is in the interval.")
    answer = None if np.isnan(value) else _tokens(float(value))
    reach = None
    if answer is not None and 0 < answer < np.inf:
        beyond = law.reach({"base_tokens": np.log([base_tokens]), "tokens": np.log([answer])})
        reach = None if beyond is None else float(beyond[0])
        if reach is not None and reach >= 0.05:
            notes.append(f"This lies {reach:.1f} decades beyond the data.")
    low, high = (None, None) if found is None or np.isnan(found).any() else (_tokens(float(x)) for x in found)
    if low is None:
        notes.append(_why_no_interval(law))
    return Decision(value=answer, low=low, high=high, reach=reach, notes=tuple(notes))


def _tokens(log_tokens: float) -> float:
    return float(np.exp(log_tokens)) if log_tokens < 700 else np.inf


def _shared_floor(law: FittedLaw, base_tokens: float) -> Question | None:
    """The closed answer, where the second stage is a power law in D2 above the floor it shares with scratch."""
    form = law.form
    if not isinstance(form, WithScratch):
        return None
    inner = form.inner
    at_one_token = {"base_tokens": np.log([base_tokens]), "tokens": np.zeros(1)}
    k = len(inner.parameters)

    def question(theta: FloatArray) -> FloatArray:
        exponents = inner.exponents(at_one_token, theta[:, :k])
        assert exponents is not None
        above = theta[:, k] - inner.terms(at_one_token, theta[:, :k])[0].log[:, 0]
        steeper = theta[:, k + 1] - exponents["tokens"][:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = above / steeper
        normal = np.where(crossing > 0, crossing, -np.inf)
        turned = np.where(above > 0, np.inf, np.nan)
        return np.where(steeper > 0, normal, turned)

    return question if inner.exponents(at_one_token, law.theta[None, :k]) is not None else None


def _own_floors(law: FittedLaw, rival: FittedLaw, base_tokens: float, n_params: float | None) -> Question:
    """The first crossing on a grid; a second, unphysical one can lie far out."""
    tokens = np.exp(_GRID)
    reused, _ = law.logs({"base_tokens": np.full_like(tokens, base_tokens), "tokens": tokens, "n_params": n_params})
    fresh, _ = rival.logs({"base_tokens": np.zeros_like(tokens), "tokens": tokens, "n_params": n_params})

    def question(theta: FloatArray) -> FloatArray:
        gap = law.form.log_loss(reused, theta) - rival.form.log_loss(
            fresh, theta if rival is law else rival.theta[None]
        )
        worse = gap > 0
        changes = worse[:, 1:] != worse[:, :-1]
        first = np.argmax(changes, axis=1)
        before, after = (gap[np.arange(len(gap)), first + i] for i in (0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = _GRID[first] + before / (before - after) * (_GRID[1] - _GRID[0])
        crossing = np.where(worse[:, 0], np.nan, crossing)
        return np.where(changes.any(axis=1), crossing, np.where(worse[:, 0], -np.inf, np.inf))

    return question


def _crossing_note(log_tokens: float, base: str) -> str:
    if np.isnan(log_tokens):
        return (
            f"From a base of {base} tokens the comparison is turned around: scratch is better at small budgets and "
            "reuse at large ones, so there is no budget up to which reuse wins."
        )
    if log_tokens == np.inf:
        return f"From a base of {base} tokens reuse is better at every second-stage budget, says this law."
    if log_tokens == -np.inf:
        return f"From a base of {base} tokens training from scratch is better at every budget, says this law."
    return f"From a base of {base} tokens reuse is better up to this many second-stage tokens, scratch beyond."


def _why_no_interval(law: FittedLaw) -> str:
    if law.replicates.method == "none":
        return " ".join(law.replicates.notes[-1:])
    return "There is no interval: in some refits the two curves do not cross, or cross the other way round."


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
    if law.theta[a3] <= 0:
        return _no_saturation(
            f"alpha3 = {law.theta[a3]:.4g} is not positive: on these points the exponent does not fall."
        )
    found = law.interval("alpha3")
    if found is not None and found[0] <= 0:
        return _no_saturation(
            f"The interval of alpha3, [{found[0]:.3g}, {found[1]:.3g}], includes 0: these points do not show that the "
            "exponent falls at all."
        )
    value, interval = law.ask(lambda theta: theta[:, a2] / theta[:, a3])
    low, high = (None, None) if interval is None or np.isnan(interval).any() else (float(x) for x in interval)
    notes = [wall] if low is not None else [wall, _why_no_interval(law)]
    tokens = [None if x is None else float(np.exp(min(x, 709.0))) for x in (float(value), low, high)]
    reach = None
    if law.ranges and tokens[0] is not None:
        reach = max(0.0, float(np.log10(tokens[0] / law.ranges["base_tokens"][1])))
        if reach > 2:
            notes.append(f"It lies {reach:.0f} decades beyond the data and says how slow the fall is, nothing more.")
    return Decision(value=tokens[0], low=tokens[1], high=tokens[2], reach=reach, notes=tuple(notes))


def _no_saturation(reason: str) -> Decision:
    return Decision(value=None, low=None, high=None, reach=None, notes=(reason,))
