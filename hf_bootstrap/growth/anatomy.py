"""Names every axis of every tensor of an architecture, by building it on the meta device and comparing shapes.

No table of tensor names: a model is built at its own size and at a size where every dimension grew by a
different factor, and the factor found on an axis names it. Nothing is identified by its length at real sizes,
where different dimensions are often equal. What to do with the axes is for `plan`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import UnsupportedModelError
from .architecture import build_meta, is_norm, named_tensors
from .sizes import DIMENSIONS, changed_config, dimension_field, field_value, head_width, text_part, wider_fields

__all__ = ["NOT_WIDENED", "SEAMS", "Axis", "Segment", "TensorAnatomy", "probe_axes"]

# Probe factors. The factors an axis can show are these, and where the architecture derives the head width from
# hidden / heads (so that it grows by 30 / 6), kv heads by 2 * 5 and the head width itself by 5: all different.
# Divisibility that architectures ask for holds: hidden by heads, heads by key/value heads.
_PROBE = {"hidden": 30, "heads": 6, "kv_heads": 2, "mlp": 7}
_DERIVED_KV, _DERIVED_HEAD_WIDTH = 10, 5

# What shapes cannot say: parts of a head that stay together on a fused axis, by the name of the module that writes it.
# Parts that lie one after the other need no entry: each is widened where it lies.
SEAMS: dict[str, int] = {"query_key_value": 3}

# Architectures whose function no copying of channels keeps, and why. They are found by certification
# (docs/architectures.md), and stand here so that the reason is given before anything is made.
NOT_WIDENED: dict[str, str] = {
    "bloom": "its ALiBi slopes are computed from the number of heads, so a copied head gets another slope.",
    "ctrl": "it multiplies embeddings by the square root of the hidden size inside its forward pass.",
    "dbrx": "its experts lie one after the other in one matrix, and shapes do not show which axis reads.",
    "deepseek_v4": "its hyper-connections mix several residual streams, and copies of channels do not keep that.",
    "diffllama": "it subtracts the second half of its heads from the first, and copies lie next to each other.",
    "gemma3n": "its AltUp routers scale by the hidden size in a buffer that no checkpoint holds.",
    "gemma3n_text": "its AltUp routers scale by the hidden size in a buffer that no checkpoint holds.",
    "hy_v4": "its hyper-connections mix several residual streams, and copying channels was measured not to keep that.",
    "inkling2_text": "its layers weigh earlier ones by a query over the hidden size, whose copies would count twice.",
    "mimo_v2_flash": "its sliding layers have twice the key/value heads its config states, which shapes do not show.",
    "xglm": "its positions are sines over the hidden size, whose copies would get other ones.",
    "xlstm": "the sizes of its matrix memory follow the hidden size in its forward pass.",
}

# Names of the expert weights that write to the residual stream.
_DOWN = ("down", "w2", "fc2", "output_linear", "wo")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of an axis that follows one dimension.

    Attributes:
        dimension: "hidden", "heads", "kv_heads" or "mlp"; None for what width growth leaves alone.
        length: before growth.
        block: units that must stay together, such as the channels of a head.
    """

    dimension: str | None
    length: int
    block: int = 1


Axis = tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class TensorAnatomy:
    """What the axes of one tensor are.

    Attributes:
        axes: one per axis of the tensor.
        reads: the axis on which the tensor reads a vector (its copies share weights); None if it only writes.
        is_embedding: a table that is looked up.
        is_norm: weight or bias of a normalisation.
    """

    axes: tuple[Axis, ...]
    reads: int | None = None
    is_embedding: bool = False
    is_norm: bool = False


def probe_axes(config: PreTrainedConfig, model_class: type[PreTrainedModel] | None = None) -> dict[str, TensorAnatomy]:
    """Name every axis of every parameter and persistent buffer.

    Returns:
        Anatomy by tensor name; tied names once, under the first.

    Raises:
        UnsupportedModelError: a tensor whose axes cannot be told, and why.
    """
    if reason := NOT_WIDENED.get(config.model_type) or _position_bias(config):
        raise UnsupportedModelError(f"{config.model_type} cannot be made wider: {reason} Grow it in depth.")
    sizes = {d: field_value(config, f) for d in DIMENSIONS if (f := dimension_field(config, d)) is not None}
    if "hidden" not in sizes:
        raise UnsupportedModelError(
            f"{config.model_type} names no hidden size, so its width is not known. Grow it in depth."
        )
    changes = wider_fields(config, _PROBE)
    width = head_width(config) if "heads" in sizes else 1
    if _may_write_head_dim(config):
        changes[text_part(config) + "head_dim"] = width
    model = build_meta(config, model_class)
    larger = _shapes(build_meta(changed_config(config, changes), model_class))
    shapes = _shapes(model)
    if set(larger) != set(shapes):
        odd = sorted(set(larger) ^ set(shapes))
        raise UnsupportedModelError(
            f"{config.model_type} has other tensors when it is wider, such as {odd[0]}. Grow it in depth."
        )
    probe = _Probe(model, sizes, width, shapes, larger)
    return {name: probe.tensor(name) for name in shapes}


def _position_bias(config: PreTrainedConfig) -> str:
    """Why the number of heads matters by itself; empty if it does not."""
    part = text_part(config).rstrip(".")
    record = (field_value(config, part) if part else config).to_dict()
    if record.get("alibi") or (record.get("attn_config") or {}).get("alibi"):
        return "its ALiBi slopes are computed from the number of heads, so a copied head gets another slope."
    if record.get("new_decoder_architecture"):
        return "it fuses queries, keys and values by group, which shapes do not show."
    return ""


def _may_write_head_dim(config: PreTrainedConfig) -> bool:
    part = text_part(config).rstrip(".")
    owner = field_value(config, part) if part else config
    return not isinstance(getattr(type(owner), "head_dim", None), property)


class _Probe:
    """One model seen at two sizes."""

    def __init__(
        self,
        model: PreTrainedModel,
        sizes: Mapping[str, int],
        head_width: int,
        shapes: Mapping[str, tuple[int, ...]],
        larger: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.model, self.sizes, self.shapes, self.larger = model, sizes, shapes, larger
        ratios = Counter(
            new / old
            for name in shapes
            if len(shapes[name]) == 2
            for old, new in zip(shapes[name], larger[name], strict=True)
        )
        # An axis that follows heads or key/value heads alone shows that the head width is a number of its own.
        self.derives_head_width = "heads" in sizes and not (ratios[_PROBE["heads"]] or ratios[_PROBE["kv_heads"]])
        self.tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.width = sizes["hidden"] // sizes["heads"] if self.derives_head_width else head_width

    def tensor(self, name: str) -> TensorAnatomy:
        path, _, leaf = name.rpartition(".")
        module, shape = self.model.get_submodule(path), self.shapes[name]
        # A tied table is a table, under whichever name it comes first.
        is_embedding = id(getattr(module, leaf)) in self.tables
        if shape == self.larger[name]:
            whole = tuple((Segment(dimension=None, length=length),) for length in shape)
            return TensorAnatomy(axes=whole, is_embedding=is_embedding, is_norm=is_norm(module))
        axes = tuple(self._axis(name, module, index) for index in range(len(shape)))
        reads = None if is_embedding or is_norm(module) or len(shape) < 2 else self._reads(name, leaf, module, axes)
        return TensorAnatomy(axes=axes, reads=reads, is_embedding=is_embedding, is_norm=is_norm(module))

    def _reads(self, name: str, leaf: str, module: nn.Module, axes: tuple[Axis, ...]) -> int | None:
        """The axis on which a tensor of two or more axes meets its input."""
        if isinstance(module, nn.Linear | Conv1D):
            return 0 if isinstance(module, Conv1D) else 1
        follows = [axis[0].dimension for axis in axes]
        if isinstance(module, nn.Conv1d):
            if module.groups == module.in_channels:
                return None  # depthwise: every channel by itself
        elif len(axes) == 3 and set(follows[1:]) == {"hidden", "mlp"}:
            # Experts, whichever way they lie: the one that comes down reads the MLP, the others the stream.
            down = any(word in name.lower() for word in _DOWN)
            return follows.index("mlp" if down else "hidden")
        elif len(axes) == 2 and (leaf.endswith("bias") or not leaf.endswith("weight")):
            return None  # a row per expert, head or state, added or multiplied channel by channel
        elif len(axes) == 2 and follows[1] is not None:
            return 1  # (out, in), as routers have it
        raise self._refusal(
            name, f"its module {type(module).__name__} is no linear layer, embedding or norm; what it reads is unknown"
        )

    def _axis(self, name: str, module: nn.Module, index: int) -> Axis:
        length, larger = self.shapes[name][index], self.larger[name][index]
        if (axis := self._one_part(name, module, length, larger) or self._parts(length, larger)) is not None:
            return axis
        raise self._refusal(
            name, f"its axis {index} goes from {length} to {larger} when every size changes: several parts in one axis"
        )

    def _one_part(self, name: str, module: nn.Module, length: int, larger: int) -> Axis | None:
        if length == larger or (self.derives_head_width and (length, larger) == (self.width, 5 * self.width)):
            return (Segment(dimension=None, length=length),)
        factors = [(d, f) for d, f in (*_PROBE.items(), ("kv_heads", _DERIVED_KV)) if d in self.sizes]
        for dimension, factor in factors:
            if larger != length * factor:
                continue
            if dimension in ("heads", "kv_heads"):
                per_head, rest = divmod(length, self.sizes[dimension])
                return None if rest else (Segment(dimension=dimension, length=length, block=per_head),)
            fused = SEAMS.get(name.split(".")[-2] if "." in name else "", 1)
            if dimension == "mlp":
                # Gate and up, value by value, keep together; halves need nothing, each is widened where it lies.
                block = 2 if getattr(module, "is_concatenated", True) is False and "gate_up" in name else 1
            else:
                # The hidden axis may be the heads as well (the head width is hidden / heads): then heads stay whole.
                block = self.width * (fused if length == fused * self.sizes["hidden"] else 1)
                is_heads = self.derives_head_width or self.sizes.get("heads", 0) * self.width == self.sizes["hidden"]
                block = block if is_heads and not length % block else 1
            return (Segment(dimension=dimension, length=length, block=block),)
        return None

    def _parts(self, length: int, larger: int) -> Axis | None:
        """Several parts in one axis, one after the other: queries, keys and values; or a vector and a constant."""
        hidden, width = self.sizes["hidden"], self.width
        kv, growth = (
            self.sizes.get("kv_heads", 0) * width,
            _DERIVED_KV if self.derives_head_width else _PROBE["kv_heads"],
        )
        queries = hidden if self.derives_head_width else self.sizes.get("heads", 0) * width
        dimension = "hidden" if self.derives_head_width else "heads"
        many = queries * _PROBE[dimension]
        if kv and (length, larger) == (queries + 2 * kv, many + 2 * kv * growth):
            key = Segment(dimension="kv_heads", length=kv, block=width)
            return (Segment(dimension=dimension, length=queries, block=width), key, key)
        if self.derives_head_width and (length, larger) == (
            queries + 2 * width,
            many + 2 * width * _DERIVED_HEAD_WIDTH,
        ):
            # One key and one value for all heads.
            return (
                Segment(dimension=dimension, length=queries, block=width),
                Segment(dimension=None, length=2 * width),
            )
        if larger - hidden * _PROBE["hidden"] == length - hidden > 0:
            block = width if self.derives_head_width or queries == hidden else 1
            return (
                Segment(dimension="hidden", length=hidden, block=block),
                Segment(dimension=None, length=length - hidden),
            )
        return None

    def _refusal(self, name: str, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.model.config.model_type} cannot be made wider: of {name} {list(self.shapes[name])} {why}. "
            "Grow it in depth."
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
