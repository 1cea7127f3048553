"""Parameters of a model, counted in each of the field's senses, and what it costs to train on a token.

Works on the meta device, so a plan can count what does not exist yet.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..units import training_flops_per_token
from .plan import count_parameters, whole_shape
from .sizes import field_value

__all__ = ["ModelSize", "measure_size"]

_ATTENTION = "6*layers*heads*head_dim*sequence_length per trained token (causal half)"
_WHOLE = f"6*N_matmul + {_ATTENTION}"
_ADAPTED = f"4*N_matmul + 6*N_adapter + {_ATTENTION}; frozen weights have no gradient of their own"

# How configs say how many experts a layer has, and how many of them one token goes through.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TAKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Parameter counts of a model.

    Attributes:
        total: every parameter once, tied ones counted once; a LoRA's too.
        non_embedding: without embedding tables, the output head and a LoRA, which merges into what it stands beside; N
            of most scaling laws.
        active: used for one token, a LoRA's too: of routed experts the share that a token goes through; None where the
            model does not show which or how many these are.
        matmul: weights in matrix products for one token, output head included even if tied.
        layers, attention_width: for the attention term; None where the config does not say.
        adapter: weights of a LoRA in every layer that alone is trained; 0 where the whole model is trained; None where
            any other part is frozen, for which there is no formula here.
    """

    total: int
    non_embedding: int
    active: int | None
    matmul: int
    layers: int | None
    attention_width: int | None
    adapter: int | None = 0

    @property
    def flops_formula(self) -> str:
        """How `flops_per_token` counts."""
        return _ADAPTED if self.adapter else _WHOLE

    def flops_per_token(self, sequence_length: int) -> float | None:
        """Training FLOPs of one token by `flops_formula`; None where the shape or what is trained is not known to it.

        Frozen weights pass gradients on and have none of their own. That nothing below the first layer's adapters needs
        one is left out: it makes the count too large by less than a layer's share.
        """
        if self.layers is None or self.attention_width is None or self.active is None or self.adapter is None:
            return None
        whole = training_flops_per_token(self.matmul + self.adapter, self.layers, self.attention_width, sequence_length)
        return whole - 2.0 * self.matmul if self.adapter else whole


def measure_size(model: Any) -> ModelSize:
    """Count a transformers model.

    Args:
        model: a `PreTrainedModel` of any device, the meta device included.
    """
    total, non_embedding = count_parameters(model)
    head = model.get_output_embeddings()
    of_head = set() if head is None else {id(p) for p in head.parameters()}
    inside = {name: p for name, p in model.named_parameters() if id(p) not in of_head}
    # An adapter of the head lies in the head's wrapper, and is left out with it.
    non_embedding -= sum(math.prod(whole_shape(p)) for name, p in inside.items() if ".lora_" in name)
    shapes = [whole_shape(p) for name, p in inside.items() if ".lora_" not in name]
    vectors = sum(math.prod(shape) for shape in shapes if len(shape) < 2)
    config = model.config.get_text_config()
    layers, idle = field_value(config, "num_hidden_layers"), _idle(model, config)
    return ModelSize(
        total=total,
        non_embedding=non_embedding,
        active=None if idle is None else total - idle,
        matmul=non_embedding - vectors - (idle or 0) + (0 if head is None else math.prod(whole_shape(head.weight))),
        layers=layers if isinstance(layers, int) else None,
        attention_width=_attention_width(config),
        adapter=_adapter(model, layers),
    )


def _adapter(model: nn.Module, layers: Any) -> int | None:
    """As `ModelSize.adapter`."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if len(trained) == sum(1 for _ in model.parameters()):
        return 0
    adapted = {found[1] for name in trained if (found := re.search(r"\.(\d+)\.", name))}
    if all(".lora_" in name for name in trained) and len(adapted) == layers:
        return sum(math.prod(whole_shape(p)) for p in trained.values())
    return None


def _attention_width(config: Any) -> int | None:
    heads, width, hidden = (field_value(config, name) for name in ("num_attention_heads", "head_dim", "hidden_size"))
    if not isinstance(heads, int) or not heads:
        return None
    width = width or (hidden // heads if isinstance(hidden, int) else None)
    return heads * width if isinstance(width, int) else None


def _idle(model: nn.Module, config: Any) -> int | None:
    """Parameters of the routed experts that one token does not go through; None where that cannot be told."""
    experts = _first(config, _EXPERTS)
    routed = sum(math.prod(whole_shape(p)) for module in model.modules() for p in _routed(module, experts))
    if not routed:
        named = any("experts" in name.split(".") for name, _ in model.named_parameters())
        return None if named or (isinstance(experts, int) and experts > 1) else 0
    taken = _first(config, _TAKEN)
    # Experts that compute nothing (longcat_flash) make the share a matter of the text.
    if not isinstance(taken, int) or not 0 < taken <= experts or field_value(config, "zero_expert_num"):
        return None
    return int(routed - routed * taken // experts)


def _routed(module: nn.Module, experts: Any) -> list[nn.Parameter]:
    """The parameters of a module that holds a matrix of every routed expert, and perhaps a bias, in one tensor each."""
    shapes = {p: whole_shape(p) for p in module.parameters(recurse=False)}
    own = [p for p, shape in shapes.items() if len(shape) > 1 and shape[0] == experts]
    return own if any(len(shapes[p]) > 2 for p in own) and not isinstance(module, nn.Conv1d) else []


def _first(config: Any, names: tuple[str, ...]) -> Any:
    """The first of these fields that the config has a value for."""
    return next((value for name in names if (value := field_value(config, name)) is not None), None)
