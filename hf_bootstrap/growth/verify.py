"""`verify_growth`: holds a grown model against its source and reports what is the same and what is not.

Two independent looks: at the tensors (do the copies' shares add up to the source, layer by layer?) and at the
function (logits and loss on text). What a method promises and does not keep is a `VerificationError`.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import GrowthError, VerificationError
from .architecture import converted, find_ties
from .config import GrowthConfig
from .plan import NEARLY, GrowthPlan, plan_growth

__all__ = ["VerifyReport", "tolerance", "verify_growth"]

_RANDOM_TEXT = (2, 64)  # sequences, tokens


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify_growth` found. `None` means not known; `notes` then says why.

    Attributes:
        keeps_function: whether the method promises the same logits up to rounding.
        passed: every promise was kept.
        logit_drift: largest |difference of logits| / largest |logit of the source|.
        tolerance: the drift allowed where the function is promised; None where it is not.
        max_logit_difference: largest absolute difference of logits.
        kl: mean KL divergence from the source's next-token distribution to the grown one's, nats per token.
        loss_before, loss_after: mean next-token loss on the text, nats per token.
        n_tokens, text: how much text, and whether it was given or random tokens.
        precision: dtype the logits were computed in.
        weight_error: largest |sum of shares - source| over all tensors, relative to the tensor's largest entry;
            0.0 means bit-exact. For depth growth alone it is the equality of every layer with its source.
        finite: no NaN or infinity in any tensor or logit of the grown model.
        ties_kept: parameters shared in the source are shared in the grown model, and no others.
        copies_differ: in every widened tensor the copies of an input differ; None without width growth.
        notes: what limits these findings.
    """

    keeps_function: bool
    passed: bool
    logit_drift: float
    tolerance: float | None
    max_logit_difference: float
    kl: float
    loss_before: float
    loss_after: float
    n_tokens: int
    text: str
    precision: str
    weight_error: float
    finite: bool
    ties_kept: bool
    copies_differ: bool | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        allowed = "not promised" if self.tolerance is None else f"allowed {self.tolerance:.0e}"
        parted = {None: "no width growth", True: "yes", False: "no, and training will not part them"}
        equal = "equal bit for bit" if self.weight_error == 0 else f"differ by {self.weight_error:.1e}"
        lines = [
            f"Verification {'passed' if self.passed else 'FAILED'}",
            f"  logits          drift {self.logit_drift:.2e} of the largest logit ({allowed}, {self.precision})",
            f"  loss            {self.loss_before:.6f} -> {self.loss_after:.6f} nats/token on {self.text}",
            f"  KL              {self.kl:.2e} nats/token over {self.n_tokens:,} tokens",
            f"  weights         {equal} once copies are added up",
            f"  copies differ   {parted[self.copies_differ]}",
            f"  ties kept       {'yes' if self.ties_kept else 'NO'};  finite {'yes' if self.finite else 'NO'}",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not finite becomes None."""
        record = dataclasses.asdict(self)
        record["notes"] = list(self.notes)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def verify_growth(
    source: PreTrainedModel,
    grown: PreTrainedModel,
    text_ids: Tensor | Sequence[int] | None = None,
    *,
    plan: GrowthPlan | None = None,
) -> VerifyReport:
    """Compare a grown model with its source.

    Models in half precision are compared as float32 copies, so that the drift shows errors of structure and not
    the rounding of 16-bit activations; this needs room for both copies. Neither model is changed.

    Args:
        source: the model before growth.
        grown: the model after growth, made by `bootstrap_from_pretrained`.
        text_ids: token ids, (tokens,) or (sequences, tokens). Default: 2 x 64 random tokens with a fixed seed.
        plan: of the growth; default: worked out again from what `grown.config` says about its growth.

    Raises:
        VerificationError: a promise was not kept; the message holds the report.
        GrowthError: `grown` does not say how it was grown.
    """
    plan = plan or _recorded_plan(source, grown)
    if plan.growth.dtype is not None and source.dtype != grown.dtype:
        source = converted(source, grown.dtype)  # growth converts first: that is the source it keeps
    weight_error, copies_differ, wrong_tensor = _compare_tensors(source, grown, plan)
    ids, text = _text(source, text_ids)
    with torch.no_grad(), _ready(source) as left, _ready(grown) as right:
        precision = str(next(left.parameters()).dtype).removeprefix("torch.")
        before = _logits(
            left, ids, GrowthError, "The source model cannot read plain text, so growth cannot be verified"
        )
        after = _logits(right, ids, VerificationError, "The source model reads text, but the grown model cannot")
    allowed = tolerance(source.dtype, exact_weights=weight_error == 0) if plan.growth.keeps_function else None
    if allowed is not None and plan.deviations:
        allowed = max(allowed, NEARLY)
    difference = (after - before).abs().max().item()
    drift = difference / max(before.abs().max().item(), torch.finfo(torch.float64).tiny)
    finite = bool(torch.isfinite(after).all()) and all(bool(torch.isfinite(p).all()) for p in grown.parameters())
    ties_kept = set(find_ties(source).items()) == _source_ties(grown, plan)
    same_function = allowed is None or drift <= allowed
    same_weights = wrong_tensor is None if plan.growth.grows_width else weight_error == 0
    log_before, log_after = before.log_softmax(-1), after.log_softmax(-1)
    report = VerifyReport(
        keeps_function=plan.growth.keeps_function,
        passed=finite and ties_kept and same_function and (same_weights or not plan.growth.shares_add_up),
        logit_drift=drift,
        tolerance=allowed,
        max_logit_difference=difference,
        kl=(log_before.exp() * (log_before - log_after)).sum(-1).mean().item(),
        loss_before=_loss(log_before, ids),
        loss_after=_loss(log_after, ids),
        n_tokens=ids.numel(),
        text=text,
        precision=precision,
        weight_error=weight_error,
        finite=finite,
        ties_kept=ties_kept,
        copies_differ=copies_differ,
        notes=(
            *(f"the function is kept nearly, not exactly: {why}" for why in plan.deviations),
            *(() if wrong_tensor is None else (f"{wrong_tensor}: copies do not add up to the source",)),
        ),
    )
    if not report.passed:
        raise VerificationError(
            f"The grown model is not what its method promises. Do not train it; report the architecture "
            f"({source.config.model_type}) with this:\n{report}"
        )
    return report


def tolerance(dtype: torch.dtype, *, exact_weights: bool) -> float:
    """The drift of logits, relative to the largest, that rounding alone can explain.

    float64: 1e-5, because many architectures compute norms, rotary angles or the softmax in float32 whatever the
    dtype (measured on tiny random models: up to 2e-6; where none does, 1e-15). float32, and below, which is compared
    in float32: 1e-4 (measured 1e-7 to 1e-6), far below what any wrong map gives (above 1e-2). Where shares had to be
    rounded (three equal shares, a norm scaled by 1/3), at least 16 units in the last place
    of the dtype that holds them.
    """
    floor = 1e-5 if dtype == torch.float64 else 1e-4
    return floor if exact_weights else max(floor, 16 * torch.finfo(dtype).eps)


def _recorded_plan(source: PreTrainedModel, grown: PreTrainedModel) -> GrowthPlan:
    steps = getattr(grown.config, "hf_bootstrap", {}).get("growth")
    if not steps:
        raise GrowthError(
            "The grown model's config does not say how it was grown (no hf_bootstrap entry), so there is nothing to "
            "hold it to. Pass plan=plan_growth(source.config, growth_config)."
        )
    return plan_growth(source.config, GrowthConfig.from_dict(steps[-1]["recipe"]), model_class=type(source))


def _compare_tensors(
    source: PreTrainedModel, grown: PreTrainedModel, plan: GrowthPlan
) -> tuple[float, bool | None, str | None]:
    """(largest relative error of summed shares, whether copies differ, a tensor beyond rounding)."""
    old, new = source.state_dict(), grown.state_dict()
    worst, differ, wrong = 0.0, True, None
    for recipe in plan.recipes:
        weight, tensor = old[recipe.source], new[recipe.target]
        if tuple(tensor.shape) != recipe.shape:
            raise VerificationError(f"{recipe.target} is {list(tensor.shape)}, planned was {list(recipe.shape)}.")
        if not weight.numel():
            continue
        expected = recipe.expected_sum(weight)
        size = max(weight.double().abs().max().item(), abs(recipe.offset), torch.finfo(torch.float64).tiny)
        error = (recipe.fold(tensor) - expected.to(tensor.device)).abs().max().item() / size
        # Rounding each share once moves their sum by half a unit in the last place; a wrong share by far more.
        if tensor.is_floating_point() and not error <= 4 * torch.finfo(tensor.dtype).eps:
            wrong = wrong or recipe.target
        worst = error if math.isnan(error) else max(worst, error)
        index = None if recipe.reads is None else recipe.index(recipe.reads)
        if index is not None and recipe.reads is not None and bool((weight != 0).any()):
            _, inverse = torch.unique(index, return_inverse=True)
            first = torch.empty_like(index).scatter_(0, inverse.flip(0), torch.arange(len(index)).flip(0))
            leading = tensor.index_select(recipe.reads, first[inverse].to(tensor.device))
            differ = differ and bool((leading != tensor).any())
    return worst, differ if plan.growth.grows_width else None, wrong


def _source_ties(grown: PreTrainedModel, plan: GrowthPlan) -> set[tuple[str, str]]:
    """The grown model's ties in the source's names; ties inside a layer appear once per source layer."""
    names = {recipe.target: recipe.source for recipe in plan.recipes}
    return {(names.get(a, a), names.get(b, b)) for a, b in find_ties(grown).items()}


def _text(model: PreTrainedModel, text_ids: Tensor | Sequence[int] | None) -> tuple[Tensor, str]:
    if text_ids is None:
        longest = getattr(model.config, "max_position_embeddings", None) or _RANDOM_TEXT[1]
        shape = (_RANDOM_TEXT[0], min(_RANDOM_TEXT[1], longest))
        generator = torch.Generator().manual_seed(0)
        return torch.randint(model.config.vocab_size, shape, generator=generator), "random tokens"
    ids = torch.as_tensor(text_ids, dtype=torch.long)
    ids = ids.reshape(1, -1) if ids.dim() == 1 else ids
    if ids.dim() != 2 or ids.shape[1] < 2:
        raise GrowthError(f"text_ids has shape {list(ids.shape)}; give (tokens,) or (sequences, tokens), two or more.")
    return ids, "the given text"


@contextmanager
def _ready(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode, as a float32 copy if it is in half precision; its own mode comes back."""
    if model.dtype not in (torch.float32, torch.float64):
        yield copy.deepcopy(model).float().eval()
        return
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in modes:
            module.training = training


def _logits(model: PreTrainedModel, ids: Tensor, error_class: type[GrowthError], what: str) -> Tensor:
    """(sequences, tokens, vocabulary), float64, on the CPU."""
    try:
        logits: Tensor = model(input_ids=ids.to(model.device)).logits
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        shape, dtype = list(ids.shape), model.dtype
        raise error_class(f"{what}: ids {shape}, {dtype}: {type(error).__name__}: {error}") from error
    return logits.double().cpu()


def _loss(log_probabilities: Tensor, ids: Tensor) -> float:
    picked = log_probabilities[:, :-1].gather(-1, ids[:, 1:, None].cpu())
    return -picked.mean().item()
