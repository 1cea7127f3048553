"""Names every axis of every tensor of an architecture, by building it on the meta device and comparing shapes.

No table of tensor names: a model is built at its own size and at a size where every dimension grew by a
different factor, and the factor found on an axis names it. Nothing is identified by its length at real sizes,
where different dimensions are often equal. What to do with the axes is for `plan`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import UnsupportedModelError
from .architecture import build_meta, is_norm, named_tensors
from .depth import Layers
from .sizes import DIMENSIONS, changed_config, dimension_field, field_value, head_width, text_part

__all__ = ["SEAMS", "Axis", "Segment", "TensorAnatomy", "probe_axes"]

# Probe factors. The factors an axis can show are these, and where the architecture derives the head width from
# hidden / heads (so that it grows by 30 / 6), kv heads by 2 * 5 and the head width itself by 5: all different.
# Divisibility that architectures ask for holds: hidden by heads, heads by key/value heads.
_PROBE = {"hidden": 30, "heads": 6, "kv_heads": 2, "mlp": 7}
_DERIVED_KV, _DERIVED_HEAD_WIDTH = 10, 5

# What shapes cannot say: the parts of an axis that holds several things, by the name of the module that writes it.
# A part is (dimension, times): `times` values per unit that stay together. GPT-2 and Phi-3 lay parts one after
# the other; GPT-NeoX keeps the query, key and value of a head together.
SEAMS: dict[str, tuple[tuple[str, int], ...]] = {
    "c_attn": (("hidden", 1), ("hidden", 1), ("hidden", 1)),
    "gate_up_proj": (("mlp", 1), ("mlp", 1)),
    "qkv_proj": (("heads", 1), ("kv_heads", 1), ("kv_heads", 1)),
    "query_key_value": (("hidden", 3),),
}


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
    """

    axes: tuple[Axis, ...]
    reads: int | None = None
    is_embedding: bool = False


def probe_axes(
    config: PreTrainedConfig, layers: Layers, model_class: type[PreTrainedModel] | None = None
) -> dict[str, TensorAnatomy]:
    """Name every axis of every parameter and persistent buffer.

    Returns:
        Anatomy by tensor name; tied names once, under the first.

    Raises:
        UnsupportedModelError: a tensor whose axes cannot be told, and why.
    """
    sizes = {d: field_value(config, f) for d in DIMENSIONS if (f := dimension_field(config, d)) is not None}
    if "hidden" not in sizes or "heads" not in sizes:
        raise UnsupportedModelError(f"{config.model_type} names no hidden size or no heads, so its width is not known.")
    changes = {str(dimension_field(config, d)): size * _PROBE[d] for d, size in sizes.items()}
    width = head_width(config)
    if _may_write_head_dim(config):
        changes[text_part(config) + "head_dim"] = width
    model = build_meta(config, model_class)
    larger = _shapes(build_meta(changed_config(config, changes), model_class))
    shapes = _shapes(model)
    if set(larger) != set(shapes):
        odd = sorted(set(larger) ^ set(shapes))
        raise UnsupportedModelError(f"{config.model_type} has other tensors when it is wider, such as {odd[0]}.")
    probe = _Probe(model, sizes, width, shapes, larger)
    return {name: probe.tensor(name, in_layer=layers.split(name) is not None) for name in shapes}


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
            b // a for name in shapes for a, b in zip(shapes[name], larger[name], strict=True) if a and b % a == 0
        )
        # An axis that follows the heads alone shows that the head width is a number of its own.
        self.derives_head_width = not ratios[_PROBE["heads"]]
        self.width = sizes["hidden"] // sizes["heads"] if self.derives_head_width else head_width
        self.vectors = self._lengths_written_and_read()

    def _lengths_written_and_read(self) -> set[tuple[int, int]]:
        """(length, length when larger) of every vector that one linear layer writes and another reads."""
        written, read = set(), set()
        for path, module in self.model.named_modules():
            name = f"{path}.weight"
            if (reads := _reading_axis(module)) is not None and name in self.shapes:
                read.add((self.shapes[name][reads], self.larger[name][reads]))
                written.add((self.shapes[name][1 - reads], self.larger[name][1 - reads]))
        return written & read

    def tensor(self, name: str, *, in_layer: bool) -> TensorAnatomy:
        path = name.rpartition(".")[0]
        module = self.model.get_submodule(path)
        shape = self.shapes[name]
        is_embedding = isinstance(module, nn.Embedding)
        reads = _reading_axis(module) if len(shape) == 2 else None
        if len(shape) > 1 and reads is None and not is_embedding and not is_norm(module):
            raise self._refusal(
                name,
                f"its module {type(module).__name__} is no linear layer, embedding or norm; what it reads is unknown",
            )
        axes = tuple(self._axis(name, path, index) for index in range(len(shape)))
        constant = [i for i, axis in enumerate(axes) if axis[0].dimension is None]
        if in_layer and reads is not None and constant:
            raise self._refusal(
                name,
                f"its axis {constant[0]} of length {shape[constant[0]]} follows neither hidden size, heads nor MLP",
            )
        return TensorAnatomy(axes=axes, reads=reads, is_embedding=is_embedding)

    def _axis(self, name: str, path: str, index: int) -> Axis:
        length, larger = self.shapes[name][index], self.larger[name][index]
        for segments in self._readings(path.rpartition(".")[2], length, larger):
            return segments
        raise self._refusal(
            name, f"its axis {index} goes from {length} to {larger} when every size changes: several parts in one axis"
        )

    def _readings(self, module_name: str, length: int, larger: int) -> Iterator[Axis]:
        if length == larger or length * _DERIVED_HEAD_WIDTH == larger == self.width * _DERIVED_HEAD_WIDTH:
            yield (Segment(dimension=None, length=length),)
        for dimension, size in self.sizes.items():
            block = self._block(dimension)
            per_head = dimension in ("heads", "kv_heads")
            for unit in {block, 1} if per_head else {1}:
                if (length, larger) == (size * unit, self._larger(dimension, size * unit, unit)):
                    yield (Segment(dimension=dimension, length=length, block=unit if per_head else block),)
        seam = SEAMS.get(module_name, ())
        parts = [(d, times, self._full(d) * times) for d, times in seam if d in self.sizes]
        if parts and (length, larger) == (
            sum(n for _, _, n in parts),
            sum(self._larger(d, n, self._block(d)) for d, _, n in parts),
        ):
            yield tuple(Segment(dimension=d, length=n, block=self._block(d) * t) for d, t, n in parts)
        if not seam and (length, larger) in self.vectors and larger == length * _PROBE["hidden"]:
            # An inner vector as a multiple of the hidden size, such as GPT-2's MLP.
            yield (Segment(dimension="hidden", length=length, block=self._block("hidden")),)

    def _block(self, dimension: str) -> int:
        """Units that stay together: where the head width is hidden / heads, the hidden axis may be heads as well."""
        if dimension == "mlp" or (dimension == "hidden" and not self.derives_head_width):
            return 1
        return self.width

    def _full(self, dimension: str) -> int:
        per_head = dimension in ("heads", "kv_heads")
        return self.sizes[dimension] * (self.width if per_head else 1)

    def _larger(self, dimension: str, length: int, unit: int) -> int:
        """What an axis of this dimension measures in the larger model."""
        stretched = self.derives_head_width and dimension in ("heads", "kv_heads") and unit > 1
        return length * _PROBE[dimension] * (_DERIVED_HEAD_WIDTH if stretched else 1)

    def _refusal(self, name: str, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.model.config.model_type} cannot be made wider: of {name} {list(self.shapes[name])} {why}. "
            "Grow it in depth, or add what shapes cannot say to hf_bootstrap.growth.anatomy.SEAMS."
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def _reading_axis(module: nn.Module) -> int | None:
    """The axis of `module.weight` that meets the input: 1 for (out, in), 0 for GPT-2's (in, out)."""
    if isinstance(module, nn.Linear):
        return 1
    return 0 if isinstance(module, Conv1D) else None
