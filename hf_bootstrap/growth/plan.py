"""`GrowthPlan`: the grown model's config and one recipe per tensor, complete before any tensor is made.

A plan is made from configs alone (models are built on the meta device), can be printed and saved, and is
checked name by name and shape by shape. Carrying it out is for `bootstrap`.
"""

import copy
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from ..units import format_count
from .anatomy import Segment, TensorAnatomy
from .architecture import build_meta, find_ties, named_tensors
from .config import GrowthConfig
from .corrections import AS_IT_IS, Correction, silent_corrections
from .depth import Layers, check_layers_alike, deeper_config, find_layers
from .learning_rate import LearningRateAdvice, advise_learning_rate
from .operators import Operator, width_method
from .recipe import Recipe
from .sizes import dimension_field, field_value
from .widening import checked_factors, widen

__all__ = ["NEARLY", "GrowthPlan", "count_parameters", "describe_growth", "plan_growth", "whole_shape"]

# The drift of logits, relative to the largest, allowed where a plan names deviations. (Epsilons that differ by 1e-5 of
# a mean square of about one move a norm by 1e-5; a wrong map moves logits by more than 1e-2.)
NEARLY = 1e-3


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
        deviations: why a method that keeps the function keeps it only nearly here; mostly empty.
        n_params_source, n_params: total, tied parameters counted once.
        n_params_non_embedding_source, n_params_non_embedding: as `count_parameters` counts.
    """

    growth: GrowthConfig
    source_config: PreTrainedConfig
    target_config: PreTrainedConfig
    layer_map: tuple[int, ...]
    factors: Mapping[str, int | Fraction]
    recipes: tuple[Recipe, ...]
    ties: Mapping[str, str]
    n_params_source: int
    n_params: int
    n_params_non_embedding_source: int
    n_params_non_embedding: int
    deviations: tuple[str, ...] = ()

    @property
    def operator(self) -> Operator:
        """The width method as a function."""
        return width_method(self.growth.width_method)

    @property
    def learning_rate(self) -> LearningRateAdvice:
        """What the learning rate should become, and why."""
        fresh = width_method(self.growth.width_method).fresh
        return advise_learning_rate(self.recipes, deeper=self.growth.grows_depth, fresh=fresh)

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
        lines += [f"                          nearly: {why}" for why in self.deviations]
        lines.append(f"  learning rate           {self.learning_rate}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the configs as their own files write them."""
        return {
            "growth": describe_growth(self.growth),
            "source_config": json.loads(self.source_config.to_json_string(use_diff=False)),
            "target_config": json.loads(self.target_config.to_json_string(use_diff=False)),
            "layer_map": list(self.layer_map),
            "factors": {d: f if isinstance(f, int) else float(f) for d, f in self.factors.items()},
            "ties": dict(self.ties),
            "n_params_source": self.n_params_source,
            "n_params": self.n_params,
            "n_params_non_embedding_source": self.n_params_non_embedding_source,
            "n_params_non_embedding": self.n_params_non_embedding,
            "deviations": list(self.deviations),
            "learning_rate": self.learning_rate.to_dict(),
            "recipes": [recipe.to_dict() for recipe in self.recipes],
        }


def plan_growth(
    config: PreTrainedConfig,
    growth: GrowthConfig,
    *,
    model_class: type[PreTrainedModel] | None = None,
    factors: Mapping[str, int | Fraction] | None = None,
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
    if growth.dtype is not None:
        config = copy.deepcopy(config)
        config.dtype = getattr(torch, growth.dtype)
    layers = find_layers(config, model_class)
    layer_map, method = growth.layers(layers.count), width_method(growth.width_method)
    factors = checked_factors(config, growth, method, factors)
    source = build_meta(config, model_class)
    deep = source
    if growth.grows_depth:
        deep = build_meta(deeper_config(config, layers, layer_map), model_class)
        check_layers_alike(source, deep, layers, layer_map)
    wide = widen(deep, config, model_class, factors, method, layers)
    anatomies = wide.anatomies
    if growth.grows_depth:
        anatomies = {**anatomies, **_per_layer_tensors(source, deep, layers, layer_map)}
    corrections = {
        name: wide.corrections[old]
        for name in named_tensors(wide.model)
        if (old := layers.old_name(name, layer_map)) in wide.corrections
    }
    if growth.adds_nothing:
        corrections |= silent_corrections(deep, layers, layer_map)
    recipes = _recipes(source, wide.model, growth, layers, layer_map, anatomies, factors, corrections, wide.fills)
    _check_shapes(recipes, named_tensors(source))
    before, after = count_parameters(source), count_parameters(wide.model)
    return GrowthPlan(
        growth=growth,
        source_config=source.config,
        target_config=wide.model.config,
        layer_map=layer_map,
        factors=dict(factors),
        recipes=recipes,
        ties=find_ties(source),
        n_params_source=before[0],
        n_params=after[0],
        n_params_non_embedding_source=before[1],
        n_params_non_embedding=after[1],
        deviations=wide.deviations,
    )


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """(total, non-embedding) parameters; works on the meta device.

    Tied parameters count once. Non-embedding leaves out every embedding table, positions included, and the
    output head, the convention of scaling laws (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    """
    head = model.get_output_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    outside = {id(p) for m in tables for p in m.parameters()}
    sizes = {id(p): math.prod(whole_shape(p)) for p in model.parameters()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key not in outside)


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter; under DeepSpeed ZeRO-3, which leaves none of it to see, that of the whole."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def describe_growth(growth: GrowthConfig) -> dict[str, Any]:
    """The growth as JSON types even where a method is a function, which is then named but cannot be read back."""
    record = {field.name: getattr(growth, field.name) for field in dataclasses.fields(growth)}
    record["layer_map"] = None if growth.layer_map is None else list(growth.layer_map)
    return {k: v if not callable(v) else _function_name(v) for k, v in record.items()}


def _recipes(
    source: PreTrainedModel,
    grown: PreTrainedModel,
    growth: GrowthConfig,
    layers: Layers,
    layer_map: tuple[int, ...],
    anatomies: Mapping[str, TensorAnatomy],
    factors: Mapping[str, int | Fraction],
    corrections: Mapping[str, Correction],
    fills: Mapping[str, tuple[str, ...]],
) -> tuple[Recipe, ...]:
    method = width_method(growth.width_method)
    title = growth.width_method if isinstance(growth.width_method, str) else _function_name(growth.width_method)
    dtype = None if growth.dtype is None else getattr(torch, growth.dtype)
    heads = field_value(source.config, str(dimension_field(source.config, "heads"))) or 1
    kv_heads = field_value(source.config, str(dimension_field(source.config, "kv_heads"))) or heads
    tensors, recipes = named_tensors(source), []
    for name, tensor in named_tensors(grown).items():
        old = layers.old_name(name, layer_map)
        scale, offset, reason = corrections.get(name, AS_IT_IS)
        recipe = Recipe(
            target=name, source=old, shape=tuple(tensor.shape), scale=scale, offset=offset, reason=reason, dtype=dtype
        )
        if (anatomy := anatomies.get(old)) is not None:
            recipe = replace(recipe, axes=anatomy.axes, factors=dict(factors), reads=anatomy.reads)
            if any(s.dimension == "layers" for axis in anatomy.axes for s in axis):
                recipe = replace(recipe, layer_map=layer_map)
            recipe = replace(recipe, fills=fills.get(old, ()), kv_heads=kv_heads)
            grows = [recipe.index(axis) is not None for axis in range(len(recipe.axes))]
            if (anatomy.reads is not None and grows[anatomy.reads]) or (recipe.fills and any(grows)):
                recipe = replace(recipe, operator=title)
            writes = any(grow for axis, grow in enumerate(grows) if axis != anatomy.reads)
            if method.next_layer and writes and not anatomy.is_norm:
                recipe = replace(recipe, after=_in_next_layer(old, tensors, layers))
        elif dtype is not None:  # in pieces, like everything else that is made
            axes = tuple((Segment(dimension=None, length=length),) for length in tensor.shape)
            recipe = replace(recipe, axes=axes)
        recipes.append(recipe)
    return tuple(recipes)


def _in_next_layer(name: str, tensors: Mapping[str, Tensor], layers: Layers) -> str | None:
    """The same tensor of the next layer, for the last one of the layer before; None where neither has its shape."""
    if (part := layers.split(name)) is None:
        return None
    names = [f"{part[0]}.{part[1] + step}.{part[2]}" for step in (1, -1)]
    return next((n for n in names if n in tensors and tensors[n].shape == tensors[name].shape), None)


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


def _check_shapes(recipes: tuple[Recipe, ...], tensors: Mapping[str, Tensor]) -> None:
    """The promise of a plan: what the recipes make is what the architecture builds, name by name, shape by shape."""
    for recipe in recipes:
        if recipe.source not in tensors:
            raise UnsupportedModelError(
                f"The grown model has {recipe.target}, but the source has no {recipe.source}. It cannot be grown so."
            )
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
