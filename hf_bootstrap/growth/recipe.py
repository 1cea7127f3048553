"""`Recipe`: how one tensor of a grown model is made from one tensor of its source, and how to undo it.

Which recipes a growth needs is for `plan`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .anatomy import Axis, Segment
from .operators import Operator, gather, interleave, keyed_generator, rescale, sum_copies

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
    """

    target: str
    source: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...] = ()
    factors: Mapping[str, int] = field(default_factory=dict)
    reads: int | None = None
    operator: str = "copy"
    scale: float = 1.0
    offset: float = 0.0
    reason: str = ""
    layer_map: tuple[int, ...] = ()

    def index(self, axis: int) -> Tensor | None:
        """The old unit of every new unit on an axis, (new,) int64; None where the axis stays as it is."""
        if not self.axes or all(self._factor(s) == 1 for s in self.axes[axis]):
            return None
        maps, start = [], 0
        for segment in self.axes[axis]:
            if segment.dimension == "layers":
                blocks = torch.arange(segment.length).reshape(-1, segment.block)
                maps.append(start + blocks[list(self.layer_map)].reshape(-1))
            else:
                maps.append(start + interleave(segment.length, self._factor(segment), segment.block))
            start += segment.length
        return torch.cat(maps)

    def _factor(self, segment: Segment) -> int:
        return 0 if segment.dimension == "layers" else self.factors.get(segment.dimension or "", 1)

    @property
    def is_copy(self) -> bool:
        """Whether the tensor is its source as it is, so that its bytes can be copied."""
        kept = all(self.index(axis) is None for axis in range(len(self.axes)))
        return self.operator == "copy" and self.scale == 1 and kept

    def blocks(self) -> list[tuple[int, int]]:
        """The rows of the source (its first axis) that are grown together, as (start, stop); one pass over them all."""
        rows = self.shape[0] if self.shape else 1
        if self.axes:
            rows = sum(segment.length for segment in self.axes[0])
        step = max(1, BLOCK * rows // max(1, math.prod(self.shape)))
        return [(start, min(start + step, rows)) for start in range(0, rows, step)]

    def grow(self, weight: Tensor, operator: Operator, seed: int) -> Tensor:
        """Make the grown tensor.

        Args:
            weight: the source tensor.
            operator: the width method.
            seed: of the growth.

        Returns:
            New storage, of the dtype and on the device of `weight`.
        """
        if not self.axes:
            return self._rescaled(weight).clone()
        grown = torch.empty(self.shape, dtype=weight.dtype, device=weight.device)
        for start, stop in self.blocks():
            positions, rows = self.grow_rows(weight[start:stop], start, operator, seed)
            grown.index_copy_(0, positions.to(weight.device), rows)
        return grown

    def grow_rows(self, rows: Tensor, start: int, operator: Operator, seed: int) -> tuple[Tensor, Tensor]:
        """Make the part of the grown tensor that comes from some rows of the source, so that no tensor need be whole.

        What the tensor writes is gathered first, so that each copy of an output gets shares of its own and the
        copies are different from the start.

        Args:
            rows: rows `start` and following of the source; one of the `blocks`, for the random numbers are keyed by it.
            start: number of the first.
            operator: the width method.
            seed: of the growth.

        Returns:
            (n,) int64, the rows of the grown tensor that are made, ascending; and (n, ...), what they hold.
        """
        index = self.index(0)
        positions = torch.arange(start, start + len(rows)) if index is None else _within(index, start, len(rows))
        local = None if index is None else index[positions] - start
        grown = rows if local is None or self.reads == 0 else gather(rows, 0, local)
        grown = self._gathered(grown, first=1)
        read = None if self.reads is None else local if self.reads == 0 else self.index(self.reads)
        if self.reads is not None and read is not None:
            key = self.target if start == 0 else f"{self.target}:{start}"
            grown = operator(grown, self.reads, read, keyed_generator(seed, key))
        return positions, self._rescaled(grown)

    def expected_rows(self, rows: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """What the shares of the grown rows that come from some rows of the source must sum to.

        Returns:
            The rows of the grown tensor as `grow_rows` gives them, and float64 sums, one row per row of the grown
            tensor, or per row of the source where the shares lie along the first axis.
        """
        index = self.index(0)
        positions = torch.arange(start, start + len(rows)) if index is None else _within(index, start, len(rows))
        if index is not None and self.reads != 0:
            rows = gather(rows, 0, index[positions] - start)
        return positions, rescale(self._gathered(rows, first=1).double(), self.scale, offset=self.offset)

    def expected_sum(self, weight: Tensor) -> Tensor:
        """What `fold` gives for a grown tensor whose copies share the weight rightly; float64."""
        return rescale(self._gathered(weight).double(), self.scale, offset=self.offset)

    def fold(self, grown: Tensor) -> Tensor:
        """Add up the shares of a grown tensor; float64. Independent of the operator that made them."""
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
        }

    def _gathered(self, weight: Tensor, first: int = 0) -> Tensor:
        for axis in range(first, len(self.axes)):
            if axis != self.reads and (index := self.index(axis)) is not None:
                weight = gather(weight, axis, index)
        return weight

    def _rescaled(self, weight: Tensor) -> Tensor:
        return weight if self.scale == 1 else rescale(weight, self.scale, offset=self.offset)


def _within(index: Tensor, start: int, length: int) -> Tensor:
    return torch.nonzero((index >= start) & (index < start + length)).flatten()
