"""`Recipe`: how one tensor of a grown model is made from one tensor of its source, and how to undo it.

Which recipes a growth needs is for `plan`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .anatomy import Axis
from .operators import Operator, gather, interleave, keyed_generator, rescale, sum_copies

__all__ = ["Recipe"]


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

    def index(self, axis: int) -> Tensor | None:
        """The old unit of every new unit on an axis, (new,) int64; None where the axis stays as it is."""
        if not self.axes or all(self.factors.get(s.dimension or "", 1) == 1 for s in self.axes[axis]):
            return None
        maps, start = [], 0
        for segment in self.axes[axis]:
            maps.append(start + interleave(segment.length, self.factors.get(segment.dimension or "", 1), segment.block))
            start += segment.length
        return torch.cat(maps)

    def grow(self, weight: Tensor, operator: Operator, seed: int) -> Tensor:
        """Make the grown tensor.

        What the tensor writes is gathered first, so that each copy of an output gets shares of its own and the
        copies are different from the start.

        Args:
            weight: the source tensor.
            operator: the width method.
            seed: of the growth.

        Returns:
            New storage, of the dtype and on the device of `weight`.
        """
        grown = self._gathered(weight)
        if self.reads is not None and (index := self.index(self.reads)) is not None:
            grown = operator(grown, self.reads, index, keyed_generator(seed, self.target))
        return rescale(grown, self.scale, offset=self.offset) if self.scale != 1 else grown.clone()

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
        }

    def _gathered(self, weight: Tensor) -> Tensor:
        for axis in range(len(self.axes)):
            if axis != self.reads and (index := self.index(axis)) is not None:
                weight = gather(weight, axis, index)
        return weight
