"""An architecture as a thing to ask: build it without storage, find its tensors, ties, norms and constants.

Everything here is answered by building models on the meta device and looking. What the config says is for `sizes`,
where the layers are for `depth`, which axis of a tensor means what for `anatomy`.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError

__all__ = [
    "OF_EMBEDDING",
    "adds_one",
    "build_meta",
    "constants",
    "converted",
    "final_norm",
    "find_ties",
    "is_norm",
    "named_tensors",
]


# Normalisations of the embedding, which come first.
OF_EMBEDDING = re.compile(r"embeddings?\.|layernorm_embedding|embeddings?_layer_?norm|layer_norm_emb|emb_norm")


def build_meta(config: PreTrainedConfig, model_class: type[PreTrainedModel] | None = None) -> PreTrainedModel:
    """Build a model without storage.

    Args:
        config: of any size; it is not changed.
        model_class: needed for a class the Auto mapping does not know.

    Raises:
        UnsupportedModelError: the architecture cannot be built from this config.
    """
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            if model_class is None:
                model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
            else:
                model = model_class._from_config(config)
    except Exception as error:  # an architecture may refuse a size in any way it likes
        raise UnsupportedModelError(
            f"{config.model_type} cannot be built at the size growth needs: {type(error).__name__}: {error}. "
            "Try another size or method."
        ) from error
    return model


def find_ties(model: nn.Module) -> dict[str, str]:
    """Parameters that are another parameter: ``{"lm_head.weight": "model.embed_tokens.weight"}``."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    # The first is the one that is saved: what the architecture ties others to; by default, the first in the model.
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    kept = [name for name in declared.values() if name not in declared]
    ties: dict[str, str] = {}
    for found in names.values():
        first = next((name for name in found if name in kept), found[0])
        ties |= {name: first for name in found if name != first}
    return ties


def constants(model: nn.Module) -> dict[str, Any]:
    """Every plain value the modules hold (``"layers.0.self_attn.scaling": 0.25``), layer numbers left out."""
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules(remove_duplicate=False)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not any(word in name for word in ("layer_idx", "layer_id", "layer_number", "layer_index"))
        and isinstance(value, bool | int | float | str | None)
    }


def converted(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a model whose weights are of another dtype.

    What no checkpoint holds, such as rotary frequencies, stays as it is: `model.to(dtype)` would round it, and a
    model that is loaded in that dtype does not.
    """
    other = copy.deepcopy(model)
    stored = other.state_dict(keep_vars=True)
    for tensor in stored.values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    other.config.dtype = dtype
    return other


def final_norm(model: PreTrainedModel, prefixes: Sequence[str]) -> str:
    """The one normalisation after the layers, which the output head reads.

    Args:
        model: may be on the meta device.
        prefixes: the modules that hold the layers, such as "model.layers".

    Raises:
        UnsupportedModelError: there is none, or more than one.
    """
    table: Any = model.get_input_embeddings().weight
    parents = tuple(prefix.rpartition(".")[0] + "." for prefix in prefixes)
    norms: list[str] = [
        path
        for path, module in model.named_modules()
        if is_norm(module)
        and any(parameter.shape[-1] == table.shape[-1] for parameter in module.parameters())
        and not path.startswith(tuple(prefix + "." for prefix in prefixes))
        and not OF_EMBEDDING.search(path)
    ]
    # A norm inside the head is the last before the table; elsewhere it is one beside the layers.
    head = [path for path in norms if any(word in path for word in ("cls.", "lm_head", "predictions"))]
    norms = head or [path for path in norms if path.startswith(parents)]
    if len(norms) != 1:
        raise UnsupportedModelError(
            f"{model.config.model_type} ties its output head to the embedding and has {len(norms)} normalisations "
            f"after its layers ({', '.join(norms) or 'none'}). Width growth of a tied model corrects the scale in "
            "the one final norm. Untie the head first, or grow only in depth."
        )
    return norms[0]


def adds_one(norm: nn.Module) -> bool:
    """Whether a norm applies ``1 + w`` rather than ``w``: with zero weights it still answers.

    Args:
        norm: may be on the meta device; it is not changed.
    """
    probe = copy.deepcopy(norm).to_empty(device="cpu").float()
    for parameter in probe.parameters():
        nn.init.zeros_(parameter)
    width = next(probe.parameters()).shape[-1]
    with torch.no_grad():
        answer: Tensor = probe(torch.linspace(-1, 1, width).reshape(1, 1, -1))
    return bool(answer.abs().max() > 0)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied parameters once under their first name."""
    ties, parameters = find_ties(model), dict(model.named_parameters(remove_duplicate=False))
    state = {**parameters, **{k: v for k, v in model.state_dict().items() if k not in parameters}}
    return {name: tensor for name, tensor in state.items() if name not in ties}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is one normalisation; every class in transformers that is says so in its name."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
