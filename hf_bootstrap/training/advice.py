"""The learning rate of a second stage: peak, re-warm and decay, each with its formula and source.

Pure arithmetic on counts. What a growth asks for is for `growth.learning_rate`, whose advice is taken over as it is.
What a run then does with all this is stored in its points; nothing here looks at a model.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import TrainingError
from ..units import format_count

if TYPE_CHECKING:
    from ..growth.learning_rate import LearningRateAdvice

__all__ = ["Advice", "Choice", "advise_second_stage"]

# DeepSeek LLM (arXiv:2401.02954), equation 1: fitted to runs of 1e17 to 2e19 FLOPs, used by its authors up to 3e24.
_FITTED_FROM, _USED_TO = 1e17, 3e24
_DEEPSEEK = "Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954, eq. 1"
_SQUARE_ROOT = "square-root rule for Adam: Malladi et al. 2022, arXiv:2205.10287"
_REWARM = "Ibrahim et al. 2024, arXiv:2403.08763; Gupta et al. 2023, arXiv:2308.04014 (0% to 2% end alike)"
_UNTUNED = "Ma & Yarats 2021, arXiv:1910.04209"
_WSD = "Hu et al. 2024 (MiniCPM), arXiv:2404.06395, section 4"
_COOLDOWN = "Hägele et al. 2024, arXiv:2405.18392, section 3"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One advised value, the formula with its numbers, and who found it."""

    value: float
    formula: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """How to run the learning rate of a second stage.

    Attributes:
        peak_lr: highest rate.
        rewarm_tokens: trained tokens over which it rises from 0.
        decay_tokens: trained tokens over which it falls to 0 at the end.
        matrix_lr: smallest factor on the rate of a matrix that reads a widened vector; matrix_weight_decay: on its
            decay. 1 unless widened. In training each tensor has its own: `growth.learning_rate.recorded_factors`.
        notes: what this advice cannot know, one sentence each.
    """

    peak_lr: Choice
    rewarm_tokens: Choice
    decay_tokens: Choice
    matrix_lr: Choice
    matrix_weight_decay: Choice
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """One line a choice, with formula and source; the notes after them."""
        rows = [
            ("peak learning rate", f"{self.peak_lr.value:.3g}", self.peak_lr),
            ("re-warm", f"{format_count(self.rewarm_tokens.value)} tokens", self.rewarm_tokens),
            ("decay", f"{format_count(self.decay_tokens.value)} tokens", self.decay_tokens),
        ]
        if self.matrix_lr.value != 1:
            rows.append(("rate of matrices", f"x {self.matrix_lr.value:.3g}", self.matrix_lr))
            rows.append(("their weight decay", f"x {self.matrix_weight_decay.value:.3g}", self.matrix_weight_decay))
        lines = [f"{name:<19} {value:<14} = {choice.formula}  [{choice.source}]" for name, value, choice in rows]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def advise_second_stage(
    *,
    n_params: int,
    base_tokens: int,
    tokens: int,
    batch_tokens: int,
    base_decayed: bool | None = None,
    base_peak_lr: float | None = None,
    optimizer_reset: bool = True,
    growth: "LearningRateAdvice | None" = None,
    adam_beta2: float = 0.95,
) -> Advice:
    """Advise on the learning rate of a second stage; a stage from scratch has `base_tokens` 0.

    Args:
        n_params: non-embedding parameters of the model that is trained, after growth.
        base_tokens: D1, trained tokens behind the base.
        tokens: D2, trained tokens of this stage, decay included.
        batch_tokens: trained tokens of one step, all processes.
        base_decayed: whether the base's rate had fallen; None takes it for decayed, as published models are.
        base_peak_lr: the base's own peak, if known: better evidence than any formula.
        optimizer_reset: whether Adam starts without moments, as it does when only weights are loaded.
        growth: what the growth before this stage asks for: `plan_growth(...).learning_rate`; None without one.
        adam_beta2: of this stage.

    Returns:
        Starting points, not optima: the peak within a factor of about 2 where its formula was fitted.

    Raises:
        TrainingError: a count that is not positive, or a beta2 outside [0, 1).
    """
    counts = {"n_params": n_params, "tokens": tokens, "batch_tokens": batch_tokens}
    for name, count in counts.items():
        if count < 1:
            raise TrainingError(f"{name} is {count}; no rate can be advised for that. Give a positive count.")
    if base_tokens < 0 or not 0 <= adam_beta2 < 1 or (base_peak_lr is not None and base_peak_lr <= 0):
        raise TrainingError(
            f"base_tokens is {base_tokens}, adam_beta2 {adam_beta2}, base_peak_lr {base_peak_lr}; no rate can be "
            "advised for that. Tokens are 0 or more, beta2 is in [0, 1), and a peak is positive."
        )
    peak, notes = _peak(n_params, base_tokens, tokens, batch_tokens, base_peak_lr)
    decayed = base_decayed is not False and base_tokens > 0
    if base_decayed is None and base_tokens:
        notes.append(
            "whether the base's rate had decayed is not known; it is taken for decayed here, and the points keep null."
        )
    rewarm = _rewarm(tokens, batch_tokens, decayed, optimizer_reset, adam_beta2)
    decay = _decay(base_tokens, tokens, decayed, int(rewarm.value))
    if base_tokens and decayed:
        notes.append(
            "re-warming raises the loss first; judge the run at its end, and expect the base's text to suffer."
        )
    return Advice(
        peak_lr=peak,
        rewarm_tokens=rewarm,
        decay_tokens=decay,
        matrix_lr=_matrices(growth, "tensor_factor"),
        matrix_weight_decay=_matrices(growth, "weight_decay_factor"),
        notes=tuple(notes),
    )


def _matrices(growth: "LearningRateAdvice | None", factor: str) -> Choice:
    """A factor of the growth's own advice; 1 where there was no growth."""
    if growth is None:
        return Choice(value=1.0, formula="no growth", source="none needed")
    return Choice(value=getattr(growth, factor), formula=growth.formula, source=growth.source or growth.reason)


def _peak(n_params: int, base: int, tokens: int, batch: int, known: float | None) -> tuple[Choice, list[str]]:
    """The base's own peak, else the rate that suits the compute of both stages together."""
    if known is not None:
        return Choice(value=known, formula=f"the base's own peak, {known:.3g}", source=_REWARM.partition(";")[0]), []
    compute = 6.0 * n_params * (base + tokens)
    best_batch = 0.2920 * compute**0.3271
    share = min(1.0, math.sqrt(batch / best_batch))
    formula = f"0.3118 C^-0.125, C = 6 N (D1 + D2) = {compute:.2g}"
    if compute < _FITTED_FROM:
        formula += f", at most its value at {_FITTED_FROM:.0e}"
    source = _DEEPSEEK
    if share < 1:
        formula += f", times sqrt(batch / {format_count(best_batch)}) = {share:.2f}"
        source += f"; {_SQUARE_ROOT}"
    notes = []
    if not _FITTED_FROM <= compute <= _USED_TO:
        notes.append(
            f"the peak's formula was fitted from {_FITTED_FROM:.0e} FLOPs on and used to {_USED_TO:.0e}; this is "
            f"{compute:.1e}: try half and twice the rate."
        )
    # Carried on below the range it was fitted in, it asks for too much: 2.8 times the best rate at 5e11 FLOPs.
    return Choice(value=0.3118 * max(compute, _FITTED_FROM) ** -0.125 * share, formula=formula, source=source), notes


def _rewarm(tokens: int, batch: int, decayed: bool, reset: bool, beta2: float) -> Choice:
    """1% of the stage for a rate that had fallen; for an Adam without moments at least what those need."""
    if not reset and not decayed:
        return Choice(value=0, formula="0: the rate never fell and Adam keeps its moments", source=_WSD)
    moments = round(2 / (1 - beta2)) * batch if reset else 0
    share = round(0.01 * tokens) if decayed else 0
    value = min(max(moments, share), tokens // 10)
    parts = [f"1% of D2 = {format_count(share)}"] * decayed + [
        f"2 / (1 - beta2) steps = {format_count(moments)} tokens"
    ] * reset
    formula = f"max({', '.join(parts)})" if len(parts) > 1 else parts[0]
    sources = "; ".join([_REWARM] * decayed + [_UNTUNED] * reset)
    return Choice(value=value, formula=f"{formula}, at most 10% of D2", source=sources)


def _decay(base: int, tokens: int, decayed: bool, rewarm: int) -> Choice:
    """A fifth of the stage; where the base's own decay is still owed, a tenth of both stages."""
    fifth, owed = round(0.2 * tokens), round(0.1 * (base + tokens))
    if decayed or not base:
        return Choice(value=min(fifth, tokens - rewarm), formula="20% of D2", source=_COOLDOWN)
    value = min(max(fifth, owed), tokens - rewarm)
    return Choice(
        value=value, formula="10% of D1 + D2, at least 20% of D2, at most what the re-warm leaves", source=_WSD
    )
