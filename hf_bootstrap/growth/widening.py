"""What width growth adds to a plan: the wider config, what every axis is, what is scaled, what new units hold.

Which tensor is made from which is for `plan`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .anatomy import TensorAnatomy, probe_axes
from .architecture import build_meta
from .config import SIZE_FIELDS, GrowthConfig
from .corrections import AS_IT_IS, Correction, table_corrections
from .depth import Layers
from .operators import WidthMethod
from .padding import fills_of, norm_corrections, norm_epsilons, separate_parts, subtracts_mean, unequal_epsilons
from .sizes import DIMENSIONS, changed_config, dimension_field, field_value, head_width, text_part, wider_fields

__all__ = ["Wide", "checked_factors", "widen"]

# What shapes cannot say about which dimensions go together; found by certification (docs/architectures.md).
_ONE_HEAD_COUNT: tuple[str, ...] = ()
_HEADS_ARE_HIDDEN = ("bitnet", "helium", "olmoe")


@dataclass(frozen=True, kw_only=True)
class Wide:
    """What width growth adds to a plan.

    Attributes:
        model: the grown one, on the meta device.
        anatomies: by tensor name of the source; empty without width growth.
        corrections: by tensor name of the source.
        fills: by tensor name of the source, as `Recipe.fills`; empty where new units are copies.
        deviations: as `GrowthPlan.deviations`.
    """

    model: PreTrainedModel
    anatomies: Mapping[str, TensorAnatomy]
    corrections: Mapping[str, Correction]
    fills: Mapping[str, tuple[str, ...]]
    deviations: tuple[str, ...]


def widen(
    deep: PreTrainedModel,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel] | None,
    factors: Mapping[str, int | Fraction],
    method: WidthMethod,
    layers: Layers,
) -> Wide:
    """Work out growth in width.

    Args:
        deep: the model after growth in depth, on the meta device.
        config, model_class: of the source.
        factors: from `checked_factors`.
        method: the width method.
        layers: of the source.

    Raises:
        UnsupportedModelError: the architecture, or this size of it, cannot be made wider so.
    """
    if all(factor == 1 for factor in factors.values()):
        return Wide(model=deep, anatomies={}, corrections={}, fills={}, deviations=())
    anatomies = probe_axes(config, model_class)
    target = _wider_config(deep.config, anatomies, factors)
    grown = build_meta(target, model_class)
    scales = table_corrections(deep, grown, layers, factors, copies=not method.fresh)
    if not method.fresh:
        return Wide(model=grown, anatomies=anatomies, corrections=scales, fills={}, deviations=())
    source = build_meta(config, model_class)
    anatomies = separate_parts(config, anatomies, factors)
    grown = build_meta(changed_config(target, norm_epsilons(target, factors)), model_class)
    for name, (scale, offset, reason) in norm_corrections(source, anatomies, factors).items():
        earlier = scales.get(name, AS_IT_IS)
        scales[name] = (scale * earlier[0], offset, reason)
    wrong = unequal_epsilons(source, grown, anatomies, factors)
    why = f"the epsilon of {len(wrong)} norms, such as {wrong[0]}, cannot follow the stream's" if wrong else ""
    centred = subtracts_mean(source, anatomies)
    fills = {name: fills_of(name, anatomy, centred=centred) for name, anatomy in anatomies.items()}
    return Wide(model=grown, anatomies=anatomies, corrections=scales, fills=fills, deviations=(why,) if why else ())


def checked_factors(
    config: PreTrainedConfig,
    growth: GrowthConfig,
    method: WidthMethod,
    factors: Mapping[str, int | Fraction] | None,
) -> dict[str, int | Fraction]:
    """The growth factor of every dimension, asked for or given.

    Raises:
        GrowthError: sizes that cannot be.
    """
    sizes = {d: field_value(config, f) for d in DIMENSIONS if (f := dimension_field(config, d)) is not None}
    found = dict(growth.factors(sizes) if factors is None else factors)
    if method.fresh and "kv_heads" not in sizes:
        found["kv_heads"] = found["heads"]
    if method.fresh and found["heads"] < found["kv_heads"]:
        raise UnsupportedModelError(
            f"{config.model_type}: with {found['heads']} times the heads and {found['kv_heads']} times the key/value "
            "heads, fewer heads would share one, and an old head read another. Add as many of both, or more heads."
        )
    return found


def _wider_config(
    config: PreTrainedConfig, anatomies: Mapping[str, TensorAnatomy], factors: Mapping[str, int | Fraction]
) -> PreTrainedConfig:
    changes = wider_fields(config, factors)
    latent = field_value(config, text_part(config) + "kv_lora_rank")
    if (latent or config.model_type in _ONE_HEAD_COUNT) and len({factors[d] for d in ("heads", "kv_heads")}) > 1:
        why = "has as many key/value heads as query heads by construction"
        raise UnsupportedModelError(_unequal(config, factors, ("heads", "kv_heads"), why))
    if config.model_type in _HEADS_ARE_HIDDEN and factors["hidden"] != factors["heads"]:
        raise UnsupportedModelError(
            _unequal(config, factors, ("hidden", "heads"), "reads its heads as hidden channels")
        )
    named = {segment.dimension for a in anatomies.values() for axis in a.axes for segment in axis}
    if "heads" in named:  # the head width is a number of its own: say it, or it would be derived anew
        changes[text_part(config) + "head_dim"] = head_width(config)
    elif dimension_field(config, "heads") is None:
        pass
    elif factors["hidden"] != factors["heads"] or factors["heads"] != factors.get("kv_heads", factors["heads"]):
        why = "derives the head width from hidden size / heads"
        raise UnsupportedModelError(_unequal(config, factors, ("hidden", "heads", "kv_heads"), why))
    return changed_config(config, changes)


def _unequal(
    config: PreTrainedConfig, factors: Mapping[str, int | Fraction], dimensions: tuple[str, ...], why: str
) -> str:
    """Which sizes were asked for, why they must grow by one factor, and the nearest that do."""
    old = {d: int(field_value(config, f)) for d in dimensions if (f := dimension_field(config, d)) is not None}
    asked = ", ".join(f"{SIZE_FIELDS[d]} from {size:,} to {int(size * factors[d]):,}" for d, size in old.items())
    whole = [f for f in {factors[d] for d in old} if all((size * f).denominator == 1 for size in old.values())]
    nearest = " and ".join(f"{SIZE_FIELDS[d]}={int(size * max(whole, default=2))}" for d, size in old.items())
    return f"{config.model_type} {why}, so these grow by the same factor; asked is {asked}. Nearest is {nearest}."
