"""What a law is for: when reuse beats training from scratch, how many tokens a loss takes, where force is lost.

Every answer is a `Decision` computed from joint refits, never a bare number. Questions about dividing a
budget are in `budgets`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import LawError
from ..units import format_count
from .fitted import FittedLaw, Question
from .scratch import WithScratch
from .terms import FloatArray, Term

__all__ = ["Decision", "crossover", "in_parts", "refuse_unidentified", "saturation", "tokens_for", "why_no_interval"]

# ln D2 from 1 token to 1e24, 40 a decade, where no closed answer is known.
_GRID = np.log(10.0) * np.linspace(0, 24, 961)
_TwoLaws = Callable[[FloatArray, FloatArray], FloatArray]  # thetas of both laws -> answers


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An answer to act on.

    Attributes:
        value: the answer; None where there is none, with the reason in `notes`.
        low, high: its 95% interval; None where it is not known, with the reason in `notes`.
        reach: decades of the answer beyond the data; None where data or answer are not known or not finite.
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


def crossover(
    law: FittedLaw,
    *,
    base_tokens: float,
    scratch: FittedLaw | None = None,
    n_params: float | None = None,
    n_params_base: float | None = None,
    count_base_cost: bool = False,
    tokens: float | None = None,
) -> Decision:
    """The second-stage tokens up to which reusing a base beats training from scratch.

    With a shared floor, ln D2* = [ln(A_scratch/A) + alpha1 ln D1] / [alpha_scratch - alpha2 + alpha3 ln D1]
    where both are positive, else reuse is better always, never, or only beyond; with floors of their own, the
    first place where the two curves cross.

    Args:
        law: of the second stage, fitted together with from-scratch rows, or else `scratch` is given.
        base_tokens: D1 of the base, above 0.
        scratch: a law of training from scratch, fitted apart: refits of both are drawn independently. One without
            intervals is taken as exact.
        n_params: size of the model in the second stage, for laws that read it.
        n_params_base: size of the base, where it differs; used by `count_base_cost`.
        count_base_cost: whether the base still has to be paid for: training from scratch then gets
            D2 + (n_params_base / n_params) D1 tokens.
        tokens: a second-stage budget; the answer then also holds the probability that reuse is better there.

    Raises:
        LawError: no law of training from scratch is known, or a count is not positive.
        PredictionError: a law lacks an argument.
    """
    for name, given in (("base_tokens", base_tokens), ("tokens", 1.0 if tokens is None else tokens)):
        if not 0 < given < np.inf:
            raise LawError(f"{name} is {given!r}; a comparison needs a positive, finite number of tokens.")
    if scratch is None and not law.form.covers_scratch:
        raise LawError(
            "This law was fitted without from-scratch rows, so there is nothing to compare with. "
            "Fit it with rows of base_tokens 0, or give scratch= a law of training from scratch."
        )
    refuse_unidentified(law)
    rival = law if scratch is None else scratch
    extra = base_tokens * _cost_ratio(n_params, n_params_base) if count_base_cost else 0.0
    columns = {"base_tokens": base_tokens, "n_params": n_params}
    closed = _shared_floor(law, base_tokens) if scratch is None and not extra else None
    gap = _gap(law, rival, columns, np.exp(_GRID), extra)
    if closed is not None:
        value, found = law.ask(closed)
    else:
        value, found = _ask_both(law, rival, lambda a, b: _last_better(gap(a, b), headstart=extra > 0))
    notes = [_crossing_note(float(value), format_count(base_tokens), extra), *_about_rival(law, scratch)]
    answer = None if np.isnan(value) else _tokens(float(value))
    reach = None
    if answer is not None and 0 < answer < np.inf:
        beyond = law.reach({"base_tokens": np.log([base_tokens]), "tokens": np.log([answer])})
        reach = None if beyond is None else float(beyond[0])
        if reach is not None and reach >= 0.05:
            notes.append(f"This lies {reach:.1f} decades beyond the data.")
    low, high = (None, None) if found is None or np.isnan(found).any() else (_tokens(float(x)) for x in found)
    if low is None:
        notes.append(why_no_interval(law, "in some refits the two curves do not cross, or cross the other way round"))
    chance = None
    if tokens is not None:
        chance, told = _chance(law, rival, _gap(law, rival, columns, np.array([tokens]), extra), tokens)
        notes.append(told)
    return Decision(value=answer, low=low, high=high, reach=reach, notes=tuple(notes), probability=chance)


def refuse_unidentified(law: FittedLaw) -> None:
    """Refuse a decision that rests on directions the points do not know (`identifiability`).

    Raises:
        LawError: some parameters cannot be told apart.
    """
    if law.unidentified:
        raise LawError(
            f"These points cannot tell {', '.join(law.unidentified)} apart, so the law says nothing off their line. "
            "Measure runs that vary each column by itself; see summary()."
        )


def _cost_ratio(n_params: float | None, n_params_base: float | None) -> float:
    if n_params_base is None or n_params is None:
        return 1.0
    if not (0 < n_params < np.inf and 0 < n_params_base < np.inf):
        raise LawError(f"n_params is {n_params!r} and n_params_base {n_params_base!r}; sizes are positive and finite.")
    return n_params_base / n_params


def _tokens(log_tokens: float) -> float:
    return float(np.exp(log_tokens)) if log_tokens < 700 else np.inf


def _gap(
    law: FittedLaw, rival: FittedLaw, columns: Mapping[str, float | None], tokens: FloatArray, extra: float
) -> _TwoLaws:
    """The ln L of reuse less that from scratch, (problems, len(tokens)); `extra` tokens go to the scratch side."""
    reused, _ = law.logs({**columns, "tokens": tokens})
    fresh, _ = rival.logs({**columns, "base_tokens": np.zeros_like(tokens), "tokens": tokens + extra})

    def gap(theta: FloatArray, rival_theta: FloatArray) -> FloatArray:
        return law.form.log_loss(reused, theta) - rival.form.log_loss(fresh, rival_theta)

    return gap


def _ask_both(
    law: FittedLaw, rival: FittedLaw, question: _TwoLaws, level: float = 0.95
) -> tuple[FloatArray, tuple[FloatArray, FloatArray] | None]:
    """A question to two laws, with the uncertainty of both where both are known."""
    value = np.asarray(question(law.theta[None], rival.theta[None])[0])
    if rival is law:
        return law.ask(in_parts(lambda theta: question(theta, theta)), level)
    _, own = law.ask(in_parts(lambda theta: question(theta, rival.theta[None])), level)
    if own is None or rival.replicates.method == "none":
        return value, own
    pairs = _pairs(law, rival)
    if pairs is not None:
        values = np.concatenate([question(a[None], b[None]) for a, b in pairs])
        fewer = min((law, rival), key=lambda one: one.replicates.clusters)
        return value, fewer.replicates.interval(value, values, level)
    _, other = rival.ask(in_parts(lambda theta: question(law.theta[None], theta)), level)
    assert other is not None
    with np.errstate(invalid="ignore"):
        below, above = (np.hypot(own[i] - value, other[i] - value) for i in (0, 1))
    return value, (np.asarray(value - below), np.asarray(value + above))


def _pairs(law: FittedLaw, rival: FittedLaw) -> list[tuple[FloatArray, FloatArray]] | None:
    """Independent draws of both laws; None where one of them has left-out rows instead of draws."""
    both = (law.replicates, rival.replicates)
    if any(one.method != "bootstrap" for one in both):
        return None
    count = min(len(one.theta) for one in both)
    # The bootstraps of two laws may have drawn their clusters in the same order; shuffled, they have not.
    order = np.random.default_rng(0).permutation(len(rival.replicates.theta))[:count]
    return list(zip(law.replicates.theta[:count], rival.replicates.theta[order], strict=True))


def _chance(law: FittedLaw, rival: FittedLaw, gap: _TwoLaws, tokens: float) -> tuple[float | None, str]:
    """How probable it is that reuse is better at one budget: the share of draws, or from the spread of the gap."""
    from scipy.special import ndtr

    budget = format_count(tokens)
    if law.replicates.method == "none":
        return None, f"With what probability reuse is better at {budget} tokens is not known."
    pairs = None if rival is law else _pairs(law, rival)
    if rival is law and law.replicates.method == "bootstrap":
        chance = float(np.mean(gap(law.replicates.theta, law.replicates.theta) < 0))
    elif pairs is not None:
        chance = float(np.mean([float(gap(a[None], b[None])[0, 0]) < 0 for a, b in pairs]))
    else:
        value, found = _ask_both(law, rival, lambda a, b: gap(a, b)[:, 0], level=0.683)
        if found is None:
            return None, f"With what probability reuse is better at {budget} tokens is not known."
        chance = float(ndtr(-float(value) / max(float(found[1] - found[0]) / 2, 1e-300)))
    return chance, f"At {budget} second-stage tokens reuse is better with probability {chance:.2f}."


def _shared_floor(law: FittedLaw, base_tokens: float) -> Question | None:
    """The closed answer, where the second stage is a power law in D2 above the floor it shares with scratch."""
    form = law.form
    if not isinstance(form, WithScratch) or "n_params" in form.columns:
        return None
    inner = form.inner
    at_one_token = {"base_tokens": np.log([base_tokens]), "tokens": np.zeros(1)}
    k = len(inner.parameters)

    def question(theta: FloatArray) -> FloatArray:
        exponents = inner.exponents(at_one_token, theta[:, :k])
        assert exponents is not None
        factor = inner.terms(at_one_token, theta[:, :k])[0]
        assert isinstance(factor, Term)
        above = theta[:, k] - factor.log[:, 0]
        steeper = theta[:, k + 1] - exponents["tokens"][:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = above / steeper
        normal = np.where(crossing > 0, crossing, -np.inf)
        turned = np.where(above > 0, np.inf, np.nan)
        return np.where(steeper > 0, normal, turned)

    return question if inner.exponents(at_one_token, law.theta[None, :k]) is not None else None


def _last_better(gap: FloatArray, *, headstart: bool) -> FloatArray:
    """The ln D2 at which reuse first stops being better; +-inf for always and never, NaN where it begins worse.

    A second, unphysical crossing can lie far out. With a head start of the scratch side (the base's own tokens)
    reuse begins worse by construction: then what counts is the stretch where it is better.
    """
    worse = gap > 0
    ends = ~worse[:, :-1] & worse[:, 1:]
    first = np.argmax(ends, axis=1)
    before, after = (gap[np.arange(len(gap)), first + i] for i in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = _GRID[first] + before / (before - after) * (_GRID[1] - _GRID[0])
    answer = np.where(ends.any(axis=1), crossing, np.inf)
    begins_worse = worse[:, 0] & ~np.bool_(headstart)
    return np.where(worse.all(axis=1), -np.inf, np.where(begins_worse, np.nan, answer))


def in_parts(question: Question, size: int = 64) -> Question:
    """The same question, asked for a few thetas at a time: a grid times all refits need not fit in memory."""
    return lambda theta: np.concatenate([question(theta[i : i + size]) for i in range(0, len(theta), size)])


def _crossing_note(log_tokens: float, base: str, extra: float) -> str:
    counted = f" Its cost is counted: scratch gets {format_count(extra)} tokens more." if extra else ""
    if np.isnan(log_tokens):
        return (
            f"From a base of {base} tokens the comparison is turned around: scratch is better at small budgets and "
            "reuse at large ones, so there is no budget up to which reuse wins." + counted
        )
    if log_tokens == np.inf:
        return f"From a base of {base} tokens reuse is better at every second-stage budget, says this law." + counted
    if log_tokens == -np.inf:
        return f"From a base of {base} tokens training from scratch is better at every budget, says this law." + counted
    return (
        f"From a base of {base} tokens reuse is better up to this many second-stage tokens, scratch beyond." + counted
    )


def _about_rival(law: FittedLaw, scratch: FittedLaw | None) -> list[str]:
    if scratch is None or scratch is law:
        return []
    if scratch.replicates.method == "none":
        return ["The law from scratch is taken as exact; only the reuse law's uncertainty is in the interval."]
    return ["The two laws were fitted apart; their uncertainties are joined as independent."]


def why_no_interval(law: FittedLaw, otherwise: str) -> str:
    """Why a decision of this law has no interval: what is known of its refits, or else the reason given."""
    if law.replicates.method == "none":
        return " ".join(law.replicates.notes[-1:])
    return f"There is no interval: {otherwise}."


def tokens_for(
    law: FittedLaw, *, loss: float, base_tokens: float | None = None, n_params: float | None = None
) -> Decision:
    """The tokens of the second stage (or the only one) after which the law is at `loss`.

    Args:
        law: any form.
        loss: nats per token.
        base_tokens: D1, for two-stage laws; 0 is from scratch.
        n_params: N, for laws that read it.

    Returns:
        The tokens; no answer where the law never gets there. An interval may end at infinity: some refits never do.

    Raises:
        LawError: a loss that is not positive and finite.
        PredictionError: an argument is missing.
    """
    refuse_unidentified(law)
    if not 0 < loss < np.inf:
        raise LawError(f"loss is {loss!r}; ask for a positive, finite number of nats per token.")
    logs, _ = law.logs({"base_tokens": base_tokens, "tokens": np.exp(_GRID), "n_params": n_params})

    def question(theta: FloatArray) -> FloatArray:
        above = law.form.log_loss(logs, theta) - np.log(loss)
        there = above <= 0
        first = np.maximum(np.argmax(there, axis=1), 1)
        before, after = (above[np.arange(len(above)), first - 1 + i] for i in (0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            at = _GRID[first - 1] + before / (before - after) * (_GRID[1] - _GRID[0])
        return np.where(there.any(axis=1), np.where(there[:, 0], 0.0, at), np.inf)

    value, found = law.ask(in_parts(question))
    limits = ("none", "no number of tokens")
    if not np.isfinite(value):
        least = float(np.exp(law.form.log_loss(logs, law.theta[None]).min()))
        why = f"The law never gets to {loss:.4g} nats per token: the least it says there is {least:.4g}."
        return Decision(value=None, low=None, high=None, reach=None, notes=(why,), limits=limits)
    answer = _tokens(float(value))
    low, high = (None, None) if found is None or np.isnan(found).any() else (_tokens(float(x)) for x in found)
    notes = [f"The law gets to {loss:.4g} nats per token after this many tokens."]
    if low is None:
        notes.append(why_no_interval(law, "some refits have no answer"))
    elif high == np.inf:
        notes.append(
            "In some refits the loss is never reached: it lies near the floor E, which these points hardly know."
        )
    beyond = law.reach({**{name: column[:1] for name, column in logs.items()}, "tokens": np.array([float(value)])})
    reach = None if beyond is None else float(beyond[0])
    if reach is not None and reach >= 0.05:
        notes.append(f"This lies {reach:.1f} decades beyond the data.")
    return Decision(value=answer, low=low, high=high, reach=reach, notes=tuple(notes), limits=limits)


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
        return _no_saturation(f"These points cannot tell {', '.join(sorted(lost))} apart from other parameters.")
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
    notes = [wall] if low is not None else [wall, why_no_interval(law, "in some refits the exponent does not fall")]
    tokens = [None if x is None else float(np.exp(min(x, 709.0))) for x in (float(value), low, high)]
    reach = None
    if law.ranges and tokens[0] is not None:
        reach = max(0.0, float(np.log10(tokens[0] / law.ranges["base_tokens"][1])))
        if reach > 2:
            notes.append(f"It lies {reach:.0f} decades beyond the data and says how slow the fall is, nothing more.")
    return Decision(value=tokens[0], low=tokens[1], high=tokens[2], reach=reach, notes=tuple(notes))


def _no_saturation(reason: str) -> Decision:
    return Decision(value=None, low=None, high=None, reach=None, notes=(reason,))
