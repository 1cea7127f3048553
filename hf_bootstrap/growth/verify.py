"""`verify_growth`: holds a grown model against its source and reports what is the same and what is not.

Two independent looks: at the tensors (do the copies' shares add up to the source, layer by layer?) and at the
function (logits, loss and gradients on text). What a method promises and does not keep is a `VerificationError`.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import GrowthError, VerificationError
from .architecture import converted, find_ties
from .config import GrowthConfig
from .drift import compare_logits
from .gradients import GradientReach, reach, reached_live
from .plan import NEARLY, GrowthPlan, plan_growth
from .probe_text import as_ids, random_ids
from .verify_report import VerifyReport, conclude

__all__ = ["allowed_drift", "copies_apart", "tolerance", "verify_growth"]


def verify_growth(
    source: PreTrainedModel,
    grown: PreTrainedModel,
    text_ids: Tensor | Sequence[int] | None = None,
    *,
    plan: GrowthPlan | None = None,
    gradients: bool = True,
) -> VerifyReport:
    """Compare a grown model with its source.

    Models in half precision are compared as float32 copies, so that the drift shows errors of structure and not
    the rounding of 16-bit activations; this needs room for both copies. Neither model is changed.

    Args:
        source: the model before growth.
        grown: the model after growth, made by `bootstrap_from_pretrained`.
        text_ids: token ids, (tokens,) or (sequences, tokens). Default: 2 x 64 random tokens with a fixed seed.
        plan: of the growth; default: worked out again from what `grown.config` says about its growth.
        gradients: run one backward pass as well and see which tensors it reaches.

    Raises:
        VerificationError: a promise was not kept; the message holds the report.
        GrowthError: `grown` does not say how it was grown, or the source cannot read the text.
    """
    plan = plan or _recorded_plan(source, grown)
    if plan.growth.dtype is not None and source.dtype != grown.dtype:
        source = converted(source, grown.dtype)  # growth converts first: that is the source it keeps
    weight_error, copies_differ, wrong = _compare_tensors(source, grown, plan)
    ids = random_ids(source.config) if text_ids is None else as_ids(text_ids, source.config)
    with _ready(source) as left, _ready(grown) as right:
        precision = str(next(left.parameters()).dtype).removeprefix("torch.")
        before = _logits(
            left, ids, GrowthError, "The source model cannot read plain text, so growth cannot be verified"
        )
        after = _logits(right, ids, VerificationError, "The source model reads text, but the grown model cannot")
        found, note = _reach(plan, left, right, ids) if gradients else (None, "gradients were not asked for")
    report = conclude(
        plan,
        tensors=len(plan.recipes),
        weight_error=weight_error,
        wrong=wrong,
        copies_differ=copies_differ,
        finite=all(bool(torch.isfinite(p).all()) for p in grown.parameters()),
        ties_kept=set(find_ties(source).items()) == _source_ties(grown, plan),
        drift=compare_logits(before, after, ids),
        allowed=allowed_drift(plan, source.dtype, weight_error),
        reach=found,
        n_tokens=ids.numel(),
        text="random tokens" if text_ids is None else "the given text",
        precision=precision,
        notes=(note,) if note else (),
    )
    if not report.passed:
        raise VerificationError(
            f"The grown model is not what its method promises. Do not train it; report the architecture "
            f"({source.config.model_type}) with this:\n{report}"
        )
    return report


def allowed_drift(plan: GrowthPlan, dtype: torch.dtype, weight_error: float) -> float | None:
    """The drift of logits that is no fault: None where the method does not promise the function.

    Args:
        plan: of the growth.
        dtype: of the source's weights.
        weight_error: of the report; 0.0 where no share had to be rounded.
    """
    if not plan.growth.keeps_function:
        return None
    allowed = tolerance(dtype, exact_weights=weight_error == 0)
    return max(allowed, NEARLY) if plan.deviations else allowed


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
) -> tuple[float, bool | None, tuple[str, ...]]:
    """(largest relative error of summed shares, whether copies differ, tensors beyond rounding)."""
    old, new = source.state_dict(), grown.state_dict()
    worst, differ, wrong = 0.0, True, []
    for recipe in plan.recipes:
        weight, tensor = old[recipe.source], new[recipe.target]
        if tuple(tensor.shape) != recipe.shape:
            raise VerificationError(
                f"{recipe.target} is {list(tensor.shape)}, planned was {list(recipe.shape)}. It is another growth's."
            )
        if not weight.numel():
            continue
        expected = recipe.expected_sum(weight)
        size = max(weight.double().abs().max().item(), abs(recipe.offset), torch.finfo(torch.float64).tiny)
        error = (recipe.fold(tensor) - expected.to(tensor.device)).abs().max().item() / size
        # Rounding each share once moves their sum by half a unit in the last place; a wrong share by far more.
        if tensor.is_floating_point() and not error <= 4 * torch.finfo(tensor.dtype).eps:
            wrong.append(recipe.target)
        worst = error if math.isnan(error) else max(worst, error)
        index = None if recipe.reads is None else recipe.index(recipe.reads)
        if index is not None and recipe.reads is not None and bool((weight != 0).any()):
            differ = differ and copies_apart(tensor, recipe.reads, index)
    return worst, differ if plan.growth.grows_width else None, tuple(wrong)


def copies_apart(grown: Tensor, axis: int, index: Tensor) -> bool:
    """Whether any copy of an input differs from the first copy of the same one.

    Args:
        grown: a grown tensor, or rows of one.
        axis: on which it reads its input.
        index: (length of the axis,), the old unit of every new unit.
    """
    _, inverse = torch.unique(index, return_inverse=True)
    first = torch.empty_like(index).scatter_(0, inverse.flip(0), torch.arange(len(index)).flip(0))
    leading = grown.index_select(axis, first[inverse].to(grown.device))
    return bool((leading != grown).any())


def _reach(
    plan: GrowthPlan, source: PreTrainedModel, grown: PreTrainedModel, ids: Tensor
) -> tuple[GradientReach | None, str]:
    """(what a backward pass reaches, ""), or (None, why there was none)."""
    try:
        return reach(plan, reached_live(grown, ids), lambda: reached_live(source, ids)), ""
    except RuntimeError as error:  # an operation without a derivative; the forward pass has worked
        return None, f"gradients are not known: the backward pass failed with {type(error).__name__}: {error}"


def _source_ties(grown: PreTrainedModel, plan: GrowthPlan) -> set[tuple[str, str]]:
    """The grown model's ties in the source's names; ties inside a layer appear once per source layer."""
    names = {recipe.target: recipe.source for recipe in plan.recipes}
    return {(names.get(a, a), names.get(b, b)) for a, b in find_ties(grown).items()}


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
    """(sequences, tokens, vocabulary)."""
    try:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids.to(model.device)).logits
    except (RuntimeError, ValueError, TypeError) as error:  # a model that wants other inputs, or cannot compute so
        shape, dtype = list(ids.shape), model.dtype
        raise error_class(f"{what}: ids {shape}, {dtype}: {type(error).__name__}: {error}") from error
    return logits
