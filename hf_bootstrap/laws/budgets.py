"""How to divide a budget of FLOPs: between two stages, or between model size and tokens; when to grow.

FLOPs are counted with the factor of the law's own points, else as 6 N D, unless another is given. Decisions at a
given base are in `decisions`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import LawError
from ..units import format_count
from .arguments import is_positive
from .decisions import Decision, add_distance, in_parts, no_answer, probability_below, why_no_interval
from .fitted import FittedLaw, Question
from .prediction import refuse_undetermined, refuse_unread
from .terms import FloatArray

__all__ = ["best_split", "compute_optimal", "flops_factor", "grow_after"]

# The share of the budget in the second stage, as a logit: from 1e-7 to 1 - 1e-7, symmetric and fine.
_LOGITS = np.linspace(-16, 16, 1281)
_FACTOR = 6.0  # FLOPs per parameter and token, Kaplan et al. 2020, arXiv:2001.08361


def best_split(
    law: FittedLaw,
    *,
    flops: float,
    n_params_base: float,
    n_params: float | None = None,
    flops_per_param_token: float | None = None,
    **columns: float | None,
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
        flops_per_param_token: by default what the law's points were counted with (`definitions`), or else 6.
        **columns: unique_tokens or mixture_ratio, where the form reads them.

    Returns:
        D1 of the best split; `also` holds it as `base_tokens`, beside `tokens` (D2), `share` (of the budget in the
        second stage) and `loss`. The value is 0 where training from scratch with the whole budget is better, if the
        law knows that; there is none without a minimum inside. `probability`: that the split beats scratch.

    Raises:
        LawError: the law has one stage, or a number is not positive.
        PredictionError: a column is missing or not read, or the answer rests on what the points do not know.
    """
    split = _division(law, flops, n_params_base, n_params, flops_per_param_token, columns)
    losses = split.losses(law)

    def question(theta: FloatArray) -> FloatArray:
        return np.stack(_minimum(_LOGITS, losses(theta)), axis=1)

    refuse_undetermined(law, question, "This split", 0.02)
    value, found = law.ask(in_parts(question))
    if np.isnan(value[0]):
        return no_answer(_why_no_split(losses(law.theta[None])[0]))
    bounds = None if found is None or np.isnan(found).any() else found
    also = split.numbers(value, bounds)
    notes = [_split_note(flops, also)]
    if bounds is None:
        notes.append(why_no_interval(law, "in some refits no split inside the budget is best"))
    place = {**columns, "base_tokens": also["base_tokens"][0], "tokens": also["tokens"][0], "n_params": split.n_params}
    reach = _reach(law, place, notes, "The split")
    whole = {**place, "base_tokens": 0.0, "tokens": split.pool / split.n_params}
    chance, scratch_wins = _against_scratch(law, question, whole, notes)
    answer, low, high = also["base_tokens"]
    if scratch_wins:
        answer, low, high = 0.0, None, None
        notes.append("No base at all has no interval; that of the best split is in `also`.")
        reach = _reach(law, whole, notes, "The whole budget from scratch")
    return Decision(
        value=answer,
        low=low,
        high=high,
        reach=reach,
        notes=tuple(notes),
        probability=chance,
        also=also,
        limits=("no base at all", "all of it"),
    )


_Numbers = dict[str, tuple[float, float | None, float | None]]


def _division(
    law: FittedLaw,
    flops: float,
    n_params_base: float,
    n_params: float | None,
    flops_per_param_token: float | None,
    columns: Mapping[str, float | None],
) -> "_Split":
    """The budget of `best_split`, where it can be asked for one."""
    if not {"base_tokens", "tokens"} <= set(law.form.columns):
        raise LawError(f"The form {law.form.name!r} has one stage; there is nothing to split. Ask compute_optimal.")
    target = n_params_base if n_params is None else n_params
    factor = flops_factor(law, flops_per_param_token)
    _positive(flops=flops, n_params_base=n_params_base, n_params=target, flops_per_param_token=factor)
    refuse_unread(law, columns)
    return _Split(pool=flops / factor, n_params_base=n_params_base, n_params=target, columns=columns)


def _split_note(flops: float, also: _Numbers) -> str:
    share, base, tokens = also["share"][0], format_count(also["base_tokens"][0]), format_count(also["tokens"][0])
    told = f"Of {flops:.3g} FLOPs, {1 - share:.0%} go to a base of {base} tokens"
    return f"{told} and {share:.0%} to {tokens} tokens after it."


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A budget of `pool` parameter-tokens, divided by the logit of the second stage's share."""

    pool: float
    n_params_base: float
    n_params: float
    columns: Mapping[str, float | None]

    def at(self, logit: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """D1, D2 and the share of the second stage."""
        share = 1 / (1 + np.exp(-np.asarray(logit, dtype=float)))
        return self.pool * (1 - share) / self.n_params_base, self.pool * share / self.n_params, share

    def losses(self, law: FittedLaw) -> Question:
        """The ln L of every split in `_LOGITS`, infinite where the formula has ended."""
        first, second, _ = self.at(_LOGITS)
        asked = {**self.columns, "base_tokens": first, "tokens": second, "n_params": self.n_params}
        logs, _ = law.logs(asked)

        def found(theta: FloatArray) -> FloatArray:
            losses = np.nan_to_num(law.form.log_loss(logs, theta), nan=np.inf)
            for slopes in (law.form.exponents(logs, theta) or {}).values():
                losses = np.where(slopes > 0, losses, np.inf)
            return losses

        return found

    def numbers(self, value: FloatArray, bounds: tuple[FloatArray, FloatArray] | None) -> _Numbers:
        """The split in tokens, with intervals, from the logit and the ln of the loss."""
        base, tokens, share = (float(x) for x in self.at(value[0]))
        ends: list[tuple[float | None, float | None]] = [(None, None)] * 3
        if bounds is not None:
            edges = self.at([bounds[0][0], bounds[1][0]])
            ends = [(float(min(edge)), float(max(edge))) for edge in edges]
        return {
            "base_tokens": (base, *ends[0]),
            "tokens": (tokens, *ends[1]),
            "share": (share, *ends[2]),
            "loss": (float(np.exp(value[1])), *_exp_pair(bounds, 1)),
        }


def _against_scratch(
    law: FittedLaw, question: Question, columns: Mapping[str, float | None], notes: list[str]
) -> tuple[float | None, bool]:
    """The probability that the best split beats the whole budget from scratch, and whether scratch wins."""
    if not law.form.covers_scratch:
        notes.append("Not compared with D1 = 0, of which this law knows nothing: fit it with from-scratch rows.")
        return None, False
    logs, _ = law.logs(columns)

    def gap(theta: FloatArray) -> FloatArray:
        return question(theta)[:, 1] - law.form.log_loss(logs, theta)[:, 0]

    ahead = float(gap(law.theta[None])[0])
    chance = probability_below(law, gap)
    sure = "" if chance is None else f" (the split is better with probability {chance:.2f})"
    if chance is None:
        notes.append("How probable it is that the split beats scratch is not known, as its interval is not.")
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
    law: FittedLaw, *, flops: float, flops_per_param_token: float | None = None, **columns: float | None
) -> Decision:
    """The model size that gets the least loss from C = 6 N D, for laws of size and tokens.

    Of Chinchilla's form N = (alpha A / (beta B))^(1/(alpha+beta)) * (C/6)^(beta/(alpha+beta)) (Hoffmann et al. 2022,
    arXiv:2203.15556, eq. 4); other forms by search, 60 sizes an e-fold.

    Args:
        law: a law that reads `tokens` and `n_params`.
        flops: C.
        flops_per_param_token: by default what the law's points were counted with (`definitions`), or else 6.
        **columns: the others that the form reads: base_tokens of a base that is there already (its cost is not
            counted), unique_tokens, mixture_ratio.

    Returns:
        N; `also` holds `tokens` (D), `tokens_per_param` and `loss`.

    Raises:
        LawError: the law does not read both, or a number is not positive.
        PredictionError: a column is missing or not read, or the answer rests on what the points do not know.
    """
    if not {"tokens", "n_params"} <= set(law.form.columns):
        raise LawError(
            f"The form {law.form.name!r} does not read both tokens and n_params; a best size needs one that does, "
            "such as 'chinchilla'."
        )
    factor = flops_factor(law, flops_per_param_token)
    _positive(flops=flops, flops_per_param_token=factor)
    refuse_unread(law, columns)
    pool = float(np.log(flops / factor))
    question = _best_size(law, pool, columns)
    refuse_undetermined(law, question, "This size", 0.02)
    value, found = law.ask(in_parts(question, 16))
    if np.isnan(value[0]):
        return no_answer("The law has no best size at this budget: its loss falls all the way to one end.")
    bounds = None if found is None or np.isnan(found).any() else found
    size, tokens = float(np.exp(value[0])), float(np.exp(pool - value[0]))
    low, high = _exp_pair(bounds, 0)
    notes = [f"{flops:.3g} FLOPs: {format_count(size)} parameters on {format_count(tokens)} tokens."]
    also: _Numbers = {
        "tokens": (tokens, None, None),
        "tokens_per_param": (tokens / size, None, None),
        "loss": (float(np.exp(value[1])), *_exp_pair(bounds, 1)),
    }
    if low is None or high is None:
        notes.append(why_no_interval(law, "in some refits the loss falls all the way to one end"))
    else:
        fewest, most = tokens * size / high, tokens * size / low
        also |= {"tokens": (tokens, fewest, most), "tokens_per_param": (tokens / size, fewest / high, most / low)}
    reach = _reach(law, {**columns, "tokens": tokens, "n_params": size}, notes)
    return Decision(value=size, low=low, high=high, reach=reach, notes=tuple(notes), also=also)


def _best_size(law: FittedLaw, pool: float, columns: Mapping[str, float | None]) -> Question:
    """The ln N of least loss on N D = e^pool, and the ln of that loss; NaN where it lies at an end."""
    sizes = np.linspace(0.02 * pool, 0.98 * pool, max(int(60 * pool), 3))
    logs, _ = law.logs({**columns, "tokens": np.exp(pool - sizes), "n_params": np.exp(sizes)})

    def question(theta: FloatArray) -> FloatArray:
        at, least = _minimum(sizes, np.nan_to_num(law.form.log_loss(logs, theta), nan=np.inf))
        if law.form.name == "chinchilla":
            log_a, log_b, _, alpha, beta = theta.T
            with np.errstate(invalid="ignore", divide="ignore"):
                closed = (np.log(alpha / beta) + log_a - log_b + beta * pool) / (alpha + beta)
            at = np.where(np.isnan(at), np.nan, closed)
        return np.stack([at, least], axis=1)

    return question


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
    if not (is_positive(compute) and compute > 1e3):
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


def _reach(law: FittedLaw, columns: Mapping[str, float | None], notes: list[str], what: str = "This") -> float | None:
    logs = {name: np.log([x]) for name in law.form.columns if (x := columns.get(name))}
    return add_distance(law, logs, notes, what)


def flops_factor(law: FittedLaw, given: float | None = None) -> float:
    """FLOPs per parameter and token: as given, as the law's points were counted with, or else 6."""
    known = law.definitions.get("flops_per_param_token")
    if given is not None:
        return given
    return known.value if known is not None and isinstance(known.value, float) else _FACTOR


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not is_positive(value):
            raise LawError(f"{name} is {value!r}; it must be positive and finite.")
