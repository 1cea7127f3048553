"""When reuse beats training from scratch: up to how many second-stage tokens, and with what probability at a budget.

Both sides may be one law, fitted with rows from scratch, or two laws fitted apart.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ..errors import LawError
from ..units import format_count
from .arguments import is_positive
from .decisions import (
    TOKENS_GRID,
    Decision,
    add_distance,
    chance_of,
    from_log,
    in_parts,
    no_answer,
    probability_below,
    why_ended,
    why_no_interval,
)
from .fitted import FittedLaw, Question
from .prediction import refuse_undetermined, refuse_unread
from .scratch import WithScratch
from .terms import FloatArray, add_up

__all__ = ["crossover"]

_TwoLaws = Callable[[FloatArray, FloatArray], FloatArray]  # thetas of both laws -> answers


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
        LawError: no law of training from scratch is known, its losses are in another unit, or a count is not positive.
        PredictionError: a law lacks an argument, or would pass over one.
    """
    rival = law if scratch is None else scratch
    refuse_unread(law, {"base_tokens": base_tokens})
    _refuse_impossible(law, rival, {"base_tokens": base_tokens, "tokens": tokens})
    _refuse_silent(law, rival, n_params, n_params_base, count_base_cost)
    ratio = n_params_base / n_params if n_params_base is not None and n_params is not None else 1.0
    extra = base_tokens * ratio if count_base_cost else 0.0
    columns = {"base_tokens": base_tokens, "n_params": n_params}
    place = {name: np.log([x]) for name in law.form.columns if (x := columns.get(name)) is not None}
    gap = _gap(law, rival, columns, np.exp(TOKENS_GRID), extra)
    if why := why_ended(law, place):
        return no_answer(why)

    def question(theta: FloatArray, rival_theta: FloatArray) -> FloatArray:
        return _last_better(gap(theta, rival_theta), headstart=extra > 0)

    closed = _shared_floor(law, base_tokens) if scratch is None and not extra else None
    _refuse_undetermined(law, rival, question if closed is None else lambda theta, _: closed(theta))
    value, found = _ask_both(law, rival, question) if closed is None else law.ask(closed)
    notes = [_crossing_note(float(value), format_count(base_tokens), extra), *_about_rival(law, scratch)]
    answer = None if np.isnan(value) else from_log(float(value))
    reach = _distances(law, rival, place, answer, tokens, extra, notes)
    low, high = (None, None) if found is None or np.isnan(found).any() else (from_log(float(x)) for x in found)
    if low is None:
        notes.append(why_no_interval(law, "in some refits the two curves do not cross, or cross the other way round"))
    chance = None
    if tokens is not None:
        chance, told = _chance(law, rival, _gap(law, rival, columns, np.array([tokens]), extra), tokens)
        notes.append(told)
    return Decision(value=answer, low=low, high=high, reach=reach, notes=tuple(notes), probability=chance)


def _refuse_impossible(law: FittedLaw, rival: FittedLaw, asked: Mapping[str, float | None]) -> None:
    for name, given in asked.items():
        if given is not None and not is_positive(given):
            raise LawError(f"{name} is {given!r}; a comparison needs a positive, finite number of tokens.")
    if rival is law and not law.form.covers_scratch:
        raise LawError(
            "This law was fitted without from-scratch rows, so there is nothing to compare with. "
            "Fit it with rows of base_tokens 0, or give scratch= a law of training from scratch."
        )
    if rival.loss_unit != law.loss_unit:
        raise LawError(
            f"Losses of this law are in {law.loss_unit}, those of scratch= in {rival.loss_unit}, and neither follows "
            "from the other. Fit both on the same column of losses."
        )


def _refuse_silent(
    law: FittedLaw, rival: FittedLaw, n_params: float | None, n_params_base: float | None, count_base_cost: bool
) -> None:
    """Refuse an argument that would be passed over: who gives it believes that it matters."""
    for name, given in (("n_params", n_params), ("n_params_base", n_params_base)):
        if given is not None and not is_positive(given):
            raise LawError(f"{name} is {given!r}; sizes are positive and finite.")
    if n_params_base is not None and not count_base_cost:
        raise LawError(
            "n_params_base= matters only for the cost of the base. Leave it out, or say count_base_cost=True."
        )
    if n_params_base is not None and n_params is None:
        raise LawError(
            f"n_params_base is {n_params_base:.4g}, and without n_params= what a token of the base costs beside one of "
            "the second stage is not known. Give both, or neither where the sizes are equal."
        )
    if n_params is not None and not count_base_cost and "n_params" not in {*law.form.columns, *rival.form.columns}:
        refuse_unread(law, {"n_params": n_params})


def _distances(
    law: FittedLaw,
    rival: FittedLaw,
    place: Mapping[str, FloatArray],
    answer: float | None,
    tokens: float | None,
    extra: float,
    notes: list[str],
) -> float | None:
    """How far beyond the data what was asked and answered lies, of either law; None where the law's own are not known.

    Args:
        law, rival: of the second stage, and from scratch.
        place: the base, and the size where the law reads it.
        answer: in tokens, None or not finite where no number of them is told.
        tokens: the budget asked about.
        extra: tokens given to the scratch side.
        notes: are told.
    """
    found = [add_distance(law, place, notes, "The base")]
    asked = {"This": answer if answer is not None and 0 < answer < np.inf else None, "The budget": tokens}
    for what, count in asked.items():
        if count is None:
            continue
        found.append(add_distance(law, {"tokens": np.log([count])}, notes, what))
        if rival is not law or extra:
            there = {"tokens": np.log([count + extra])}
            found.append(add_distance(rival, there, notes, what, "the data of the law from scratch"))
    if rival is not law and all(count is None for count in asked.values()):
        found.append(_apart(law, rival, notes))
    return None if found[0] is None else max(x for x in found if x is not None)


def _apart(law: FittedLaw, rival: FittedLaw, notes: list[str]) -> float | None:
    """Decades between the token counts of two laws that are compared at all of them; 0 where they meet."""
    if not (law.ranges and rival.ranges):
        return None
    nearest = np.clip(np.log(rival.ranges["tokens"]), *np.log(law.ranges["tokens"]))
    far = rival.reach({"tokens": nearest})
    assert far is not None
    beyond = float(far.min())
    if beyond >= 0.05:
        notes.append(
            f"The law from scratch was fitted {beyond:.1f} decades away: at "
            f"{' to '.join(map(format_count, rival.ranges['tokens']))} tokens, the law of reuse at "
            f"{' to '.join(map(format_count, law.ranges['tokens']))}."
        )
    return beyond


def _refuse_undetermined(law: FittedLaw, rival: FittedLaw, question: _TwoLaws) -> None:
    what, most = "This crossover", 0.02  # of the tokens
    if rival is law:
        refuse_undetermined(law, lambda theta: question(theta, theta), what, most)
        return
    refuse_undetermined(law, lambda theta: question(theta, rival.theta[None]), what, most)
    refuse_undetermined(rival, lambda theta: question(law.theta[None], theta), what, most)


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
    budget = format_count(tokens)
    pairs = None if rival is law else _pairs(law, rival)
    if rival is law:
        chance = probability_below(law, lambda theta: gap(theta, theta)[:, 0])
    elif pairs is not None:
        chance = float(np.mean([float(gap(a[None], b[None])[0, 0]) < 0 for a, b in pairs]))
    else:
        value, found = _ask_both(law, rival, lambda a, b: gap(a, b)[:, 0], level=0.683)
        chance = None if found is None else chance_of(value, found)
    if chance is None:
        return None, f"With what probability reuse is better at {budget} tokens is not known."
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
        # All that tokens lower, at one token: of some forms it is several terms with one exponent.
        factor, _ = add_up(inner.terms(at_one_token, theta[:, :k])[: -len(inner.shared)])
        above = theta[:, k] - factor[:, 0]
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
        crossing = TOKENS_GRID[first] + before / (before - after) * (TOKENS_GRID[1] - TOKENS_GRID[0])
    answer = np.where(ends.any(axis=1), crossing, np.inf)
    begins_worse = worse[:, 0] & ~np.bool_(headstart)
    return np.where(worse.all(axis=1), -np.inf, np.where(begins_worse, np.nan, answer))


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
