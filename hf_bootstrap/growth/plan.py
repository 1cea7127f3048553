"""`GrowthPlan`: the grown model's config and one recipe per tensor, complete before any tensor is made.

A plan is made from configs alone (models are built on the meta device), can be printed and saved, and is
checked name by name and shape by shape. Carrying it out is for `bootstrap`.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from ..units import format_count
from .anatomy import Segment, TensorAnatomy, probe_axes
from .architecture import adds_one, build_meta, constants, final_norm, find_ties, named_tensors
from .config import GrowthConfig
from .depth import Layers, check_layers_alike, deeper_config, find_layers
from .identity import silent_tensors
from .operators import OPERATORS, Operator
from .recipe import Recipe
from .sizes import DIMENSIONS, changed_config, dimension_field, field_value, head_width, text_part, wider_fields

__all__ = ["GrowthPlan", "count_parameters", "describe_growth", "plan_growth"]

# A tensor without a correction: scale, offset, reason.
_AS_IT_IS = (1.0, 0.0, "")
# What shapes cannot say about which dimensions go together; found by certification (docs/architectures.md).
_ONE_HEAD_COUNT: tuple[str, ...] = ()
_HEADS_ARE_HIDDEN = ("helium", "olmoe")


@dataclass(frozen=True, kw_only=True)
class GrowthPlan:
    """A growth worked out in full: `print(plan)` to read it, `to_dict()` to keep it.

    Attributes:
        growth: what was asked.
        source_config, target_config: before and after.
        layer_map: the old layer of every new layer.
        factors: growth factor by dimension.
        recipes: one per tensor of the grown model, tied tensors once.
        ties: parameters of the source architecture that are another parameter, as `find_ties` gives them.
        n_params_source, n_params: total, tied parameters counted once.
        n_params_non_embedding_source, n_params_non_embedding: as `count_parameters` counts.
    """

    growth: GrowthConfig
    source_config: PreTrainedConfig
    target_config: PreTrainedConfig
    layer_map: tuple[int, ...]
    factors: Mapping[str, int]
    recipes: tuple[Recipe, ...]
    ties: Mapping[str, str]
    n_params_source: int
    n_params: int
    n_params_non_embedding_source: int
    n_params_non_embedding: int

    @property
    def operator(self) -> Operator:
        """The width method as a function."""
        method = self.growth.width_method
        return OPERATORS[method] if isinstance(method, str) else method

    def __str__(self) -> str:
        before, after = self.source_config, self.target_config
        lines = [f"Growth of {before.model_type}"]
        for dimension in ("layers", "hidden", "mlp", "heads", "kv_heads"):
            name = dimension_field(before, dimension)
            if name is not None:
                old, new = field_value(before, name), field_value(after, name)
                lines.append(f"  {name:<24}{old:>10,} -> {new:,}" if old != new else f"  {name:<24}{old:>10,}")
        for what, old, new in (
            ("parameters", self.n_params_source, self.n_params),
            ("without embeddings", self.n_params_non_embedding_source, self.n_params_non_embedding),
        ):
            lines.append(f"  {what:<24}{format_count(old):>10} -> {format_count(new)}")
        if self.growth.grows_depth:
            lines.append(f"  layers from             {_spell_method(self.growth.depth_method, self.growth.layer_map)}")
            lines.append(f"                          {', '.join(map(str, self.layer_map))}")
        counts = Counter(recipe.operator for recipe in self.recipes)
        lines.append("  tensors                 " + ", ".join(f"{n} by {name}" for name, n in sorted(counts.items())))
        lines += [f"  {r.target}: scaled by {r.scale:.6g} ({r.reason})" for r in self.recipes if r.scale not in (0, 1)]
        if silent := sum(recipe.scale == 0 for recipe in self.recipes):
            lines.append(f"  set to zero             {silent} tensors, so that copied layers add nothing until trained")
        lines.append(
            "  function                " + ("kept" if self.growth.keeps_function else "changed, or not promised")
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the configs as their own files write them."""
        return {
            "growth": describe_growth(self.growth),
            "source_config": json.loads(self.source_config.to_json_string(use_diff=False)),
            "target_config": json.loads(self.target_config.to_json_string(use_diff=False)),
            "layer_map": list(self.layer_map),
            "factors": dict(self.factors),
            "ties": dict(self.ties),
            "n_params_source": self.n_params_source,
            "n_params": self.n_params,
            "n_params_non_embedding_source": self.n_params_non_embedding_source,
            "n_params_non_embedding": self.n_params_non_embedding,
            "recipes": [recipe.to_dict() for recipe in self.recipes],
        }


def plan_growth(
    config: PreTrainedConfig,
    growth: GrowthConfig,
    *,
    model_class: type[PreTrainedModel] | None = None,
    factors: Mapping[str, int] | None = None,
) -> GrowthPlan:
    """Work out a growth from configs alone; no tensor is made.

    Args:
        config: of the source model.
        growth: what is asked.
        model_class: the source's class, for one the Auto mapping does not know.
        factors: growth factors by dimension ("hidden", "heads", "kv_heads", "mlp"), instead of `growth.width` for all.

    Raises:
        UnsupportedModelError: the architecture, or this size of it, cannot be grown so; the message names the reason.
        GrowthError: the layer map does not fit the model.
    """
    layers = find_layers(config, model_class)
    layer_map = growth.layers(layers.count)
    if factors is None:
        sizes = {d: field_value(config, f) for d in DIMENSIONS if (f := dimension_field(config, d)) is not None}
        factors = growth.factors(sizes)
    source = build_meta(config, model_class)
    deep = source
    if growth.grows_depth:
        deep = build_meta(deeper_config(config, layers, layer_map), model_class)
        check_layers_alike(source, deep, layers, layer_map)
    grown = deep
    anatomies: dict[str, TensorAnatomy] = {}
    if any(factor != 1 for factor in factors.values()):
        anatomies = probe_axes(config, model_class)
        grown = build_meta(_wider_config(deep.config, anatomies, factors), model_class)
    scales = _scales(deep, grown, layers, factors) if anatomies else {}
    method = growth.width_method if isinstance(growth.width_method, str) else _function_name(growth.width_method)
    old_names = {name: layers.old_name(name, layer_map) for name in named_tensors(grown)}
    if growth.grows_depth:
        anatomies = {**anatomies, **_per_layer_tensors(source, deep, layers, layer_map)}
    silent = _silent(deep, layers, layer_map) if growth.adds_nothing else {}
    recipes = tuple(
        _recipe(
            name,
            old_names[name],
            tuple(tensor.shape),
            anatomies.get(old_names[name]),
            factors,
            method,
            silent.get(name) or scales.get(old_names[name], _AS_IT_IS),
            layer_map,
        )
        for name, tensor in named_tensors(grown).items()
    )
    _check_shapes(recipes, named_tensors(source))
    before, after = count_parameters(source), count_parameters(grown)
    return GrowthPlan(
        growth=growth,
        source_config=source.config,
        target_config=grown.config,
        layer_map=layer_map,
        factors=dict(factors),
        recipes=recipes,
        ties=find_ties(source),
        n_params_source=before[0],
        n_params=after[0],
        n_params_non_embedding_source=before[1],
        n_params_non_embedding=after[1],
    )


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """(total, non-embedding) parameters; works on the meta device.

    Tied parameters count once. Non-embedding leaves out every embedding table, positions included, and the
    output head, the convention of scaling laws (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    """
    head = model.get_output_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    outside = {id(p) for m in tables for p in m.parameters()}
    sizes = {id(p): p.numel() for p in model.parameters()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key not in outside)


def describe_growth(growth: GrowthConfig) -> dict[str, Any]:
    """The growth as JSON types even where a method is a function, which is then named but cannot be read back."""
    record = {field.name: getattr(growth, field.name) for field in dataclasses.fields(growth)}
    record["layer_map"] = None if growth.layer_map is None else list(growth.layer_map)
    return {k: v if not callable(v) else _function_name(v) for k, v in record.items()}


def _wider_config(
    config: PreTrainedConfig, anatomies: Mapping[str, TensorAnatomy], factors: Mapping[str, int]
) -> PreTrainedConfig:
    changes = wider_fields(config, factors)
    latent = field_value(config, text_part(config) + "kv_lora_rank")
    if (latent or config.model_type in _ONE_HEAD_COUNT) and len({factors[d] for d in ("heads", "kv_heads")}) > 1:
        raise UnsupportedModelError(
            f"{config.model_type} has as many key/value heads as query heads by construction, so both grow by the same "
            f"factor; asked were {dict(factors)}."
        )
    if config.model_type in _HEADS_ARE_HIDDEN and factors["hidden"] != factors["heads"]:
        raise UnsupportedModelError(
            f"{config.model_type} reads its heads as hidden channels, so both grow by the same factor; asked were "
            f"{dict(factors)}."
        )
    named = {segment.dimension for a in anatomies.values() for axis in a.axes for segment in axis}
    if "heads" in named:  # the head width is a number of its own: say it, or it would be derived anew
        changes[text_part(config) + "head_dim"] = head_width(config)
    elif dimension_field(config, "heads") is None:
        pass
    elif factors["hidden"] != factors["heads"] or factors["heads"] != factors.get("kv_heads", factors["heads"]):
        raise UnsupportedModelError(
            f"{config.model_type} derives the head width from hidden size / heads, so both must grow by the same "
            f"factor; asked were {dict(factors)}."
        )
    return changed_config(config, changes)


def _recipe(
    target: str,
    source: str,
    shape: tuple[int, ...],
    anatomy: TensorAnatomy | None,
    factors: Mapping[str, int],
    method: str,
    correction: tuple[float, float, str],
    layer_map: tuple[int, ...],
) -> Recipe:
    scale, offset, reason = correction
    if anatomy is None:
        return Recipe(target=target, source=source, shape=shape, scale=scale, offset=offset, reason=reason)
    recipe = Recipe(
        target=target,
        source=source,
        shape=shape,
        axes=anatomy.axes,
        factors=dict(factors),
        reads=anatomy.reads,
        scale=scale,
        offset=offset,
        reason=reason,
        layer_map=layer_map if any(s.dimension == "layers" for axis in anatomy.axes for s in axis) else (),
    )
    grows_input = anatomy.reads is not None and recipe.index(anatomy.reads) is not None
    return Recipe(**{**vars(recipe), "operator": method}) if grows_input else recipe


def _per_layer_tensors(
    source: PreTrainedModel, deep: PreTrainedModel, layers: Layers, layer_map: tuple[int, ...]
) -> dict[str, TensorAnatomy]:
    """Tensors outside the layers that hold a block for each layer, such as Gemma's per-layer embeddings."""
    after, found = named_tensors(deep), {}
    for name, tensor in named_tensors(source).items():
        if layers.split(name) is not None or tensor.shape == after[name].shape:
            continue
        axes = []
        for old, new in zip(tensor.shape, after[name].shape, strict=True):
            per_layer = old != new and not old % layers.count and old * len(layer_map) == new * layers.count
            block = old // layers.count if per_layer else 1
            axes.append((Segment(dimension="layers" if per_layer else None, length=old, block=block),))
        found[name] = TensorAnatomy(axes=tuple(axes))
    return found


def _silent(deep: PreTrainedModel, layers: Layers, layer_map: tuple[int, ...]) -> dict[str, tuple[float, float, str]]:
    """Corrections by target tensor that make every repeated layer add nothing."""
    inside: dict[tuple[str, int], list[str]] = {}
    for name in named_tensors(deep):
        if (part := layers.split(name)) and layer_map[part[1]] in layer_map[: part[1]]:
            inside.setdefault(part[:2], []).append(part[2])
    silent = {}
    for (prefix, number), names in inside.items():
        for name, is_norm in silent_tensors(names, deep.config.model_type).items():
            full = f"{prefix}.{number}.{name}"
            one = is_norm and name.endswith("weight") and adds_one(deep.get_submodule(full.rpartition(".")[0]))
            silent[full] = (0.0, 1.0 if one else 0.0, "the copied layer adds nothing until it is trained")
    return silent


def _scales(
    deep: PreTrainedModel, grown: PreTrainedModel, layers: Layers, factors: Mapping[str, int]
) -> dict[str, tuple[float, float, str]]:
    """Corrections by source tensor: (scale, offset, reason)."""
    table_scale = _embedding_scale(deep, grown)
    scales: dict[str, tuple[float, float, str]] = {}
    embedding, head = deep.get_input_embeddings(), deep.get_output_embeddings()
    names = {id(p): name for name, p in reversed(list(deep.named_parameters()))}
    table = names[id(embedding.weight)]
    if table_scale != 1:
        scales[table] = (1 / table_scale, 0.0, "the architecture multiplies the table by a constant of the hidden size")
    if head is not None and head.weight is embedding.weight:
        # The head reads the table's copies, which are whole copies and no shares; the norm before it makes up.
        path = final_norm(deep, layers.prefixes)
        norm = deep.get_submodule(path)
        for name, _ in norm.named_parameters():
            offset = 1.0 if name == "weight" and adds_one(norm) else 0.0
            scales[f"{path}.{name}"] = (
                table_scale / factors["hidden"],
                offset,
                "the output head is tied and reads copies",
            )
    return scales


def _embedding_scale(deep: PreTrainedModel, grown: PreTrainedModel) -> float:
    """How much larger the constant on the token table becomes.

    Raises:
        UnsupportedModelError: another constant depends on the width.
    """
    before, after = constants(deep), constants(grown)
    changed = {k: (v, after[k]) for k, v in before.items() if isinstance(v, float) and k in after and after[k] != v}
    scale = 1.0
    for name, (old, new) in changed.items():
        if deep.get_submodule(name.rpartition(".")[0]) is not deep.get_input_embeddings():
            raise UnsupportedModelError(
                f"{deep.config.model_type} computes {name} from its width: it would go from {old} to {new} and change "
                "the function, and growth does not know how to make up for it."
            )
        # The model multiplies by the constant rounded to its dtype: 55.43 is 55.5 in bfloat16.
        dtype = deep.config.dtype if isinstance(deep.config.dtype, torch.dtype) else torch.float32
        old, new = (torch.tensor(value, dtype=dtype).double().item() for value in (old, new))
        scale *= new / old
    return scale


def _check_shapes(recipes: tuple[Recipe, ...], tensors: Mapping[str, Tensor]) -> None:
    """The promise of a plan: what the recipes make is what the architecture builds, name by name, shape by shape."""
    for recipe in recipes:
        if recipe.source not in tensors:
            raise UnsupportedModelError(f"The grown model has {recipe.target}, but the source has no {recipe.source}.")
        made = tuple(
            length if (index := recipe.index(axis)) is None else len(index)
            for axis, length in enumerate(tensors[recipe.source].shape)
        )
        if made != recipe.shape:
            raise UnsupportedModelError(
                f"{recipe.target} would be made {list(made)}, but the architecture builds it {list(recipe.shape)}. "
                "This architecture cannot be grown so."
            )


def _function_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _spell_method(method: Any, layer_map: tuple[int, ...] | None) -> str:
    if layer_map is not None:
        return "the given layer map"
    return method if isinstance(method, str) else _function_name(method)
