"""`Recipe`: how one tensor of a grown model is made from one tensor of its source, and how to undo it.

Which recipes a growth needs is for `plan`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .anatomy import Axis, Segment
from .index_maps import copy_ranks, gather, interleave, pad_heads, pad_units, sum_copies
from .operators import Operator, keyed_generator, rescale

__all__ = ["BLOCK", "Recipe"]

# Entries of the grown tensor that are made at once: enough to be fast, few enough to stay in the processor's cache.
# Each block has random numbers of its own, so another number here gives other weights.
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

    def blocks(self) -> list[tuple[int, int]]:
        """The rows of the source (its first axis) that are grown together, as (start, stop); one pass over them all."""
        rows = self.shape[0] if self.shape else 1
        if self.fills and self.fills[0] == "mean" and self.fresh(0) is not None:
            return [(0, sum(segment.length for segment in self.axes[0]))]  # a mean over rows needs all of them
        if self.axes:
            rows = sum(segment.length for segment in self.axes[0])
        step = max(1, BLOCK * rows // max(1, math.prod(self.shape)))
        return [(start, min(start + step, rows)) for start in range(0, rows, step)]

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
        for start, stop in self.blocks():
            beside = None if after is None else after[start:stop]
            positions, rows = self.grow_rows(weight[start:stop], start, operator, seed, beside)
            grown.index_copy_(0, positions.to(weight.device), rows)
        return grown

    def grow_rows(
        self, rows: Tensor, start: int, operator: Operator, seed: int, after: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make the part of the grown tensor that comes from some rows of the source, so that no tensor need be whole.

        What the tensor writes is gathered first, so that each copy of an output gets shares of its own and the
        copies are different from the start.

        Args:
            rows: rows `start` and following of the source; one of the `blocks`, for the random numbers are keyed by it.
            start: number of the first.
            operator: the width method.
            seed: of the growth.
            after: the same rows of the tensor `self.after`, where there is one.

        Returns:
            (n,) int64, the rows of the grown tensor that are made, ascending; and (n, ...), what they hold.
        """
        rows = self._converted(rows)
        positions, local = self._rows_made(start, len(rows))
        key = self.target if start == 0 else f"{self.target}:{start}"
        if self.fills:
            return positions, self._rescaled(self._padded(rows, positions, local, keyed_generator(seed, key)))
        grown = self._widened(rows, local, operator, keyed_generator(seed, key))
        if after is not None:
            others = self._widened(self._converted(after), local, operator, keyed_generator(seed, key))
            grown = torch.where(self._is_later_copy(positions, grown), others, grown)
        return positions, self._rescaled(grown)

    def expected_rows(self, rows: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """What the shares of the grown rows that come from some rows of the source must sum to, see `fold_rows`.

        Returns:
            The rows of the grown tensor as `grow_rows` gives them, new units that are no copies left out; and float64
            sums, one row per row of the grown tensor, or per row of the source where shares lie along the first axis.
        """
        rows = self._converted(rows)
        positions, local = self._rows_made(start, len(rows))
        if self.fills:
            fresh = self.fresh(0)
            kept = positions if fresh is None else positions[~fresh[positions]]
            return kept, rescale(rows.double(), self.scale, offset=self.offset)
        if local is not None and self.reads != 0:
            rows = gather(rows, 0, local)
        return positions, rescale(self._gathered(rows, first=1).double(), self.scale, offset=self.offset)

    def expected_sum(self, weight: Tensor) -> Tensor:
        """What `fold` gives for a grown tensor whose copies share the weight rightly; float64."""
        weight = self._converted(weight)
        return rescale((weight if self.fills else self._gathered(weight)).double(), self.scale, offset=self.offset)

    def fold(self, grown: Tensor) -> Tensor:
        """Add up the shares of a grown tensor; float64. Independent of the operator that made them.

        Where new units are no copies, they are left out.
        """
        if self.fills:
            return self._old_units(grown).double()
        if self.reads is None or (index := self.index(self.reads)) is None:
            return grown.double()
        return sum_copies(grown, self.reads, index, sum(segment.length for segment in self.axes[self.reads]))

    def fold_rows(self, grown: Tensor, positions: Tensor, start: int, length: int) -> Tensor:
        """Add up the shares of some rows of a grown tensor, those that `expected_rows` names; float64.

        Args:
            grown: (n, ...), the rows at `positions`.
            positions: (n,), int64.
            start, length: which rows of the source they come from.
        """
        if self.fills:
            return self._old_units(grown, first=1).double()
        index = None if self.reads is None else self.index(self.reads)
        if self.reads is None or index is None:
            return grown.double()
        if self.reads == 0:
            return sum_copies(grown, 0, index[positions] - start, length)
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

    def _rows_made(self, start: int, length: int) -> tuple[Tensor, Tensor | None]:
        """(rows of the grown tensor that come from some rows of the source, which of those each comes from)."""
        index = self.index(0)
        if index is None:
            return torch.arange(start, start + length), None
        positions = torch.nonzero((index >= start) & (index < start + length)).flatten()
        return positions, index[positions] - start

    def _widened(self, rows: Tensor, local: Tensor | None, operator: Operator, generator: torch.Generator) -> Tensor:
        grown = rows if local is None or self.reads == 0 else gather(rows, 0, local)
        grown = self._gathered(grown, first=1)
        read = None if self.reads is None else local if self.reads == 0 else self.index(self.reads)
        if self.reads is None or read is None:
            return grown
        return operator(grown, self.reads, read, generator)

    def _is_later_copy(self, positions: Tensor, grown: Tensor) -> Tensor:
        """Which entries of grown rows belong to a second or later copy of what is written."""
        later = torch.zeros([1] * grown.dim(), dtype=torch.bool)
        for axis in range(grown.dim()):
            if axis != self.reads and (index := self.index(axis)) is not None:
                ranks = copy_ranks(index)
                later = later | _along((ranks if axis else ranks[positions]) > 0, axis, grown.dim())
        return later.to(grown.device)

    def _padded(self, rows: Tensor, positions: Tensor, local: Tensor | None, generator: torch.Generator) -> Tensor:
        """Grown rows whose new units are no copies: random first, then silent where the fills say so."""
        grown = rows if local is None else gather(rows, 0, local)
        for axis in range(1, len(self.axes)):
            if (index := self.index(axis)) is not None:
                grown = gather(grown, axis, index)
        masks = {axis: mask for axis in range(len(self.axes)) if (mask := self.fresh(axis)) is not None}
        if masks and 0 in masks:
            masks[0] = masks[0][positions]
        where = {axis: _along(mask, axis, grown.dim()).to(grown.device) for axis, mask in masks.items()}
        if random := [axis for axis in where if self.fills[axis] == "random"]:
            draws = torch.randn(grown.shape, generator=generator, dtype=torch.float32).to(grown.device)
            draws = draws * float(rows.double().square().mean().sqrt())
            for axis in random:
                grown = torch.where(where[axis], draws.to(grown.dtype), grown)
        for axis in (axis for axis in where if self.fills[axis] == "zero"):
            grown = torch.where(where[axis], 0, grown)
        for axis in (axis for axis in where if self.fills[axis] == "mean"):
            old = grown.index_select(axis, torch.nonzero(~masks[axis]).flatten().to(grown.device))
            grown = torch.where(where[axis], old.double().mean(axis, keepdim=True).to(grown.dtype), grown)
        return grown

    def _old_units(self, grown: Tensor, first: int = 0) -> Tensor:
        for axis in range(first, len(self.axes)):
            if (fresh := self.fresh(axis)) is not None:
                grown = grown.index_select(axis, torch.nonzero(~fresh).flatten().to(grown.device))
        return grown

    def _converted(self, weight: Tensor) -> Tensor:
        return weight if self.dtype is None or not weight.is_floating_point() else weight.to(self.dtype)

    def _gathered(self, weight: Tensor, first: int = 0) -> Tensor:
        for axis in range(first, len(self.axes)):
            if axis != self.reads and (index := self.index(axis)) is not None:
                weight = gather(weight, axis, index)
        return weight

    def _rescaled(self, weight: Tensor) -> Tensor:
        return weight if self.scale == 1 else rescale(weight, self.scale, offset=self.offset)


def _along(mask: Tensor, axis: int, dim: int) -> Tensor:
    shape = [1] * dim
    shape[axis] = -1
    return mask.reshape(shape)
