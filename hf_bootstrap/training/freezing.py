"""Which parameters a second stage trains: all of them, those of the layers a growth added, or a LoRA beside them."""

import re
from collections.abc import Sequence
from typing import Any

from ..errors import TrainingError

__all__ = ["add_lora", "train_only_new_layers"]


def train_only_new_layers(model: Any) -> int:
    """Freeze everything but the layers that an identity growth put in.

    Args:
        model: as `bootstrap_from_pretrained` returned it, grown in depth by "identity".

    Returns:
        Parameters that are still trained.

    Raises:
        TrainingError: the model was not grown so.

    Source: LLaMA-Pro, Wu et al. 2024, arXiv:2401.02415.
    """
    done = (getattr(model.config, "hf_bootstrap", None) or {}).get("growth") or [{}]
    layers = done[-1].get("layer_map")
    if not layers or done[-1].get("recipe", {}).get("depth_method") != "identity":
        raise TrainingError(
            "only new layers were to be trained, but the model's last growth was not in depth by 'identity': layers "
            "that are copies at work cannot learn alone. Grow with depth_method: identity."
        )
    new = {place for place, origin in enumerate(layers) if origin in layers[:place]}
    trained = 0
    for name, parameter in model.named_parameters():
        place = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
        parameter.requires_grad_(place is not None and int(place[1]) in new)
        trained += parameter.numel() if parameter.requires_grad else 0
    if not trained:
        raise TrainingError(f"no layer of {type(model).__name__} was recognised as new. Train all of it.")
    return trained


def add_lora(
    model: Any,
    r: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
) -> Any:
    """The model with a low-rank adapter beside linear layers; the rest is frozen.

    Args:
        r: the rank.
        alpha: the adapter's scale is alpha / r; default 2 r.
        dropout: on what the adapter reads.
        target_modules: names of the layers, or their ends; default: every linear layer but the head.

    Raises:
        TrainingError: a rank below 1, or layers the model does not have.

    Source: Hu et al. 2021, arXiv:2106.09685; all linear layers: Dettmers et al. 2023, arXiv:2305.14314, section 4.
    """
    from peft import LoraConfig, get_peft_model

    if r < 1:
        raise TrainingError(f"a LoRA of rank {r} trains nothing. Give a rank of at least 1.")
    config = LoraConfig(
        r=r,
        # PEFT's annotation says int; it divides by r, so any number will do.
        lora_alpha=2 * r if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="all-linear" if target_modules is None else list(target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(
            f"a LoRA on {target_modules} of {type(model).__name__} cannot be made: {str(error)[:200]} Name "
            "layers of the model, such as q_proj, or leave target_modules out for every linear one."
        ) from error
