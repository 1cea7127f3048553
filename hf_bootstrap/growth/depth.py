"""Where the layers of a model are, and the config of a deeper one: every entry that speaks of layers follows the map.

Lists with one entry per layer, lists of layer numbers, tables keyed by layer number, and counts of leading layers are
re-indexed. That the deeper model is then built as intended is checked by `plan`, tensor by tensor.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .architecture import build_meta, constants, named_tensors
from .sizes import changed_config, field_value, text_part

__all__ = [
    "INDEX_DEPENDENT",
    "LAYER_COUNTS",
    "Layers",
    "check_layers_alike",
    "deeper_config",
    "find_layers",
    "per_layer_lists",
]

# Config fields that make a layer compute with its own number; a copy elsewhere would not be a copy.
INDEX_DEPENDENT = ("scale_attn_by_inverse_layer_idx", "cross_layer_attention")

# Config fields that say how many layers there are. Which one does is found by raising it.
LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_layers",
    "num_layers_per_stack",
    "num_blocks",
)
# Where no number says it, the length of one of these does.
_COUNTING_LISTS = ("layers_block_type", "layer_types", "block_types")
# Lists of layer numbers: strictly increasing, and the name says so.
_NUMBERS = re.compile(r".*(_layers|_idxs|_indices|layer_ids|_layer_indexes)")
# How many leading layers are of another kind.
_LEADING = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "max_window_layers")
_LAST = ("moe_layer_end_index",)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Where the layers of a model are.

    Attributes:
        prefixes: modules such as "model.layers", each holding `count` layers.
        count: how many.
        fields: the config fields that say so, dotted; a list's length counts.
    """

    prefixes: tuple[str, ...]
    count: int
    fields: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[str, int, str] | None:
        """("model.layers", 3, "mlp.up_proj.weight") of a tensor in a layer; None outside the layers."""
        for prefix in self.prefixes:
            number, _, rest = name.removeprefix(prefix + ".").partition(".")
            if name.startswith(prefix + ".") and number.isdecimal():
                return prefix, int(number), rest
        return None

    def old_name(self, name: str, layer_map: Sequence[int]) -> str:
        """The source's name of a tensor of the grown model."""
        part = self.split(name)
        return name if part is None else f"{part[0]}.{layer_map[part[1]]}.{part[2]}"


def find_layers(config: PreTrainedConfig, model_class: type[PreTrainedModel] | None = None) -> Layers:
    """Find the layers by building one more and looking for what appeared.

    Raises:
        UnsupportedModelError: no field makes one more layer one more numbered entry of a module list, or the model is
            several, each with layers of its own.
    """
    _check_one_stack(config)
    tensors = set(named_tensors(build_meta(config, model_class)))
    tried: list[str] = []
    for fields, count in _candidates(config):
        found = Layers(prefixes=(), count=count, fields=fields)
        try:
            deeper = deeper_config(config, found, [*range(count), count - 1])
            more = set(named_tensors(build_meta(deeper, model_class)))
        except UnsupportedModelError as error:
            tried.append(f"{' and '.join(fields)}: {error}")
            continue
        new, marker = more - tensors, f".{count}."
        prefixes = tuple(sorted({name.partition(marker)[0] for name in new if marker in name}))
        layers = Layers(prefixes=prefixes, count=count, fields=fields)
        # The last layer may be built otherwise than the one before; whether a map suits it is for the plan to check.
        if prefixes and all(layers.split(name) for name in tensors - more):
            numbers = {(part[0], part[1]) for name in more if (part := layers.split(name))}
            if numbers == {(prefix, number) for prefix in prefixes for number in range(count + 1)}:
                return layers
        tried.append(
            f"{' and '.join(fields)}: one more changes {len(new)} tensors, but not as one more entry of a numbered "
            "list of layers (shared or nested blocks?)"
        )
    raise UnsupportedModelError(
        f"{config.model_type} has no field for its number of layers that growth could raise. "
        + ("; ".join(tried) or "It names none")
        + "."
    )


def deeper_config(config: PreTrainedConfig, layers: Layers, layer_map: Sequence[int]) -> PreTrainedConfig:
    """The config of the model whose layer `i` is the old layer ``layer_map[i]``.

    Raises:
        UnsupportedModelError: the architecture does not accept it.
    """
    part = layers.fields[0].rpartition(".")[0]
    owner: PreTrainedConfig = field_value(config, part) if part else config
    record, dot = owner.to_dict(), part + "." if part else ""
    changes: dict[str, Any] = {name: len(layer_map) for name in layers.fields}
    for name, values in per_layer_lists(config, layers).items():
        changes[name] = [values[old] for old in layer_map]
    for name, value in record.items():
        if dot + name in changes and not _are_numbers(name, value, layers.count):
            continue
        if _are_numbers(name, value, layers.count):
            changes[dot + name] = [new for new, old in enumerate(layer_map) if old in value]
        elif isinstance(value, dict) and value and name != "id2label" and all(str(key).isdecimal() for key in value):
            by_old = {int(key): entry for key, entry in value.items()}
            changes[dot + name] = {new: by_old[old] for new, old in enumerate(layer_map) if old in by_old}
        elif name in _LEADING and isinstance(value, int):
            leading = [old < value for old in layer_map]
            changes[dot + name] = leading.index(False) if False in leading else max(value, len(layer_map))
        elif name in _LAST and isinstance(value, int):
            changes[dot + name] = max((new for new, old in enumerate(layer_map) if old <= value), default=-1)
        elif name == "scale_depth" and isinstance(value, int | float):
            # MiniCPM multiplies each residual branch by scale_depth / sqrt(layers): the factor must stay.
            changes[dot + name] = value * math.sqrt(len(layer_map) / layers.count)
    return changed_config(config, changes)


def check_layers_alike(
    source: PreTrainedModel, deep: PreTrainedModel, layers: Layers, layer_map: Sequence[int]
) -> None:
    """Every new layer must be built as its source was: same tensors, same constants.

    Args:
        source, deep: the model before and after depth growth, on the meta device.
        layers: of the source.
        layer_map: the old layer of every new layer.

    Raises:
        UnsupportedModelError: a layer is built by its position; the message names a tensor or value.
    """
    for name in INDEX_DEPENDENT:
        if field_value(source.config, name):
            raise UnsupportedModelError(
                f"{source.config.model_type} sets {name}={field_value(source.config, name)!r}, which makes a layer "
                "depend on its number, so a copy would not be a copy. Depth growth cannot renumber it."
            )
    expected: set[str] = set()
    for name in named_tensors(source):
        part = layers.split(name)
        repeats = [] if part is None else [new for new, old in enumerate(layer_map) if old == part[1]]
        expected |= {name} if part is None else {f"{part[0]}.{new}.{part[2]}" for new in repeats}
    advice = "Choose a layer map that repeats whole periods of its pattern, or keeps such a layer in its place."
    if odd := sorted(expected ^ set(named_tensors(deep))):
        raise UnsupportedModelError(
            f"{source.config.model_type} builds a layer by its position: with layers {list(layer_map)}, {odd[0]} is "
            f"in only one of the two models. {advice}"
        )
    before, depths = constants(source), (layers.count, len(layer_map))
    for name, value in constants(deep).items():
        old = layers.old_name(name, layer_map)
        if old not in before or before[old] == value:
            continue
        # Outside the layers a module may count them, or hold a block for each.
        if layers.split(name) is None and isinstance(value, int) and before[old] * depths[1] == value * depths[0]:
            continue
        raise UnsupportedModelError(
            f"{source.config.model_type} builds a layer by its position: {name} is {value!r}, but its source {old} "
            f"is {before[old]!r}. {advice}"
        )


def per_layer_lists(config: PreTrainedConfig, layers: Layers) -> dict[str, list[Any]]:
    """The config's lists with one entry per layer (dotted names), found by asking the config class for two depths.

    A list the class does not fill in by itself counts when it is as long as the model is deep and its name
    speaks of layers.
    """
    count, part = layers.count, layers.fields[0].rpartition(".")[0]
    owner: PreTrainedConfig = field_value(config, part) if part else config
    dot = part + "." if part else ""
    lists = {k: v for k, v in owner.to_dict().items() if isinstance(v, list | tuple) and len(v) == count}
    fields = [name.rpartition(".")[2] for name in layers.fields]
    try:
        make: Any = type(owner)
        two = [make(**dict.fromkeys(fields, depth)).to_dict() for depth in (12, 24)]
    except Exception:  # noqa: BLE001  (a class whose defaults do not fit these depths: its names must do)
        two = []
    follows = {k for k in lists if two and all(isinstance(d.get(k), list | tuple) for d in two)}
    follows = {k for k in follows if [len(d[k]) for d in two] == [12, 24]}
    return {
        dot + k: list(v)
        for k, v in lists.items()
        if (k in follows or "layer" in k or k in _COUNTING_LISTS) and not _are_numbers(k, v, count)
    }


def _check_one_stack(config: PreTrainedConfig) -> None:
    """Refuse a config that counts the layers of several parts and of none that is the language model's.

    blt has a patcher, an encoder, a decoder and a global model: the first to be found only says where patches begin.
    """
    fields = [fields[0] for fields, _ in _candidates(config)]
    own = (text_part(config), "")
    parts = {field.rpartition(".")[0] + "." if "." in field else "" for field in fields}
    if len(parts) > 1 and not parts & set(own):
        raise UnsupportedModelError(
            f"{config.model_type} is several models in one, each with layers of its own ({', '.join(fields)}), and its "
            "config does not say which of them is the language model. Growth takes models with one stack of layers."
        )


def _candidates(config: PreTrainedConfig) -> Iterator[tuple[tuple[str, ...], int]]:
    """(fields, layers) that may say how deep the model is, the likeliest first."""
    parts = [text_part(config), "", *(f"{name}." for name in config.sub_configs)]
    for part in dict.fromkeys(parts):
        owner = field_value(config, part.rstrip(".")) if part else config
        if not isinstance(owner, PreTrainedConfig):
            continue
        record: Mapping[str, Any] = owner.to_dict()
        names = list(dict.fromkeys(owner.attribute_map.get(name, name) for name in LAYER_COUNTS))
        counts = {name: record[name] for name in names if isinstance(record.get(name), int) and record[name] > 0}
        yield from (((part + name,), count) for name, count in counts.items())
        if len(counts) > 1 and len(set(counts.values())) == 1:
            yield tuple(part + name for name in counts), next(iter(counts.values()))
        for name in _COUNTING_LISTS:
            if isinstance(record.get(name), list) and record[name]:
                yield (part + name,), len(record[name])


def _are_numbers(name: str, value: object, count: int) -> bool:
    """Whether a config entry lists numbers of layers, such as ``mlp_only_layers=[0, 3]``."""
    if not isinstance(value, list | tuple) or not value or not _NUMBERS.fullmatch(name):
        return False
    whole = all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < count for v in value)
    return whole and all(a < b for a, b in pairwise(value))
