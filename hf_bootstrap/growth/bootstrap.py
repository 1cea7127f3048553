"""`bootstrap_from_pretrained`: a pretrained model in, a grown one out, ready to train.

The whole job on one page: open, plan, write, verify. Models larger than memory are for `stream`.
"""

import copy
import os
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .. import __version__
from ..errors import GrowthError, UnsupportedModelError
from .architecture import converted, find_ties
from .config import GrowthConfig
from .learning_rate import lasting_factors
from .loading import load_model
from .plan import GrowthPlan, describe_growth, plan_growth
from .verify import verify_growth

__all__ = ["bootstrap_from_pretrained", "grow_model", "growth_history"]


def bootstrap_from_pretrained(
    model_or_path: PreTrainedModel | str | os.PathLike[str],
    config: GrowthConfig,
    *,
    verify: bool = True,
    allow_pickle: bool = False,
    **from_pretrained_kwargs: Any,
) -> PreTrainedModel:
    """Grow a pretrained causal language model, in memory.

    Args:
        model_or_path: a live model (it stays as it is), a checkpoint folder, or a name on the Hub.
        config: what growth; `GrowthConfig()` gives the model back as it is, for continual pretraining.
        verify: hold the grown model against its source before it is returned, see `verify_growth`.
        allow_pickle: read pickled weights (`pytorch_model.bin`) with torch's `weights_only` guard.
        **from_pretrained_kwargs: for `AutoModelForCausalLM.from_pretrained` when a path is given, such as
            ``dtype=torch.bfloat16``. Remote code runs only with ``trust_remote_code=True``, a name on the Hub and a
            ``revision`` that is a commit (40 hexadecimal digits).

    Returns:
        A model of the same class, dtype, device and generation config, in training mode. How it was grown, from
        what, and what verification found is in ``model.config.hf_bootstrap["growth"]``, one entry per growth.

    Raises:
        GrowthError: the request or the weights make no sense: tensors missing, not finite, or not known.
        StoreError, CorruptFileError: what lies in a folder points out of it, or is damaged.
        UnsupportedModelError: the architecture cannot be grown so; the message names the reason.
        VerificationError: the grown model is not what the method promises.
    """
    source = _open(model_or_path, from_pretrained_kwargs, allow_pickle)
    if not config.grows:
        return source
    if config.dtype is not None:
        # Converted before it is grown: shares made in the new dtype add up to what it can hold.
        source = converted(source, getattr(torch, config.dtype))
    _check_source(source)
    plan = plan_growth(source.config, config, model_class=type(source))
    _check_ties(source, plan)
    grown = grow_model(source, plan)
    report = verify_growth(source, grown, plan=plan) if verify else None
    grown.config.hf_bootstrap = growth_history(plan, None if report is None else report.to_dict())
    grown.train()
    return grown


def grow_model(source: PreTrainedModel, plan: GrowthPlan) -> PreTrainedModel:
    """Carry out a plan on a live model.

    Args:
        source: the model the plan was made for; it stays as it is.
        plan: from `plan_growth`.

    Returns:
        The grown model, not verified.
    """
    tensors = source.state_dict()
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for recipe in plan.recipes:
            weight, after = (
                tensors[recipe.source].detach(),
                None if recipe.after is None else tensors[recipe.after].detach(),
            )
            state[recipe.target] = recipe.grow(weight, plan.operator, plan.growth.seed, after)
    grown = _build_like(source, plan)
    state |= {name: state[first] for name, first in find_ties(grown).items()}
    grown.load_state_dict(state, strict=True, assign=True)
    grown.tie_weights()
    if source.generation_config is not None:
        grown.generation_config = type(source.generation_config).from_dict(source.generation_config.to_dict())
    torch.nn.Module.to(grown, source.device)
    return grown


def _build_like(source: PreTrainedModel, plan: GrowthPlan) -> PreTrainedModel:
    # Built with real storage, because buffers that no checkpoint holds (rotary frequencies) are computed on the
    # way. The random weights it starts with are replaced; the caller's random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        grown: PreTrainedModel = type(source)._from_config(
            copy.deepcopy(plan.target_config), dtype=plan.target_config.dtype or source.dtype
        )
    return grown


def _open(
    model_or_path: PreTrainedModel | str | os.PathLike[str], kwargs: dict[str, Any], allow_pickle: bool
) -> PreTrainedModel:
    if isinstance(model_or_path, str | os.PathLike):
        return load_model(os.fspath(model_or_path), kwargs, allow_pickle=allow_pickle)
    if not isinstance(model_or_path, PreTrainedModel):
        raise UnsupportedModelError(
            f"A {type(model_or_path).__name__} cannot be grown; give a transformers model, a folder or a Hub name. "
            "Merge adapters first (merge_and_unload), and unwrap compiled or distributed models."
        )
    if given := sorted(kwargs) + ["allow_pickle"] * allow_pickle:
        raise GrowthError(f"{given} are for loading a checkpoint, but a live model was given. Load it with them first.")
    return model_or_path


def _check_source(source: PreTrainedModel) -> None:
    kind = type(source).__name__
    if source.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{kind} is an encoder-decoder; growth is for decoder-only language models.")
    if not source.can_generate() or source.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{kind} is not a causal language model. Load it with AutoModelForCausalLM.")
    if getattr(source, "hf_quantizer", None) is not None or getattr(source.config, "quantization_config", None):
        raise UnsupportedModelError(
            f"{kind} is quantised; the shares of a quantised weight cannot add up to it. Load the original weights, or "
            "copy its layers on disk (grow_checkpoint with depth)."
        )
    devices = {str(parameter.device) for parameter in source.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise GrowthError(f"{kind} lies on {sorted(devices)}; growth in memory needs it on one real device.")
    for name, parameter in source.named_parameters():
        if not torch.isfinite(parameter).all():
            raise GrowthError(f"{name} holds NaN or infinity; a grown model would inherit it. Use a sound checkpoint.")


def _check_ties(source: PreTrainedModel, plan: GrowthPlan) -> None:
    ties, setting = find_ties(source), f"tie_word_embeddings={source.config.tie_word_embeddings}"
    for name in sorted(set(plan.ties) ^ set(ties)):
        what = f"is the same tensor as {ties[name]}" if name in ties else "has weights of its own"
        raise GrowthError(
            f"{name} {what}, which is not how the config builds it ({setting}). Growth would lose one of the two; "
            "make the config say what the model is."
        )


def growth_history(plan: GrowthPlan, verification: dict[str, Any] | None) -> dict[str, Any]:
    """What a grown model's config says of how it came to be, under ``hf_bootstrap``: one entry per growth."""
    source = plan.source_config
    step = {
        "recipe": describe_growth(plan.growth),
        "layer_map": list(plan.layer_map),
        "rate_factors": lasting_factors(plan.recipes, source),
        "source": {
            "name_or_path": source.name_or_path,
            "model_type": source.model_type,
            "n_params": plan.n_params_source,
            "n_params_non_embedding": plan.n_params_non_embedding_source,
        },
        "n_params": plan.n_params,
        "n_params_non_embedding": plan.n_params_non_embedding,
        "verification": verification,
        "versions": {"hf_bootstrap": __version__, **{name: version(name) for name in ("torch", "transformers")}},
    }
    earlier = (getattr(source, "hf_bootstrap", None) or {}).get("growth", [])
    return {"growth": [*earlier, step]}
