"""What a law says of a candidate: whether it applies at all, its loss with an interval, and how scratch compares.

A law answers for the sizes, counts and text it was fitted to; beyond them the reason stands where a number would.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import LawError, PredictionError
from ..laws.law import ScalingLaw
from ..units import LossUnit, format_count
from .base_tokens import BaseTokens
from .candidates import Candidate

__all__ = ["Loss", "Outlook", "law_method", "look_ahead", "spell_chance"]

_SIZE = 2.0  # a law without a term for size answers for models up to this factor from those it was fitted to


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss in the unit of its law, over the whole range of D1.

    Attributes:
        value: at the middle of the range.
        low, high: the 95% intervals of all its ends together; None where the law knows none.
        reach: decades beyond the law's data; None where they are not known.
    """

    value: float
    low: float | None
    high: float | None
    reach: float | None

    def __str__(self) -> str:
        """Value, interval and distance."""
        told = f"{self.value:.4f}"
        told += " (interval not known)" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        if self.reach is None:
            return f"{told}, distance from the data not known"
        return told + (f", {self.reach:.1f} decades beyond the data" if self.reach else "")


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a law says of one candidate.

    Attributes:
        method: the candidate's name.
        law: where the law came from; None where there is none for this method.
        reused, scratch: expected losses at the budget's tokens: reusing the base, and the same model from scratch.
        probability: that reuse beats scratch there: least and most over the range of D1; None where not known.
        crossover: second-stage tokens up to which reuse wins, in words, at each end of the range of D1.
        saturation: what base tokens have done to the exponent, in words; None where the law has none.
        same_as: what a loss must share to be compared: evaluation text, tokenizer.
        unit: of the losses.
        notes: why something is not known, and what to know before acting.
    """

    method: str
    law: str | None = None
    reused: Loss | None = None
    scratch: Loss | None = None
    probability: tuple[float, float] | None = None
    crossover: str | None = None
    saturation: str | None = None
    same_as: str | None = None
    unit: LossUnit = LossUnit.NATS
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def law_method(law: ScalingLaw) -> str | None:
    """The one method whose points a law was fitted to; None where they are not at hand or do not say."""
    if law.points_ is None or law.points_.method is None:
        return None
    reused = {str(m) for m, fresh in zip(law.points_.method, law.points_.from_scratch, strict=True) if not fresh}
    return reused.pop() if len(reused) == 1 else None


def spell_chance(chance: tuple[float, float]) -> str:
    """A range of probabilities in words; draws that all agree make no certainty."""
    ends = [">0.99" if x > 0.99 else "<0.01" if x < 0.01 else f"{x:.2f}" for x in chance]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def look_ahead(
    candidate: Candidate,
    base: BaseTokens | None,
    law: ScalingLaw | None,
    *,
    place: str | None = None,
    scratch: ScalingLaw | None = None,
    extrapolate: bool = False,
) -> Outlook:
    """Ask a law about a candidate.

    Args:
        law: for this candidate's method; None gives the honest answer that there is none.
        place: where the law came from, for the page.
        scratch: a law of training from scratch, where `law` was fitted without such rows.
        extrapolate: show numbers also where the law does not apply, with the reasons beside them.
    """
    name = candidate.name
    if candidate.problem is not None or candidate.tokens is None:
        return Outlook(method=name, law=place, notes=(candidate.problem or "The budget comes to no tokens.",))
    if law is None:
        return Outlook(method=name, notes=("No law was given for this method, so its loss is not known.",))
    if base is None:
        return Outlook(method=name, law=place, notes=("The base's tokens are not known: state them (--base-tokens).",))
    reasons = _reasons_against(candidate, base, law)
    if reasons and not extrapolate:
        return Outlook(method=name, law=place, notes=("This law does not apply: " + " ".join(reasons),))
    notes = [f"The law does not apply, and was asked to answer all the same: {' '.join(reasons)}"] if reasons else []
    reused = _loss(law, base.marks, candidate, notes, extrapolate)
    fresh = scratch if scratch is not None else law if law.fitted.form.covers_scratch else None
    if fresh is not None and fresh.fitted.loss_unit != law.fitted.loss_unit:
        fresh = None  # the note on the crossover says why
    told, chance = (None, None) if reused is None else _crossings(law, scratch, base, candidate, notes)
    return Outlook(
        method=name,
        law=place,
        reused=reused,
        scratch=None if fresh is None or reused is None else _loss(fresh, (0.0,), candidate, notes, extrapolate),
        probability=chance,
        crossover=told,
        saturation=_saturation(law, base, extrapolate),
        same_as=_same_as(law),
        unit=law.fitted.loss_unit,
        notes=(*notes, _about_text(law)),
    )


def _reasons_against(candidate: Candidate, base: BaseTokens, law: ScalingLaw) -> list[str]:
    """Why a law cannot speak of this candidate; empty where it can."""
    found, fitted = [], law.fitted
    if not fitted.ranges:
        return ["Its data are not here, so whether size, tokens and text are those it was fitted to cannot be checked."]
    size = candidate.n_params_non_embedding or 0
    asked = {
        "base_tokens": (float(base.low), float(base.high)),
        "tokens": (float(candidate.tokens or 0),) * 2,
        "n_params": (float(size),) * 2,
    }
    for name, (low, high) in fitted.ranges.items():
        least, most = asked.get(name, (low, high))
        beyond = max(math.log10(low / least), math.log10(most / high), 0.0)
        if beyond > 2:
            told = format_count(least) if least == most else f"{format_count(least)} to {format_count(most)}"
            found.append(
                f"{name} {told} lies {beyond:.1f} decades beyond its data, {format_count(low)} to {format_count(high)}."
            )
    sizes = [p.n_params_non_embedding for p in (law.points_.records or ())] if law.points_ is not None else []
    known = [float(n) for n in sizes if n]
    if "n_params" not in fitted.form.columns and known and not min(known) / _SIZE <= size <= max(known) * _SIZE:
        ends = [format_count(n) for n in (min(known), max(known))]
        spread = ends[0] if ends[0] == ends[1] else " to ".join(ends)
        found.append(
            f"It was fitted to models of {spread} non-embedding parameters and reads no size; this one has "
            f"{format_count(size)}."
        )
    return found


def _loss(
    law: ScalingLaw, marks: tuple[float, ...], candidate: Candidate, notes: list[str], extrapolate: bool
) -> Loss | None:
    columns: dict[str, Any] = {"tokens": float(candidate.tokens or 0)}
    if "n_params" in law.fitted.form.columns:
        columns["n_params"] = float(candidate.n_params_non_embedding or 0)
    found = []
    for mark in marks:
        if "base_tokens" in law.fitted.form.columns:
            columns["base_tokens"] = mark
        try:
            found.append(law.predict(**columns, extrapolate=extrapolate))
        except (PredictionError, LawError) as error:
            notes.append(str(error))
            return None
    lows, highs = [p.low for p in found], [p.high for p in found]
    reaches = [float(p.reach) for p in found if p.reach is not None]
    known = None not in lows and None not in highs
    return Loss(
        value=float(found[len(found) // 2].value),
        low=min(float(x) for x in lows if x is not None) if known else None,
        high=max(float(x) for x in highs if x is not None) if known else None,
        reach=max(reaches) if reaches else None,
    )


def _crossings(
    law: ScalingLaw, scratch: ScalingLaw | None, base: BaseTokens, candidate: Candidate, notes: list[str]
) -> tuple[str | None, tuple[float, float] | None]:
    size = float(candidate.n_params_non_embedding or 0) if "n_params" in law.fitted.form.columns else None
    told, chances = [], []
    for mark in sorted({float(base.low), float(base.high)}):
        try:
            found = law.crossover(scratch, base_tokens=mark, tokens=float(candidate.tokens or 0), n_params=size)
        except (LawError, PredictionError) as error:
            notes.append(str(error))
            return None, None
        # Its last note says the probability, which has a line of its own.
        told.append(f"from {format_count(mark)} base tokens: {replace(found, notes=found.notes[:-1])}")
        chances.append(found.probability)
    known = [chance for chance in chances if chance is not None]
    return " ".join(told), (min(known), max(known)) if len(known) == len(chances) else None


def _saturation(law: ScalingLaw, base: BaseTokens, extrapolate: bool) -> str | None:
    """How much of the second stage's exponent the base's tokens have eaten; None where the law cannot say."""
    try:
        least = law.fitted.ranges.get("base_tokens", (None, None))[0]
        here = law.exponent(float(base.high), extrapolate=extrapolate)
        where = law.saturation()
    except (LawError, PredictionError):
        return None
    told = f"the exponent of second-stage tokens is {float(here.value):.3g} at {format_count(base.high)} base tokens"
    if here.low is not None and here.high is not None:
        told += f" [{float(here.low):.3g}, {float(here.high):.3g}]"
    if least is not None and least < base.high:
        told += f", {float(law.exponent(least).value):.3g} at {format_count(least)}"
    return f"{told}. Where it would reach 0: {where}"


def _same_as(law: ScalingLaw) -> str | None:
    """Hashes of evaluation text and tokenizer, where the points of a law carry them."""
    records = () if law.points_ is None else law.points_.records or ()
    found: set[str] = {"/".join(_identity(p.hashes)) for p in records}
    return found.pop() if len(found) == 1 else None


def _identity(hashes: Mapping[str, str]) -> tuple[str, str]:
    return hashes.get("eval_set", "?")[:12], hashes.get("tokenizer", "?")[:12]


def _about_text(law: ScalingLaw) -> str:
    domains = set() if law.points_ is None or law.points_.domain is None else {str(d) for d in law.points_.domain}
    of = (
        f"held-out text of {', '.join(sorted(domains))}"
        if domains
        else "the text it was fitted to, which it does not name"
    )
    return f"Losses are on {of}, by the tokenizer of its points; on other text this law says nothing."
