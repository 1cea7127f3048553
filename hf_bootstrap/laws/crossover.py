"""When reuse beats training from scratch: up to how many second-stage tokens, and with what probability at a budget.

Both sides may be one law, fitted with rows from scratch, or two laws fitted apart.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ..errors import LawError
from ..units import format_count
from .decisions import TOKENS_GRID, Decision, add_distance, from_log, in_parts, why_no_interval
from .fitted import FittedLaw, Question
from .prediction import refuse_undetermined
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
        PredictionError: a law lacks an argument.
    """
    _refuse_impossible(law, scratch, base_tokens, tokens)
    rival = law if scratch is None else scratch
    extra = base_tokens * _cost_ratio(n_params, n_params_base) if count_base_cost else 0.0
    columns = {"base_tokens": base_tokens, "n_params": n_params}
    gap = _gap(law, rival, columns, np.exp(TOKENS_GRID), extra)

    def question(theta: FloatArray, rival_theta: FloatArray) -> FloatArray:
        return _last_better(gap(theta, rival_theta), headstart=extra > 0)

    closed = _shared_floor(law, base_tokens) if scratch is None and not extra else None
    _refuse_undetermined(law, rival, question if closed is None else lambda theta, _: closed(theta))
    value, found = _ask_both(law, rival, question) if closed is None else law.ask(closed)
    notes = [_crossing_note(float(value), format_count(base_tokens), extra), *_about_rival(law, scratch)]
    answer = None if np.isnan(value) else from_log(float(value))
    reach = None
    if answer is not None and 0 < answer < np.inf:
        reach = add_distance(law, {"base_tokens": np.log([base_tokens]), "tokens": np.log([answer])}, notes)
    low, high = (None, None) if found is None or np.isnan(found).any() else (from_log(float(x)) for x in found)
    if low is None:
        notes.append(why_no_interval(law, "in some refits the two curves do not cross, or cross the other way round"))
    chance = None
    if tokens is not None:
        chance, told = _chance(law, rival, _gap(law, rival, columns, np.array([tokens]), extra), tokens)
        notes.append(told)
    return Decision(value=answer, low=low, high=high, reach=reach, notes=tuple(notes), probability=chance)


def _refuse_impossible(law: FittedLaw, scratch: FittedLaw | None, base_tokens: float, tokens: float | None) -> None:
    for name, given in (("base_tokens", base_tokens), ("tokens", 1.0 if tokens is None else tokens)):
        if not 0 < given < np.inf:
            raise LawError(f"{name} is {given!r}; a comparison needs a positive, finite number of tokens.")
    if scratch is None and not law.form.covers_scratch:
        raise LawError(
            "This law was fitted without from-scratch rows, so there is nothing to compare with. "
            "Fit it with rows of base_tokens 0, or give scratch= a law of training from scratch."
        )
    if scratch is not None and scratch.loss_unit != law.loss_unit:
        raise LawError(
            f"Losses of this law are in {law.loss_unit}, those of scratch= in {scratch.loss_unit}, and neither follows "
            "from the other. Fit both on the same column of losses."
        )


def _refuse_undetermined(law: FittedLaw, rival: FittedLaw, question: _TwoLaws) -> None:
    what, most = "This crossover", 0.02  # of the tokens
    if rival is law:
        refuse_undetermined(law, lambda theta: question(theta, theta), what, most)
        return
    refuse_undetermined(law, lambda theta: question(theta, rival.theta[None]), what, most)
    refuse_undetermined(rival, lambda theta: question(law.theta[None], theta), what, most)


def _cost_ratio(n_params: float | None, n_params_base: float | None) -> float:
    if n_params_base is None or n_params is None:
        return 1.0
    if not (0 < n_params < np.inf and 0 < n_params_base < np.inf):
        raise LawError(f"n_params is {n_params!r} and n_params_base {n_params_base!r}; sizes are positive and finite.")
    return n_params_base / n_params


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
