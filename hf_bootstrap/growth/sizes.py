"""The sizes a config states: under which name, in which part of a composite config, and changed together.

Names are dotted where a config has parts: "text_config.hidden_size". What a size does to the tensors is for `anatomy`.
"""

import copy
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from transformers import PreTrainedConfig

from ..errors import UnsupportedModelError

__all__ = ["DIMENSIONS", "changed_config", "dimension_field", "field_value", "head_width", "text_part", "wider_fields"]

# What a width factor can grow, and the config fields that say how large it is, in order of preference.
DIMENSIONS = {
    "hidden": ("hidden_size", "d_model", "n_embd", "emb_dim"),
    "heads": ("decoder_attention_heads", "num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "mlp": (
        "decoder_ffn_dim",
        "intermediate_size",
        "ffn_dim",
        "ffn_hidden_size",
        "n_inner",
        "dff",
        "dim_ff",
        "d_inner",
        "moe_intermediate_size",
    ),
}
# Fields that grow with a dimension, wherever they stand: the widths of experts, and sizes that equal the hidden size
# because they are the hidden size.
_WITH_MLP = re.compile(
    r"((moe|shared|dense|expert|shared_experts?|moe_shared_expert)_)?(intermediate|ffn_hidden|feed_forward)_size(_mlp)?"
    r"|(encoder|decoder)_ffn_dim"
)
_WITH_HIDDEN = ("word_embed_proj_dim", "embedding_size", "lru_width")
_BASES = ("dim_model_base",)  # MiniCPM divides the hidden size by it
_WITH_HEADS = ("swa_num_attention_heads", "encoder_attention_heads")
_WITH_KV_HEADS = ("swa_num_key_value_heads", "num_global_key_value_heads")


def text_part(config: PreTrainedConfig) -> str:
    """Where the language model's own sizes stand: "text_config." in a composite config, "" in a plain one."""
    try:
        part = config.get_text_config(decoder=True)
    except ValueError:  # several parts that could be meant
        return ""
    names = [name for name in config.sub_configs if getattr(config, name, None) is part]
    return f"{names[0]}." if names else ""


def field_value(config: PreTrainedConfig, name: str) -> Any:
    """The value of a dotted field; None if there is none."""
    value: Any = config
    for part in name.split("."):
        try:
            value = getattr(value, part, None)
        except Exception:  # noqa: BLE001  (a config may refuse to name one value for a size that layers differ in)
            value = value.to_dict().get(part)
    return value


def dimension_field(config: PreTrainedConfig, dimension: str) -> str | None:
    """The config field that holds the size of a dimension, such as "n_embd" for "hidden"; None if there is none."""
    names = ("num_hidden_layers",) if dimension == "layers" else DIMENSIONS[dimension]
    part = text_part(config)
    owner = field_value(config, part.rstrip(".")) if part else config
    record = owner.to_dict()
    for name in names:
        own = owner.attribute_map.get(name, name)
        if isinstance(record.get(own), int):
            return part + own
    return None


def wider_fields(config: PreTrainedConfig, factors: Mapping[str, int | Fraction]) -> dict[str, Any]:
    """Every field that says a size of the wider model, by dotted name, with its new value.

    Raises:
        UnsupportedModelError: a size that a fraction does not make a whole number.
    """
    part = text_part(config)
    record = (field_value(config, part.rstrip(".")) if part else config).to_dict()
    named = {d: f.rpartition(".")[2] for d in DIMENSIONS if (f := dimension_field(config, d)) is not None}
    hidden = record.get(named.get("hidden", ""))
    changes = {}
    for name, value in record.items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        for dimension, field in named.items():
            follows = {
                "hidden": name in _BASES or (name in _WITH_HIDDEN and value == hidden),
                "mlp": _WITH_MLP.fullmatch(name) is not None,
                "heads": name in _WITH_HEADS,
                "kv_heads": name in _WITH_KV_HEADS,
            }
            if name == field or follows[dimension]:
                wider = value * Fraction(factors[dimension])
                if wider.denominator != 1:
                    raise UnsupportedModelError(
                        f"{config.model_type}: {part + name}={value} grows with {field} by {factors[dimension]}, which "
                        f"gives no whole number. Choose a size for {field} that does."
                    )
                changes[part + name] = int(wider)
    return changes


def changed_config(config: PreTrainedConfig, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """A new config of the same type, with some fields (dotted names) changed and all of them validated.

    Raises:
        UnsupportedModelError: the architecture does not allow these values together.
    """
    record = copy.deepcopy(config.to_dict())
    for name, value in changes.items():
        *parts, last = name.split(".")
        holder = record
        for part in parts:
            holder = holder[part]
        holder[last] = value
    try:
        changed = type(config).from_dict(record)
    except Exception as error:  # a config class may refuse values in any way it likes
        raise UnsupportedModelError(
            f"{config.model_type} does not accept {dict(changes)}: {error}. This architecture cannot be grown so."
        ) from error
    _carry_over(config, changed)
    return changed


def head_width(config: PreTrainedConfig) -> int:
    """Channels of one head: `head_dim` where the config has it, else hidden size / heads."""
    stated = field_value(config, text_part(config) + "head_dim")
    if isinstance(stated, int):
        return stated
    hidden, heads = (field_value(config, str(dimension_field(config, d))) for d in ("hidden", "heads"))
    return int(hidden // heads)


def _carry_over(config: PreTrainedConfig, changed: PreTrainedConfig) -> None:
    """What `to_dict` leaves out: how to compute, part by part."""
    changed.dtype = config.dtype
    for name in ("_attn_implementation", "_experts_implementation"):
        if getattr(config, name, None) is not None:
            setattr(changed, name, getattr(config, name))
    for name in config.sub_configs:
        old, new = getattr(config, name, None), getattr(changed, name, None)
        if isinstance(old, PreTrainedConfig) and isinstance(new, PreTrainedConfig):
            _carry_over(old, new)
