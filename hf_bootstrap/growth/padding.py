"""New units that are no copies: what they hold so that nobody hears them at first, and what norms then need.

Units inside a layer (of the MLP, heads) are random and read with weight zero. Channels of the residual stream are the
other way round, because a norm hears them all: they stay zero until they are trained, or equal to the mean of the
old ones where norms subtract the mean, and are read with random weights.

A norm over D' channels of which D speak divides by a root mean square that is smaller by eta = sqrt(D / D'); its weight
times eta, and its epsilon times eta squared, give what it gave.

Source: LEMON, Wang et al. 2023, arXiv:2310.07999, section 3.2; MSG, Yao et al. 2023, arXiv:2305.02869.
"""

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .anatomy import SEAMS, Segment, TensorAnatomy
from .architecture import OF_EMBEDDING, adds_one, constants, is_norm
from .identity import is_writer, normalises_sum
from .sizes import DIMENSIONS, dimension_field, field_value, text_part, wider_fields

__all__ = [
    "NOT_PADDED",
    "eta_of",
    "fills_of",
    "norm_corrections",
    "norm_epsilons",
    "separate_parts",
    "subtracts_mean",
    "unequal_epsilons",
]

_EPSILON = re.compile(r"(rms_|layer_?)?norm_?eps(ilon)?|layer_?norm_epsilon|norm_epsilon|eps")
_EPSILON_OF_MODULE = ("eps", "variance_epsilon", "epsilon", "norm_eps")
# Types whose new units would be heard, and why. They are found by certification (docs/architectures.md), and stand here
# so that the reason is given before anything is made.
NOT_PADDED: dict[str, str] = {
    "bitnet": "it normalises all heads together, so new ones would be heard by the old ones",
    "codegen": "its queries, values and keys lie in four blocks one after the other, which shapes do not show",
    "megatron-bert": "an activation before the norm of its head does not keep the mean of old channels",
    "modernbert-decoder": "an activation before the norm of its head does not keep the mean of old channels",
    "xlm-roberta-xl": "an activation before the norm of its head does not keep the mean of old channels",
}

# A norm that looks at one head, or at all of them together, and not at the stream.
_OF_HEAD = re.compile(r"(q|k|qk|query|key|value|v)_?(layer)?_?norm(_fn)?")


def eta_of(factors: Mapping[str, int | Fraction]) -> float:
    """How much smaller the root mean square of the stream gets: sqrt(D / D')."""
    return math.sqrt(1 / Fraction(factors["hidden"]))


def separate_parts(
    config: PreTrainedConfig, anatomies: Mapping[str, TensorAnatomy], factors: Mapping[str, int | Fraction]
) -> dict[str, TensorAnatomy]:
    """Anatomies in which no segment holds several parts that lie one after the other, such as gate and up.

    Copies need no such thing, since each unit stays beside its copy. New units go to the end of each part.

    Raises:
        UnsupportedModelError: a segment whose parts cannot be told.
    """
    sizes = {d: field_value(config, f) for d in DIMENSIONS if (f := dimension_field(config, d)) is not None}
    record = (field_value(config, text_part(config).rstrip(".")) if text_part(config) else config).to_dict()
    widths = {
        record[f.rpartition(".")[2]]
        for f in wider_fields(config, {**dict.fromkeys(DIMENSIONS, 1), "mlp": 2})
        if record.get(f.rpartition(".")[2]) not in (None, sizes["hidden"]) or f == dimension_field(config, "mlp")
    }
    widths = {width for width in widths if isinstance(width, int)}
    found = {}
    for name, anatomy in anatomies.items():
        axes = tuple(
            tuple(part for s in axis for part in _parts(config, name, s, sizes, widths, factors))
            for axis in anatomy.axes
        )
        found[name] = replace(anatomy, axes=axes)
    return found


def _parts(
    config: PreTrainedConfig,
    name: str,
    segment: Segment,
    sizes: Mapping[str, int],
    widths: set[int],
    factors: Mapping[str, int | Fraction],
) -> tuple[Segment, ...]:
    dimension, length, block = segment.dimension, segment.length, segment.block
    if dimension is None or factors.get(dimension, 1) == 1:
        return (segment,)
    units = length // block
    if dimension == "hidden":
        fused = length // sizes["hidden"] if name.split(".")[-2] in SEAMS else 1
        count, rest = divmod(length, sizes["hidden"] * fused)
    elif dimension == "mlp":
        halves = re.search(r"gate_?(and_?)?up|up_?gate", name) is not None and block == 1
        one, two = units in widths, units % 2 == 0 and units // 2 in widths
        count = 2 if halves or (two and not one) else 1
        rest = 0 if halves or one != two else 1
    else:
        count, rest = divmod(units, sizes[dimension])
    if rest or not count:
        raise UnsupportedModelError(
            f"{config.model_type}: {name} has {units:,} units that follow {dimension}, and shapes do not show in how "
            "many parts they lie, so zero_pad does not know where new ones go. Choose split, or leave this size."
        )
    return (replace(segment, length=length // count),) * count


def fills_of(name: str, anatomy: TensorAnatomy, *, centred: bool) -> tuple[str, ...]:
    """What new units of a tensor hold on each axis, as `Recipe.fills`.

    Args:
        name: of the tensor in the model.
        anatomy: of the tensor.
        centred: whether the norms of the stream subtract the mean, as `subtracts_mean` finds.
    """
    if anatomy.is_norm:
        return ("zero" if name.endswith("bias") else "copy",) * len(anatomy.axes)
    silent = "mean" if centred else "zero"
    follows = [{segment.dimension for segment in axis} for axis in anatomy.axes]
    if len(anatomy.axes) == 1:
        return (silent if follows[0] == {"hidden"} and name.endswith("bias") else "copy",)
    both = sum("hidden" in dimensions for dimensions in follows) > 1
    writes = is_writer(name)
    fills = []
    for axis, dimensions in enumerate(follows):
        stream = dimensions == {"hidden"} or ("hidden" in dimensions and None in dimensions)
        if both:  # heads are hidden channels too: the name tells which axis is which
            stream = (axis == anatomy.reads) != writes
        if anatomy.reads is None or axis != anatomy.reads:
            fills.append(silent if stream else "random")
        else:
            fills.append("random" if stream else "zero")
    return tuple(fills)


def norm_corrections(
    deep: PreTrainedModel, anatomies: Mapping[str, TensorAnatomy], factors: Mapping[str, int | Fraction]
) -> dict[str, tuple[float, float, str]]:
    """By tensor: the scale that makes each norm over the wider stream give what it gave, its offset, and why.

    Raises:
        UnsupportedModelError: a norm whose scale cannot be corrected, or norms of both kinds.
    """
    model_type, eta = deep.config.model_type, eta_of(factors)
    if factors["mlp"] != 1 and _norm_over(anatomies, ("mlp",)):
        raise UnsupportedModelError(
            f"{model_type} normalises the units of its MLP together, so new ones would be heard by the old ones. "
            "Choose split, or leave intermediate_size."
        )
    if reason := NOT_PADDED.get(model_type):
        raise UnsupportedModelError(f"{model_type}: {reason}. zero_pad cannot make it wider; choose split.")
    if _norm_over(anatomies, ("heads", "kv_heads")) and (factors["heads"] != 1 or factors.get("kv_heads", 1) != 1):
        raise UnsupportedModelError(
            f"{model_type} normalises all heads together, so new heads would be heard by the old ones. zero_pad cannot "
            "add heads here; grow the others, or choose split."
        )
    if factors["hidden"] == 1:
        return {}
    if normalises_sum(anatomies, model_type):
        raise UnsupportedModelError(
            f"{model_type} normalises the sum of its stream and each branch, so new channels cannot stay silent. "
            "Choose split, or leave hidden_size."
        )
    if subtracts_mean(deep, anatomies) and any(OF_EMBEDDING.search(path) for path in _stream_norms(deep, anatomies)):
        raise UnsupportedModelError(
            f"{model_type} normalises its embeddings, and what that norm writes has another mean than it reads, so new "
            "channels cannot hold the mean of the old ones. Choose split, or leave hidden_size."
        )
    for path, module in deep.named_modules():
        if is_norm(module) and not list(module.parameters()) and not _OF_HEAD.fullmatch(path.rpartition(".")[2]):
            raise UnsupportedModelError(
                f"{model_type} has a norm without weights ({path}), whose scale cannot be corrected for silent "
                "channels. Choose split, or leave hidden_size."
            )
    kinds = {_subtracts_mean(m) for m in _stream_norms(deep, anatomies).values()}
    if len(kinds) != 1:
        what = "has no norm over its stream" if not kinds else "has norms that subtract the mean, and norms that do not"
        raise UnsupportedModelError(
            f"{model_type} {what}, so channels cannot be silent for all of them. Choose split, or leave hidden_size."
        )
    reason = "a norm over channels of which only the old ones speak"
    return {
        name: (eta, 1.0 if adds_one(deep.get_submodule(name.rpartition(".")[0])) else 0.0, reason)
        for name, anatomy in anatomies.items()
        if anatomy.is_norm and name.endswith("weight") and anatomy.axes[0][0].dimension == "hidden"
    }


def subtracts_mean(deep: PreTrainedModel, anatomies: Mapping[str, TensorAnatomy]) -> bool:
    """Whether the norms over the stream subtract the mean, as LayerNorm does."""
    return any(_subtracts_mean(norm) for norm in _stream_norms(deep, anatomies).values())


def norm_epsilons(config: PreTrainedConfig, factors: Mapping[str, int | Fraction]) -> dict[str, float]:
    """The config's epsilons, by dotted name, for a wider stream: times eta squared."""
    part = text_part(config)
    record = (field_value(config, part.rstrip(".")) if part else config).to_dict()
    return {
        part + name: value / float(factors["hidden"])
        for name, value in record.items()
        if isinstance(value, float) and _EPSILON.fullmatch(name) and factors["hidden"] != 1
    }


def unequal_epsilons(
    deep: PreTrainedModel,
    grown: PreTrainedModel,
    anatomies: Mapping[str, TensorAnatomy],
    factors: Mapping[str, int | Fraction],
) -> tuple[str, ...]:
    """Norms whose epsilon is not what keeps the function exactly, such as those of heads that share the stream's.

    Raises:
        UnsupportedModelError: one whose input may be as small as an epsilon, so that the change is felt.
    """
    before, after = constants(deep), constants(grown)
    stream, wrong = _stream_norms(deep, anatomies), []
    for path, module in deep.named_modules():
        if not is_norm(module):
            continue
        for name in (f"{path}.{leaf}" for leaf in _EPSILON_OF_MODULE):
            if isinstance(before.get(name), float) and name in after:
                due = before[name] / (float(factors["hidden"]) if path in stream else 1)
                if not math.isclose(after[name], due, rel_tol=1e-6):
                    wrong.append(path)
    # Heads are projections of the normalised stream, about as large as it: there it is felt as 1e-5 at most.
    felt = [path for path in wrong if path not in stream and not _OF_HEAD.fullmatch(path.rpartition(".")[2])]
    if felt:
        raise UnsupportedModelError(
            f"{deep.config.model_type} has one epsilon for the norms of its stream and for {felt[0]}, whose input may "
            "be as small as an epsilon, and a wider stream needs a smaller one. Choose split, or leave hidden_size."
        )
    return tuple(wrong)


def _stream_norms(deep: PreTrainedModel, anatomies: Mapping[str, TensorAnatomy]) -> dict[str, nn.Module]:
    return {
        (path := name.rpartition(".")[0]): deep.get_submodule(path)
        for name, anatomy in anatomies.items()
        if anatomy.is_norm and anatomy.axes[0][0].dimension == "hidden"
    }


def _norm_over(anatomies: Mapping[str, TensorAnatomy], dimensions: tuple[str, ...]) -> bool:
    return any(
        a.is_norm
        and any(s.dimension in dimensions and (s.block > 1 or s.dimension == "mlp") for axis in a.axes for s in axis)
        for a in anatomies.values()
    )


def _subtracts_mean(norm: nn.Module) -> bool:
    """Whether a norm answers the same to a vector and to the vector plus a constant; it may be on the meta device."""
    probe: Any = copy.deepcopy(norm).to_empty(device="cpu").float()
    for parameter in probe.parameters():
        nn.init.ones_(parameter)
    vector = torch.linspace(-1, 1, next(probe.parameters()).shape[-1]).square().reshape(1, 1, -1)
    with torch.no_grad():
        return bool(torch.allclose(probe(vector), probe(vector + 3), atol=1e-3))
