"""How to divide a budget of FLOPs: between two stages, or between model size and tokens; when to grow.

FLOPs are counted as 6 N D unless another factor is given. Decisions at a given base are in `decisions`.
"""

from collections.abc import Callable

import numpy as np

from ..errors import LawError
from ..units import format_count
from .decisions import Decision, in_parts, refuse_unidentified, why_no_interval
from .fitted import FittedLaw
from .terms import FloatArray

__all__ = ["best_split", "compute_optimal", "grow_after"]

# The share of the budget in the second stage, as a logit: from 1e-7 to 1 - 1e-7, symmetric and fine.
_LOGITS = np.linspace(-16, 16, 1281)
_FACTOR = 6.0  # FLOPs per parameter and token, Kaplan et al. 2020, arXiv:2001.08361


def best_split(
    law: FittedLaw,
    *,
    flops: float,
    n_params_base: float,
    n_params: float | None = None,
    flops_per_param_token: float = _FACTOR,
) -> Decision:
    """How many tokens to give the base when both stages are paid from one budget, C = 6 (N1 D1 + N2 D2).

    At a minimum of the bootstrap law (N2 D2) / (N1 D1) = (alpha2 - alpha3 ln D1) / (alpha1 - alpha3 ln D2). Only
    splits where both of these slopes are positive are looked at: beyond D1 = exp(alpha2 / alpha3) or
    D2 = exp(alpha1 / alpha3) the formula says that loss rises with tokens, which is where it ends.

    Args:
        law: a two-stage law.
        flops: C, of both stages together.
        n_params_base: N1.
        n_params: N2; N1 where nothing is grown.
        flops_per_param_token: 6 for dense models.

    Returns:
        D1 of the best split; `also` holds it as `base_tokens`, beside `tokens` (D2), `share` (of the budget in the
        second stage) and `loss`. The value is 0 where training from scratch with the whole budget is better, if the
        law knows that; there is none without a minimum inside. `probability`: that the split beats scratch.

    Raises:
        LawError: the law has one stage, or a number is not positive.
    """
    if not {"base_tokens", "tokens"} <= set(law.form.columns):
        raise LawError(f"The form {law.form.name!r} has one stage; there is nothing to split. Ask compute_optimal.")
    refuse_unidentified(law)
    target = n_params_base if n_params is None else n_params
    _positive(flops=flops, n_params_base=n_params_base, n_params=target, flops_per_param_token=flops_per_param_token)
    share = 1 / (1 + np.exp(-_LOGITS))
    pool = flops / flops_per_param_token
    first, second = pool * (1 - share) / n_params_base, pool * share / target
    logs, _ = law.logs({"base_tokens": first, "tokens": second, "n_params": target})

    def losses(theta: FloatArray) -> FloatArray:
        """The ln L of every split, infinite where the formula has ended."""
        found = np.nan_to_num(law.form.log_loss(logs, theta), nan=np.inf)
        for slopes in (law.form.exponents(logs, theta) or {}).values():
            found = np.where(slopes > 0, found, np.inf)
        return found

    def question(theta: FloatArray) -> FloatArray:
        at, least = _minimum(_LOGITS, losses(theta))
        return np.stack([at, least], axis=1)

    value, found = law.ask(in_parts(question))
    if np.isnan(value[0]):
        return _nothing(_why_no_split(losses(law.theta[None])[0]))
    bounds = None if found is None or np.isnan(found).any() else found

    def numbers(logit: float) -> tuple[float, float, float]:
        part = float(1 / (1 + np.exp(-logit)))
        return pool * (1 - part) / n_params_base, pool * part / target, part

    (base, tokens, part), least = numbers(float(value[0])), float(np.exp(value[1]))
    ends = None if bounds is None else (numbers(float(bounds[1][0])), numbers(float(bounds[0][0])))
    low, high = (None, None) if ends is None else (ends[0][0], ends[1][0])
    told = f"Of {flops:.3g} FLOPs, {1 - part:.0%} go to a base of {format_count(base)} tokens"
    notes = [f"{told} and {part:.0%} to {format_count(tokens)} tokens after it."]
    if low is None:
        notes.append(why_no_interval(law, "in some refits no split inside the budget is best"))
    reach = _reach(law, {"base_tokens": base, "tokens": tokens, "n_params": target}, notes)
    also: dict[str, tuple[float, float | None, float | None]] = {
        "base_tokens": (base, low, high),
        "tokens": (tokens, None if ends is None else ends[1][1], None if ends is None else ends[0][1]),
        "share": (part, None if ends is None else ends[1][2], None if ends is None else ends[0][2]),
        "loss": (least, *_exp_pair(bounds, 1)),
    }
    chance, scratch_wins = _against_scratch(law, question, pool / target, target, notes)
    if scratch_wins:
        base, low, high, reach = 0.0, None, None, None
    limits = ("no base at all", "all of it")
    return Decision(
        value=base, low=low, high=high, reach=reach, notes=tuple(notes), probability=chance, also=also, limits=limits
    )


def _against_scratch(
    law: FittedLaw,
    question: Callable[[FloatArray], FloatArray],
    tokens: float,
    n_params: float,
    notes: list[str],
) -> tuple[float | None, bool]:
    """The probability that the best split beats the whole budget from scratch, and whether scratch wins."""
    if not law.form.covers_scratch:
        notes.append("Not compared with D1 = 0, of which this law knows nothing: fit it with from-scratch rows.")
        return None, False
    logs, _ = law.logs({"base_tokens": 0.0, "tokens": tokens, "n_params": n_params})

    def gap(theta: FloatArray) -> FloatArray:
        return question(theta)[:, 1] - law.form.log_loss(logs, theta)[:, 0]

    ahead = float(gap(law.theta[None])[0])
    chance = None
    if law.replicates.method == "bootstrap":
        chance = float(np.mean(in_parts(gap)(law.replicates.theta) < 0))
    sure = "" if chance is None else f" (the split is better with probability {chance:.2f})"
    if ahead >= 0:
        notes.insert(0, f"Training from scratch with the whole budget is better than any split{sure}.")
        return chance, True
    notes.append(f"That is {-ahead:.2%} below the loss of the whole budget from scratch{sure}.")
    return chance, False


def _why_no_split(losses: FloatArray) -> str:
    finite = np.flatnonzero(np.isfinite(losses))
    if not len(finite):
        return (
            "At no split of this budget do more tokens help in both stages, says the formula: it ends at "
            "D1 = exp(alpha2 / alpha3) and D2 = exp(alpha1 / alpha3). Ask for a smaller budget."
        )
    best = int(np.argmin(losses))
    if best in (0, len(losses) - 1):
        stage = "first" if best == 0 else "second"
        return f"There is no minimum inside: the law would give the whole budget to the {stage} stage."
    return (
        "There is no minimum inside: the best split lies where the formula ends and says that loss rises with tokens. "
        "Ask for a smaller budget."
    )


def compute_optimal(
    law: FittedLaw, *, flops: float, flops_per_param_token: float = _FACTOR, base_tokens: float | None = None
) -> Decision:
    """The model size that gets the least loss from C = 6 N D, for laws of size and tokens.

    Of Chinchilla's form N = (alpha A / (beta B))^(1/(alpha+beta)) * (C/6)^(beta/(alpha+beta)) (Hoffmann et al. 2022,
    arXiv:2203.15556, eq. 4); other forms by search, 60 sizes an e-fold.

    Args:
        law: a law that reads `tokens` and `n_params`.
        flops: C.
        flops_per_param_token: 6 for dense models.
        base_tokens: for a two-stage law at a base that is there already (its cost is not counted).

    Returns:
        N; `also` holds `tokens` (D), `tokens_per_param` and `loss`.

    Raises:
        LawError: the law does not read both, or a number is not positive.
    """
    if not {"tokens", "n_params"} <= set(law.form.columns):
        raise LawError(
            f"The form {law.form.name!r} does not read both tokens and n_params; a best size needs one that does, "
            "such as 'chinchilla'."
        )
    refuse_unidentified(law)
    _positive(flops=flops, flops_per_param_token=flops_per_param_token)
    pool = np.log(flops / flops_per_param_token)
    sizes = np.linspace(0.02 * pool, 0.98 * pool, max(int(60 * pool), 3))
    logs, _ = law.logs({"base_tokens": base_tokens, "tokens": np.exp(pool - sizes), "n_params": np.exp(sizes)})

    def question(theta: FloatArray) -> FloatArray:
        at, least = _minimum(sizes, np.nan_to_num(law.form.log_loss(logs, theta), nan=np.inf))
        if law.form.name == "chinchilla":
            log_a, log_b, _, alpha, beta = theta.T
            with np.errstate(invalid="ignore", divide="ignore"):
                closed = (np.log(alpha / beta) + log_a - log_b + beta * pool) / (alpha + beta)
            at = np.where(np.isnan(at), np.nan, closed)
        return np.stack([at, least], axis=1)

    value, found = law.ask(in_parts(question, 16))
    if np.isnan(value[0]):
        return _nothing("The law has no best size at this budget: its loss falls all the way to one end.")
    bounds = None if found is None or np.isnan(found).any() else found
    size, tokens = float(np.exp(value[0])), float(np.exp(pool - value[0]))
    low, high = _exp_pair(bounds, 0)
    fewest, most = (None, None) if low is None or high is None else (tokens * size / high, tokens * size / low)
    notes = [f"{flops:.3g} FLOPs: {format_count(size)} parameters on {format_count(tokens)} tokens."]
    if low is None:
        notes.append(why_no_interval(law, "in some refits the loss falls all the way to one end"))
    reach = _reach(law, {"base_tokens": base_tokens, "tokens": tokens, "n_params": size}, notes)
    ratio_low, ratio_high = (
        (None, None) if fewest is None or most is None or low is None or high is None else (fewest / high, most / low)
    )
    return Decision(
        value=size,
        low=low,
        high=high,
        reach=reach,
        notes=tuple(notes),
        also={
            "tokens": (tokens, fewest, most),
            "tokens_per_param": (tokens / size, ratio_low, ratio_high),
            "loss": (float(np.exp(value[1])), *_exp_pair(bounds, 1)),
        },
    )


def grow_after(*, n_params: float, tokens: float | None = None, flops: float | None = None) -> Decision:
    """When to stack a model to four times its depth: the guideline of G_stack.

    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74: the base is trained on d tokens, then grown.

    Args:
        n_params: N, of the grown model.
        tokens: it is to be trained on; C = 6 N D.
        flops: C, instead of `tokens`.

    Raises:
        LawError: not exactly one of `tokens` and `flops`, or a number that is not positive.

    Source: Du et al. 2024, arXiv:2405.15319 (Llama 2 7B on 2T tokens: 11.11B).
    """
    if (tokens is None) == (flops is None):
        raise LawError(f"tokens is {tokens!r} and flops {flops!r}; the guideline needs exactly one of them.")
    _positive(n_params=n_params, **({"tokens": tokens} if flops is None and tokens is not None else {}))
    compute = _FACTOR * n_params * tokens if tokens is not None else flops
    assert compute is not None
    if not 1e3 < compute < np.inf:
        raise LawError(f"flops is {compute!r}; the guideline was fitted to training runs, of many more.")
    found = 10 ** (0.88 * np.log10(n_params) + 163.27 / np.log10(compute) - 5.74)
    return Decision(
        value=float(found),
        low=None,
        high=None,
        reach=None,
        notes=(
            f"Train the small model on {format_count(found)} tokens, then stack it to four times its depth (G_stack).",
            "A published guideline of one study without an interval, for growth by stacking and factor 4 alone.",
        ),
    )


def _minimum(places: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where each row of `values` is least, and how low, by the parabola through three points; NaN at an edge."""
    rows = np.arange(len(values))
    best = np.clip(np.argmin(values, axis=1), 1, len(places) - 2)
    left, middle, right = (values[rows, best + i] for i in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = left - 2 * middle + right
        shift = 0.5 * (left - right) / bend
        inside = (middle <= left) & (middle <= right) & (bend > 0) & np.isfinite(bend)
        at = places[best] + shift * (places[1] - places[0])
        least = middle - 0.125 * (left - right) ** 2 / bend
    return np.where(inside, at, np.nan), np.where(inside, least, np.nan)


def _exp_pair(bounds: tuple[FloatArray, FloatArray] | None, index: int) -> tuple[float | None, float | None]:
    if bounds is None:
        return None, None
    return float(np.exp(bounds[0][index])), float(np.exp(bounds[1][index]))


def _reach(law: FittedLaw, columns: dict[str, float | None], notes: list[str]) -> float | None:
    logs = {name: np.log([x]) for name in law.form.columns if (x := columns[name]) is not None}
    beyond = law.reach(logs)
    if beyond is None:
        return None
    if beyond[0] >= 0.05:
        notes.append(f"This lies {beyond[0]:.1f} decades beyond the data.")
    return float(beyond[0])


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < np.inf:
            raise LawError(f"{name} is {value!r}; it must be positive and finite.")


def _nothing(reason: str) -> Decision:
    return Decision(value=None, low=None, high=None, reach=None, notes=(reason,))
