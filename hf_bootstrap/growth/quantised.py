"""Depth growth of quantised checkpoints: layers are copied byte for byte, whatever their codes mean.

A quantisation stores other tensors than the architecture has (codes, scales, zero points), under names of its own
beside the weights' names. They are not understood here: each follows the layer it is in. That none is missing or
foreign is held against the names of the architecture, before and after growth.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GrowthError, UnsupportedModelError
from ..store import read_json
from .checkpoint import Checkpoint, Entry, real_file
from .config import GrowthConfig
from .depth import Layers
from .hub_layout import HubLayout, Part, layout_of
from .recipe import Recipe

__all__ = ["LayerCopies", "check_only_copies", "copy_layers", "read_quantisation"]

# Types that hold a number as it is; where a tensor has one of them, it has the shape that the architecture says.
_PLAIN = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class LayerCopies:
    """A deeper quantised checkpoint, name by name.

    Attributes:
        entries: of the source, by name; all that are copied.
        left_out: names the architecture knows and ignores.
        source, target: where they lie; every tensor is one part.
        recipes: one for each tensor of the target.
        settings: the config's `quantization_config` of the target.
    """

    entries: Mapping[str, Entry]
    left_out: tuple[str, ...]
    source: HubLayout
    target: HubLayout
    recipes: tuple[Recipe, ...]
    settings: dict[str, Any]


def read_quantisation(folder: Path) -> dict[str, Any] | None:
    """How the weights of a folder are quantised, as its config says; None where they are not."""
    found = read_json(real_file(folder / "config.json")).get("quantization_config")
    if found and not isinstance(found, dict):
        raise GrowthError(f"{folder / 'config.json'}: quantization_config is no object. Correct it.")
    return found or None


def check_only_copies(folder: Path, settings: Mapping[str, Any], growth: GrowthConfig) -> None:
    """Refuse what would have to compute with codes.

    Raises:
        UnsupportedModelError: width, a dtype, or a depth method that sets weights to zero.
    """
    why = None
    if growth.grows_width:
        why = "the shares of a copy cannot add up to a number that is stored with a scale for its whole block"
    elif growth.dtype is not None:
        why = f"codes cannot be turned into {growth.dtype}"
    elif growth.adds_nothing:
        why = "identity sets the last projection of each new layer to zero, which codes have no common way to say"
    if why is not None:
        raise UnsupportedModelError(
            f"{folder} holds quantised weights ({settings.get('quant_method', 'quantised')}), and {why}. Grow the "
            "original weights and quantise the result; layers can be copied as they are (depth with stack, interpose, "
            "solar, midas or a layer map)."
        )


def copy_layers(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    before: HubLayout,
    after: HubLayout,
    layers: Layers,
    layer_map: Sequence[int],
    ignored: Iterable[str] = (),
) -> LayerCopies:
    """Work out which tensor of a deeper quantised checkpoint is a copy of which.

    Args:
        checkpoint: the source.
        settings: from `read_quantisation`.
        before, after: how the two models would lie on disk without quantisation.
        layers: of the source, in memory.
        layer_map: the old layer of every new layer.
        ignored: patterns of names the architecture ignores.

    Raises:
        GrowthError: a tensor of the architecture has nothing on disk, or one on disk is not of the architecture.
        UnsupportedModelError: the settings name layers in a way that cannot be followed.
    """
    on_disk = _layers_on_disk(before, layers)
    left_out = _check_names(checkpoint.folder, checkpoint.entries, before, ignored)
    entries = {name: entry for name, entry in checkpoint.entries.items() if name not in left_out}
    _check_layers_complete(checkpoint.folder, entries, before, on_disk)
    places: dict[int | None, list[str]] = {}
    for name in entries:
        part = on_disk.split(name)
        places.setdefault(None if part is None else part[1], []).append(name)
    origins = {name: name for name in places.get(None, [])}
    for new, old in enumerate(layer_map):
        origins |= {_renumbered(on_disk, name, new): name for name in places.get(old, [])}
    # The child, without being built by its quantiser: what it would hold is held against what the architecture has.
    _check_names(checkpoint.folder, {name: entries[old] for name, old in origins.items()}, after, ())
    return LayerCopies(
        entries=entries,
        left_out=left_out,
        source=layout_of({name: (_whole(name, entry),) for name, entry in entries.items()}, {}),
        target=layout_of({name: (_whole(name, entries[old]),) for name, old in origins.items()}, {}),
        recipes=tuple(Recipe(target=n, source=old, shape=entries[old].shape) for n, old in origins.items()),
        settings=_follow(dict(settings), on_disk, layer_map),
    )


def _whole(name: str, entry: Entry) -> Part:
    return Part(tensor=name, stored=name, box=tuple((0, length) for length in entry.shape))


def _layers_on_disk(layout: HubLayout, layers: Layers) -> Layers:
    """The layers by the names they have on disk."""
    prefixes = set()
    for name, parts in layout.parts.items():
        if (split := layers.split(name)) is not None:
            prefixes |= {part.stored.partition(f".{split[1]}.")[0] for part in parts}
    return Layers(prefixes=tuple(sorted(prefixes)), count=layers.count, fields=layers.fields)


def _renumbered(layers: Layers, name: str, number: int) -> str:
    part = layers.split(name)
    return name if part is None else f"{part[0]}.{number}.{part[2]}"


def _check_names(
    folder: Path, entries: Mapping[str, Entry], layout: HubLayout, ignored: Iterable[str]
) -> tuple[str, ...]:
    """Hold stored names against an architecture's; those it ignores come back.

    A tensor belongs to the architecture if it is one of its tensors, lies beside one in a module, or below one
    ("q_proj.weight.absmax"). A tensor of the architecture is there if it is there itself or something stands for it:
    "up_proj.weight_scale", "up_proj.qweight", "gate_up_proj_blocks".
    """
    modules = {name.rpartition(".")[0] for name in (*layout.shapes, *layout.ties)}
    modules |= {".".join(path.split(".")[:n]) for path in modules for n in range(1, path.count(".") + 1)}
    known: dict[str, list[str]] = {}
    foreign: list[str] = []
    left_out: list[str] = []
    for name, entry in entries.items():
        if (shape := layout.shapes.get(name)) is not None and entry.dtype in _PLAIN and entry.shape != shape:
            raise GrowthError(
                f"{name} in {folder} is {list(entry.shape)}, and its config says {list(shape)}. One of them belongs to "
                "another model; restore the checkpoint."
            )
        module, _ = _module_of(name, layout)
        if name in layout.shapes or name in layout.ties or module in modules:
            known.setdefault(module, []).append(name)
        else:
            (left_out if any(re.search(pattern, name) for pattern in ignored) else foreign).append(name)
    missing = [name for name in layout.shapes if not _stands_for(name, known, layout)]
    for what, found in (("lacks tensors the architecture has", missing), ("holds tensors it does not know", foreign)):
        if found:
            raise GrowthError(
                f"The quantised checkpoint {str(folder)!r} {what}: {', '.join(sorted(found)[:5])} ({len(found)} in "
                "all). It is damaged, or lies on disk in a way that growth cannot follow."
            )
    return tuple(sorted(left_out))


def _check_layers_complete(folder: Path, entries: Mapping[str, Entry], layout: HubLayout, layers: Layers) -> None:
    """What a quantisation stores of a module, it stores of it in every layer where it quantises it."""
    stored: dict[str, dict[int, set[str]]] = {}
    for name, entry in entries.items():
        is_code = entry.dtype not in _PLAIN or name not in layout.shapes
        if is_code and (part := layers.split(name)) is not None:
            module, leaf = _module_of(name, layout)
            anywhere = module.replace(f"{part[0]}.{part[1]}", f"{part[0]}.*", 1)
            stored.setdefault(anywhere, {}).setdefault(part[1], set()).add(leaf)
    for module, by_layer in stored.items():
        fullest = max(by_layer.values(), key=len)
        for number, leaves in by_layer.items():
            if leaves < fullest:
                raise GrowthError(
                    f"The quantised checkpoint {str(folder)!r} holds of {module.replace('*', str(number), 1)} only "
                    f"{', '.join(sorted(leaves))}, and in another layer also {', '.join(sorted(fullest - leaves))}. "
                    "It is damaged, or lies on disk in a way that growth cannot follow."
                )


def _stands_for(name: str, known: Mapping[str, Sequence[str]], layout: HubLayout) -> bool:
    module, _, leaf = name.rpartition(".")
    beside = [other for other in known.get(module, ()) if other not in layout.shapes or other == name]
    return any(other.startswith(name) or leaf == "weight" for other in beside)


def _module_of(name: str, layout: HubLayout) -> tuple[str, str]:
    """(the module a stored tensor is about, the rest of its name): what lies below a tensor is about the tensor's."""
    parts = name.split(".")
    above = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    module = next((path for path in above if path in layout.shapes), name).rpartition(".")[0]
    return module, name[len(module) + 1 :]


def _follow(value: Any, layers: Layers, layer_map: Sequence[int]) -> Any:
    """Names of layers in settings, as entries of lists and keys of tables, follow the layer map."""
    if isinstance(value, Mapping):
        return {
            new: _follow(v, layers, layer_map) for k, v in value.items() for new in _names(str(k), layers, layer_map)
        }
    if not isinstance(value, list | tuple):
        return value
    items: list[Any] = []
    for item in value:
        items += _names(item, layers, layer_map) if isinstance(item, str) else [_follow(item, layers, layer_map)]
    return items


def _names(text: str, layers: Layers, layer_map: Sequence[int]) -> Iterator[str]:
    """What a name becomes: itself, or one for each copy of its layer."""
    for prefix in layers.prefixes:
        last = prefix.rpartition(".")[2]
        found = re.fullmatch(rf"((?:[\w.]+\.)?{re.escape(last)})\.(\d+)((?:\.[\w.*]+)?)", text)
        if found and (prefix.endswith(found[1]) or found[1].endswith(prefix)):
            yield from (f"{found[1]}.{new}{found[3]}" for new, old in enumerate(layer_map) if old == int(found[2]))
            return
    if re.search(r"\d", text) and re.search(r"^(re|\+|-):|[\\^$()\[\]|]", text):
        raise UnsupportedModelError(
            f"The quantisation names layers by a pattern, {text[:80]!r}, and growth cannot tell which of the new "
            "layers it would mean. Grow the original weights and quantise the result."
        )
    yield text
