"""Whether two models compute the same: plain, padded, cached, saved and loaded, as they run and all in float64.

What should agree with what is for `coverage`.
"""

import copy
import tempfile
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_bootstrap.growth.architecture import named_tensors

from .float64 import all_in_float64

__all__ = ["STRICT", "UPCASTING", "NotCertified", "compare", "drift", "probe_ids", "runs", "take_a_step"]

# Relative to the largest logit. Where everything is computed in float64 a grown model is the source or it is not.
# Modules that compute in float32 whatever the dtype explain the second, unless they are run again and again.
STRICT, UPCASTING = 1e-9, 2e-6


class NotCertified(Exception):
    """The grown model is not what it should be: a fault of the growth code, never of the type."""


def compare(
    grown: PreTrainedModel, reference: PreTrainedModel, ids: Tensor, *, reload: bool, allowed: float = STRICT
) -> dict[str, float]:
    """Largest relative difference over plain, padded and cached runs; with `reload`, a saved and loaded model too.

    Returns:
        "error": with every module kept in float64, up to `allowed`; or, for what cannot run so, as the models run,
        up to `UPCASTING`. "as_it_runs": as the models run.

    Raises:
        NotCertified: they differ by more.
    """
    if reload:
        # Every stored bit is compared; buffers that no file holds may be rounded otherwise when loaded (gptj: 2e-9).
        moved = drift(runs(_reloaded(grown), ids), runs(grown, ids))
        if not moved <= UPCASTING:
            raise NotCertified(f"a saved and loaded model differs by {moved:.1e} of the largest logit")
    plain = _largest(grown, reference, ids)
    if plain <= STRICT:
        return {"error": plain, "as_it_runs": plain}
    try:
        with all_in_float64():
            runs(reference, ids)
    except Exception:  # noqa: BLE001  (code that cannot be held back)
        exact, limit = plain, max(allowed, UPCASTING)
    else:
        with all_in_float64():
            exact, limit = _largest(grown, reference, ids), allowed
    if not exact <= limit:
        raise NotCertified(f"logits differ by {exact:.1e} of the largest")
    return {"error": exact, "as_it_runs": plain}


@torch.no_grad()
def runs(model: PreTrainedModel, ids: Tensor, **inputs: Any) -> Tensor:
    """Logits, (sequences, tokens, vocabulary) in float64."""
    logits: Tensor = model(input_ids=ids, use_cache=False, **inputs).logits.double()
    if not torch.isfinite(logits).all() and not inputs:
        raise NotCertified("logits are not finite")
    return logits


def take_a_step(grown: PreTrainedModel, source: PreTrainedModel, fresh: Collection[str], ids: Tensor) -> int:
    """One AdamW step on a copy of a grown model.

    Args:
        grown, source: they stay as they are.
        fresh: names of the grown model's tensors that the growth made anew.
        ids: the text.

    Returns:
        How many fresh tensors got a gradient and moved: not those of an expert that no token reached, and none where
        the source itself cannot be trained here.

    Raises:
        NotCertified: a gradient is not finite, or a fresh tensor got one and stayed.
    """
    model = copy.deepcopy(grown)
    if (wrong := _backward(model, ids)) is not None:
        if _backward(copy.deepcopy(source), ids) is not None:
            return 0
        raise NotCertified(wrong)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters() if name in fresh}
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0).step()
    reached = [n for n, t in model.named_parameters() if n in fresh and t.grad is not None and t.grad.any()]
    moved = [name for name in reached if not torch.equal(model.get_parameter(name), before[name])]
    if len(moved) < len(reached) or (fresh and not moved):
        raise NotCertified(f"of {len(fresh)} new tensors {len(reached)} get a gradient, and a step moves {len(moved)}")
    return len(moved)


def _backward(model: PreTrainedModel, ids: Tensor) -> str | None:
    """Leave gradients in a model; what is wrong with them, or None."""
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), ids[:, 1:].flatten()).backward()
    except Exception as error:  # noqa: BLE001  (an architecture whose backward pass fails in its own way)
        return f"the backward pass fails: {error}"
    odd = [n for n, t in model.named_parameters() if t.grad is not None and not torch.isfinite(t.grad).all()]
    return f"the gradient of {odd[0]} is not finite" if odd else None


def drift(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def probe_ids() -> Tensor:
    """(2, 12) tokens of the tiny vocabulary."""
    return torch.randint(3, 78, (2, 12), generator=torch.Generator().manual_seed(1))


def _largest(grown: PreTrainedModel, reference: PreTrainedModel, ids: Tensor) -> float:
    expected = runs(reference, ids)
    found = [drift(runs(grown, ids), expected), _cached(grown, reference, ids)]
    found += [_padded(grown, reference, ids, side) for side in ("left", "right")]
    return float(torch.tensor(found).max())  # NaN stays NaN, as it would not with `max`


def _reloaded(grown: PreTrainedModel) -> PreTrainedModel:
    with tempfile.TemporaryDirectory() as folder:
        grown.save_pretrained(folder)
        again = type(grown).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    for module in again.modules():
        if getattr(module, "config", None) is not None:
            module.config._experts_implementation = "eager"
    theirs, ours = named_tensors(grown), named_tensors(again)
    if set(ours) != set(theirs) or any(not torch.equal(ours[name], theirs[name]) for name in ours):
        raise NotCertified("saving and loading changes tensors")
    return again


@torch.no_grad()
def _padded(grown: PreTrainedModel, reference: PreTrainedModel, ids: Tensor, side: str) -> float:
    mask = torch.ones_like(ids)
    mask[0, slice(0, 4) if side == "left" else slice(-4, None)] = 0
    try:
        theirs = runs(reference, ids, attention_mask=mask)
        if not torch.isfinite(theirs[mask.bool()]).all():
            return 0.0  # several architectures answer NaN to padding in float64: nothing to compare
    except Exception:  # noqa: BLE001  (an architecture that takes no mask)
        return 0.0
    return drift(runs(grown, ids, attention_mask=mask)[mask.bool()], theirs[mask.bool()])


@torch.no_grad()
def _cached(grown: PreTrainedModel, reference: PreTrainedModel, ids: Tensor) -> float:
    def step(model: PreTrainedModel) -> Tensor:
        start = model(input_ids=ids[:, :8], use_cache=True)
        logits: Tensor = model(input_ids=ids[:, 8:9], past_key_values=start.past_key_values, use_cache=True).logits
        return logits[:, -1].double()

    try:
        theirs = step(reference)
    except Exception:  # noqa: BLE001  (an architecture without a cache, or with one of its own kind)
        return 0.0
    return drift(step(grown), theirs)
