"""`Recipe`: how one tensor of a grown model is made from one tensor of its source, and how to undo it.

Which recipes a growth needs is for `plan`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .anatomy import Axis, Segment
from .hub_layout import Box
from .index_maps import copy_ranks, gather, interleave, pad_heads, pad_units, sum_copies
from .operators import Operator, keyed_generator, rescale

__all__ = ["BLOCK", "Recipe"]

# Entries of the grown tensor that are made at once: enough to be fast, few enough to stay in the processor's cache.
# Each block has random numbers of its own, and which blocks there are follows from this and the tensor's shape alone:
# another number here gives other weights.
BLOCK = 2**21


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one tensor of the grown model is made from one tensor of the source.

    Attributes:
        target: name in the grown model; shape: its shape there.
        source: name in the source.
        axes: what each axis is; empty when the tensor is copied as it is.
        factors: growth factor by dimension.
        reads: the axis whose copies share the weight; None where every axis is gathered.
        operator: name of the width method on the axis `reads`, for people; "copy" if there is none.
        scale, offset: applied at the end, as in `operators.rescale`; `reason` says why.
        layer_map: the old layer of every new layer, for an axis that holds a block per layer.
        after: the tensor of the next layer, whose rows later copies of what is written take; None where they take
            their own.
        fills: what new units hold that are no copies, one word per axis: "copy" of an old one, "random", "zero", or the
            "mean" of the old ones; empty where new units are copies.
        kv_heads: before growth, so that new query heads that are no copies find their group.
        dtype: of the grown tensor; None for that of the source. The source is converted before it is grown.
    """

    target: str
    source: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...] = ()
    factors: Mapping[str, int | Fraction] = field(default_factory=dict)
    reads: int | None = None
    operator: str = "copy"
    scale: float = 1.0
    offset: float = 0.0
    reason: str = ""
    layer_map: tuple[int, ...] = ()
    after: str | None = None
    fills: tuple[str, ...] = ()
    kv_heads: int = 1
    dtype: torch.dtype | None = None

    def index(self, axis: int) -> Tensor | None:
        """The old unit of every new unit on an axis, (new,) int64; None where the axis stays as it is."""
        found = self._map(axis)
        return None if found is None else found[0]

    def fresh(self, axis: int) -> Tensor | None:
        """Which units of an axis are new and no copies, (new,) bool; None where there are none."""
        found = self._map(axis) if self.fills else None
        return None if found is None else found[1]

    def _map(self, axis: int) -> tuple[Tensor, Tensor] | None:
        if not self.axes or all(self._factor(s) == 1 for s in self.axes[axis]):
            return None
        maps, masks, start = [], [], 0
        for segment in self.axes[axis]:
            index, fresh = self._segment_map(segment)
            maps.append(start + index)
            masks.append(fresh)
            start += segment.length
        return torch.cat(maps), torch.cat(masks)

    def _segment_map(self, segment: Segment) -> tuple[Tensor, Tensor]:
        length, block, factor = segment.length, segment.block, self._factor(segment)
        if self.fills and segment.dimension == "heads":
            heads, kv_target = length // block, int(self.kv_heads * self.factors.get("kv_heads", 1))
            return pad_heads(heads, int(heads * factor), self.kv_heads, kv_target, block)
        if self.fills and segment.dimension != "layers":
            return pad_units(length, int(length * factor))
        if segment.dimension == "layers":
            blocks = torch.arange(length).reshape(-1, block)
            index = blocks[list(self.layer_map)].reshape(-1)
        else:
            index = interleave(length, int(factor), block)
        return index, torch.zeros(len(index), dtype=torch.bool)

    def _factor(self, segment: Segment) -> int | Fraction:
        return 0 if segment.dimension == "layers" else self.factors.get(segment.dimension or "", 1)

    @property
    def is_copy(self) -> bool:
        """Whether the tensor is its source as it is, so that its bytes can be copied."""
        kept = all(self.index(axis) is None for axis in range(len(self.axes)))
        return self.operator == "copy" and self.scale == 1 and kept and self.dtype is None

    def steps(self) -> tuple[int, ...]:
        """Units of the source that are grown together, on the leading axes; the others are not cut.

        Rows, and where one row is too large (an expert in a tensor of all experts), what a row consists of.
        """
        steps: list[int] = []
        size = math.prod(self.shape)
        for axis, length in enumerate(self._lengths()):
            if axis and size <= BLOCK:
                break
            step = min(length, max(1, BLOCK * length // max(1, size)))
            if self.fills and self.fills[axis] == "mean" and self.fresh(axis) is not None:
                step = length  # a mean over units needs all of them
            steps.append(step)
            size = -(-size * step // max(1, length))
        return tuple(steps)

    @property
    def block_entries(self) -> int:
        """Entries of the grown tensor that come from the first block, one of the largest."""
        block = next(iter(self.blocks()), ())
        return math.prod(len(self._made(axis, block)[0]) for axis in range(len(self.shape)))

    def blocks(self, inside: Box | None = None) -> Iterator[Box]:
        """The boxes of the source that are grown together, each as (start, stop) on the axes that are cut.

        Args:
            inside: a box of the grown tensor; only those that make a part of it; default: all.
        """
        ranges = []
        for axis, (length, step) in enumerate(zip(self._lengths(), self.steps(), strict=False)):
            first, last = (0, length) if inside is None else self._sources(axis, *inside[axis])
            starts = range(first - first % step, last, step) if step else range(0)
            ranges.append([(start, min(start + step, length)) for start in starts])
        return itertools.product(*ranges)

    def grow(self, weight: Tensor, operator: Operator, seed: int, after: Tensor | None = None) -> Tensor:
        """Make the grown tensor.

        Args:
            weight: the source tensor.
            operator: the width method.
            seed: of the growth.
            after: the tensor `self.after` of the source, where there is one.

        Returns:
            New storage, on the device of `weight`, and of its dtype unless the recipe has one.
        """
        if not self.axes:
            return self._rescaled(self._converted(weight)).clone()
        grown = torch.empty(self.shape, dtype=self._converted(weight[:0]).dtype, device=weight.device)
        for block in self.blocks():
            place = tuple(slice(*pair) for pair in block)
            beside = None if after is None else after[place]
            positions, made = self.grow_block(weight[place], block, operator, seed, beside)
            where = [_along(units, axis, len(block)) for axis, units in enumerate(positions[: len(block)])]
            grown[tuple(units.to(weight.device) for units in where)] = made
        return grown

    def grow_block(
        self, part: Tensor, block: Box, operator: Operator, seed: int, after: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Make the part of the grown tensor that comes from a block of the source, so that no tensor need be whole.

        What the tensor writes is gathered first, so that each copy of an output gets shares of its own and the
        copies are different from the start.

        Args:
            part: what the block holds.
            block: one of the `blocks`, for the random numbers are keyed by it.
            operator: the width method.
            seed: of the growth.
            after: the same block of the tensor `self.after`, where there is one.

        Returns:
            For each axis (n,) int64, the units of the grown tensor that are made, ascending; and what they hold.
        """
        part = self._converted(part)
        made = [self._made(axis, block) for axis in range(part.dim())]
        positions, local = [units for units, _ in made], [units for _, units in made]
        starts = [start for start, _ in block]
        key = ":".join([self.target, *map(str, starts)]) if any(starts) else self.target
        if self.fills:
            return positions, self._rescaled(self._padded(part, positions, local, keyed_generator(seed, key)))
        grown = self._widened(part, local, operator, keyed_generator(seed, key))
        if after is not None:
            others = self._widened(self._converted(after), local, operator, keyed_generator(seed, key))
            grown = torch.where(self._is_later_copy(positions, grown), others, grown)
        return positions, self._rescaled(grown)

    def expected_block(self, part: Tensor, block: Box) -> tuple[list[Tensor], Tensor]:
        """What the shares of the grown units that come from a block of the source must sum to, see `fold_block`.

        Returns:
            For each axis the units of the grown tensor as `grow_block` gives them, without new ones that are no copies;
            and float64 sums, of the units of the source on the axis whose copies share the weight.
        """
        part = self._converted(part)
        made = [self._made(axis, block) for axis in range(part.dim())]
        if self.fills:
            fresh = [self.fresh(axis) for axis in range(part.dim())]
            kept = [units if new is None else units[~new[units]] for (units, _), new in zip(made, fresh, strict=True)]
            return kept, rescale(part.double(), self.scale, offset=self.offset)
        part = self._gathered(part, [units for _, units in made])
        return [units for units, _ in made], rescale(part.double(), self.scale, offset=self.offset)

    def fold_block(self, grown: Tensor, block: Box) -> Tensor:
        """Add up the shares of those units of a grown tensor that `expected_block` names; float64.

        Args:
            grown: what they hold.
            block: of the source they come from.
        """
        _, local = (None, None) if self.reads is None or self.fills else self._made(self.reads, block)
        if self.reads is None or local is None:
            return grown.double()
        start, stop = block[self.reads] if self.reads < len(block) else (0, self._lengths()[self.reads])
        return sum_copies(grown, self.reads, local, stop - start)

    def expected_sum(self, weight: Tensor) -> Tensor:
        """What `fold` gives for a grown tensor whose copies share the weight rightly; float64."""
        weight = self._converted(weight)
        if not self.fills:
            weight = self._gathered(weight, [self.index(axis) for axis in range(len(self.axes))])
        return rescale(weight.double(), self.scale, offset=self.offset)

    def fold(self, grown: Tensor) -> Tensor:
        """Add up the shares of a grown tensor; float64. Independent of the operator that made them.

        Where new units are no copies, they are left out.
        """
        if self.fills:
            return self._old_units(grown).double()
        if self.reads is None or (index := self.index(self.reads)) is None:
            return grown.double()
        return sum_copies(grown, self.reads, index, sum(segment.length for segment in self.axes[self.reads]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an axis is a list of [dimension, length before growth, block]."""
        return {
            "target": self.target,
            "source": self.source,
            "shape": list(self.shape),
            "axes": [[[s.dimension, s.length, s.block] for s in axis] for axis in self.axes],
            "reads": self.reads,
            "operator": self.operator,
            "scale": self.scale,
            "offset": self.offset,
            "reason": self.reason,
            "layer_map": list(self.layer_map),
            "after": self.after,
            "fills": list(self.fills),
            "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch."),
        }

    def _lengths(self) -> tuple[int, ...]:
        """Of the source's axes."""
        return tuple(sum(segment.length for segment in axis) for axis in self.axes) if self.axes else self.shape

    def _sources(self, axis: int, first: int, last: int) -> tuple[int, int]:
        """The range of the source's units that some units of the grown tensor come from."""
        index = self.index(axis)
        return (first, last) if index is None else (int(index[first:last].min()), int(index[first:last].max()) + 1)

    def _made(self, axis: int, block: Box) -> tuple[Tensor, Tensor | None]:
        """(units of the grown tensor that come from a block, which unit of it each is a copy of; None: itself)."""
        index = self.index(axis)
        if axis >= len(block):
            return torch.arange(self.shape[axis]), index
        start, stop = block[axis]
        if index is None:
            return torch.arange(start, stop), None
        positions = torch.nonzero((index >= start) & (index < stop)).flatten()
        return positions, index[positions] - start

    def _widened(
        self, part: Tensor, local: list[Tensor | None], operator: Operator, generator: torch.Generator
    ) -> Tensor:
        grown = self._gathered(part, local)
        read = None if self.reads is None else local[self.reads]
        if self.reads is None or read is None:
            return grown
        return operator(grown, self.reads, read, generator)

    def _is_later_copy(self, positions: list[Tensor], grown: Tensor) -> Tensor:
        """Which entries of grown units belong to a second or later copy of what is written."""
        later = torch.zeros([1] * grown.dim(), dtype=torch.bool)
        for axis in range(grown.dim()):
            if axis != self.reads and (index := self.index(axis)) is not None:
                later = later | _along(copy_ranks(index)[positions[axis]] > 0, axis, grown.dim())
        return later.to(grown.device)

    def _padded(
        self, part: Tensor, positions: list[Tensor], local: list[Tensor | None], generator: torch.Generator
    ) -> Tensor:
        """Grown units some of which are no copies: random first, then silent where the fills say so."""
        grown = part
        for axis, units in enumerate(local):
            grown = grown if units is None else gather(grown, axis, units)
        new = {axis: mask for axis in range(len(self.axes)) if (mask := self.fresh(axis)) is not None}
        masks = {axis: mask[positions[axis]] for axis, mask in new.items()}
        where = {axis: _along(mask, axis, grown.dim()).to(grown.device) for axis, mask in masks.items()}
        if random := [axis for axis in where if self.fills[axis] == "random"]:
            draws = torch.randn(grown.shape, generator=generator, dtype=torch.float32).to(grown.device)
            draws = draws * float(part.double().square().mean().sqrt())
            for axis in random:
                grown = torch.where(where[axis], draws.to(grown.dtype), grown)
        for axis in (axis for axis in where if self.fills[axis] == "zero"):
            grown = torch.where(where[axis], 0, grown)
        for axis in (axis for axis in where if self.fills[axis] == "mean"):
            old = grown.index_select(axis, torch.nonzero(~masks[axis]).flatten().to(grown.device))
            grown = torch.where(where[axis], old.double().mean(axis, keepdim=True).to(grown.dtype), grown)
        return grown

    def _old_units(self, grown: Tensor) -> Tensor:
        for axis in range(len(self.axes)):
            if (fresh := self.fresh(axis)) is not None:
                grown = grown.index_select(axis, torch.nonzero(~fresh).flatten().to(grown.device))
        return grown

    def _converted(self, weight: Tensor) -> Tensor:
        return weight if self.dtype is None or not weight.is_floating_point() else weight.to(self.dtype)

    def _gathered(self, weight: Tensor, maps: Sequence[Tensor | None]) -> Tensor:
        """With every axis gathered but the one whose copies share the weight."""
        for axis, units in enumerate(maps):
            if axis != self.reads and units is not None:
                weight = gather(weight, axis, units)
        return weight

    def _rescaled(self, weight: Tensor) -> Tensor:
        return weight if self.scale == 1 else rescale(weight, self.scale, offset=self.offset)


def _along(mask: Tensor, axis: int, dim: int) -> Tensor:
    shape = [1] * dim
    shape[axis] = -1
    return mask.reshape(shape)
