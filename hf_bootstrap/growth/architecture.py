"""An architecture as a thing to ask: build it without storage at any size, find its layers, ties, norms, constants.

Everything here is answered by building models on the meta device and looking; which axis of a tensor means what
is for `anatomy`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError

__all__ = [
    "DIMENSIONS",
    "INDEX_DEPENDENT",
    "Layers",
    "adds_one",
    "build_meta",
    "changed_config",
    "constants",
    "dimension_field",
    "find_layers",
    "find_ties",
    "head_width",
    "is_norm",
    "named_tensors",
    "outer_norm",
    "per_layer_lists",
]

# What a width factor can grow, and the config fields that say how large it is, in order of preference.
DIMENSIONS = {
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "mlp": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
}

# Config fields that make a layer depend on its number; a copied layer would not be a copy.
INDEX_DEPENDENT = ("scale_attn_by_inverse_layer_idx", "mlp_only_layers", "full_attn_idxs", "cross_layer_attention")


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Where the layers of a model are: module `prefixes` such as "model.layers", each holding `count` of them."""

    prefixes: tuple[str, ...]
    count: int

    def split(self, name: str) -> tuple[str, int, str] | None:
        """("model.layers", 3, "mlp.up_proj.weight") of a tensor in a layer; None outside the layers."""
        for prefix in self.prefixes:
            number, _, rest = name.removeprefix(prefix + ".").partition(".")
            if name.startswith(prefix + ".") and number.isdecimal():
                return prefix, int(number), rest
        return None


def dimension_field(config: PreTrainedConfig, dimension: str) -> str | None:
    """The config field that holds the size of a dimension, such as "n_embd" for "hidden"; None if there is none."""
    names = ("num_hidden_layers",) if dimension == "layers" else DIMENSIONS[dimension]
    record = config.to_dict()
    for name in names:
        own = config.attribute_map.get(name, name)
        if record.get(own) is not None:
            return own
    return None


def changed_config(config: PreTrainedConfig, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """A new config of the same type, with some fields changed and all of them validated.

    Raises:
        UnsupportedModelError: the architecture does not allow these values together.
    """
    try:
        changed = type(config).from_dict({**copy.deepcopy(config.to_dict()), **changes})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UnsupportedModelError(
            f"{config.model_type} does not accept {dict(changes)}: {error}. This architecture cannot be grown so."
        ) from error
    changed.dtype = config.dtype
    for name in ("_attn_implementation", "_experts_implementation"):
        if getattr(config, name, None) is not None:
            setattr(changed, name, getattr(config, name))
    return changed


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
            f"{config.model_type} cannot be built at the size growth needs: {type(error).__name__}: {error}"
        ) from error
    return model


def find_layers(config: PreTrainedConfig, model_class: type[PreTrainedModel] | None = None) -> Layers:
    """Find the layers by building one more and looking for what appeared.

    Raises:
        UnsupportedModelError: one more layer is not one more numbered entry of a module list.
    """
    field = dimension_field(config, "layers")
    if field is None:
        raise UnsupportedModelError(f"{config.model_type} has no field for its number of layers, so it has no stack.")
    count = getattr(config, field)
    lists = per_layer_lists(config, count)
    deeper = changed_config(config, {field: count + 1, **{k: [*v, v[-1]] for k, v in lists.items()}})
    tensors, more = (named_tensors(build_meta(c, model_class)) for c in (config, deeper))
    new = set(more) - set(tensors)
    marker = f".{count}."
    prefixes = tuple(sorted({name.partition(marker)[0] for name in new if marker in name}))
    layers = Layers(prefixes=prefixes, count=count)
    numbers = {
        prefix: {part[1] for name in more if (part := layers.split(name)) and part[0] == prefix} for prefix in prefixes
    }
    if not prefixes or set(tensors) - set(more) or any(found != set(range(count + 1)) for found in numbers.values()):
        raise UnsupportedModelError(
            f"{config.model_type}: one layer more changes {len(new)} tensors, but not as one more entry of a numbered "
            "list of layers (shared or nested blocks?). Depth and width growth need such a list."
        )
    return layers


def per_layer_lists(config: PreTrainedConfig, count: int) -> dict[str, list[Any]]:
    """The config's lists with one entry per layer, found by asking the config class for two depths.

    A list the class does not fill in by itself counts when it is as long as the model is deep and its name
    speaks of layers.
    """
    field = dimension_field(config, "layers")
    lists = {k: v for k, v in config.to_dict().items() if isinstance(v, list | tuple) and len(v) == count}
    try:
        make: Any = type(config)
        two = [make(**{field: depth}).to_dict() for depth in (12, 24)] if field else []
    except Exception:  # noqa: BLE001  (a class whose defaults do not fit these depths: its names must do)
        two = []
    follows = {k for k in lists if two and all(isinstance(d.get(k), list | tuple) for d in two)}
    follows = {k for k in follows if [len(d[k]) for d in two] == [12, 24]}
    return {k: list(v) for k, v in lists.items() if k in follows or "layer" in k}


def find_ties(model: nn.Module) -> dict[str, str]:
    """Parameters that are another parameter: ``{"lm_head.weight": "model.embed_tokens.weight"}``."""
    first: dict[int, str] = {}
    ties = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            ties[name] = first[id(parameter)]
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


def outer_norm(model: PreTrainedModel, layers: Layers) -> str:
    """The one normalisation outside the layers, which the output head reads.

    Raises:
        UnsupportedModelError: there is none, or more than one.
    """
    norms: list[str] = [
        path
        for path, module in model.named_modules()
        if is_norm(module) and layers.split(path + ".") is None and any(True for _ in module.parameters())
    ]
    if len(norms) != 1:
        raise UnsupportedModelError(
            f"{model.config.model_type} ties its output head to the embedding and has {len(norms)} normalisations "
            f"outside its layers ({', '.join(norms) or 'none'}). Width growth of a tied model corrects the scale in "
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


def head_width(config: PreTrainedConfig) -> int:
    """Channels of one head: `head_dim` where the config has it, else hidden size / heads."""
    stated = getattr(config, "head_dim", None)
    if isinstance(stated, int):
        return stated
    hidden, heads = (getattr(config, str(dimension_field(config, d))) for d in ("hidden", "heads"))
    return int(hidden // heads)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied parameters once under their first name."""
    ties, parameters = find_ties(model), dict(model.named_parameters(remove_duplicate=False))
    state = {**parameters, **{k: v for k, v in model.state_dict().items() if k not in parameters}}
    return {name: tensor for name, tensor in state.items() if name not in ties}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is one normalisation; every class in transformers that is says so in its name."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
