"""Which old unit every unit of a widened vector comes from: index maps, and what gathers and adds up by them.

Pure functions on int64 tensors; how copies share a weight is for `operators`, which tensors have such axes for `plan`.
"""

import torch
from torch import Tensor

__all__ = ["copy_ranks", "gather", "interleave", "pad_heads", "pad_units", "sum_copies"]


def interleave(length: int, factor: int, block: int = 1) -> Tensor:
    """The index map that puts every block next to its copies: blocks a, b become a, a, b, b.

    Heads must be copied this way. With grouped-query attention, query head `j` reads key head
    ``j // group``; interleaving keeps every copy in the group of a copy of its own key head, whatever the two
    factors are. Tiling (a, b, a, b) does so only when both grow by the same factor.

    Args:
        length: units before growth.
        factor: copies of each.
        block: units that stay together in order, such as one head's channels; divides `length`.

    Returns:
        (length * factor,), int64: the old unit of every new unit.
    """
    blocks = torch.arange(length).reshape(-1, 1, block)
    return blocks.expand(-1, factor, -1).reshape(-1)


def copy_ranks(source: Tensor) -> Tensor:
    """Which copy of its old unit each new unit is, counting from 0 in order of appearance.

    Args:
        source: (new,), int64.

    Returns:
        (new,), int64: [0, 0, 1, 0] for source [3, 5, 3, 4].
    """
    order = torch.argsort(source, stable=True)
    counts = torch.bincount(source)
    first = torch.cumsum(counts, 0) - counts  # where each old unit's run begins in sorted order
    ranks = torch.empty_like(source)
    ranks[order] = torch.arange(len(source)) - first[source[order]]
    return ranks


def gather(weight: Tensor, axis: int, source: Tensor) -> Tensor:
    """Let a tensor write a widened vector: copies of a unit get copies of its row.

    Args:
        weight: any shape and dtype.
        axis: the axis that counts the units written.
        source: (new,), int64.

    Returns:
        `weight` with `axis` of length new. Exact.
    """
    return weight.index_select(axis, source.to(weight.device))


def pad_units(length: int, target: int) -> tuple[Tensor, Tensor]:
    """The index map that leaves every unit in its place and puts new ones behind them.

    Args:
        length, target: units before and after growth.

    Returns:
        (target,), int64: the old unit of every unit; a new one has a *donor*, from the first old unit on, whose scale
        it may take. And (target,), bool: whether it is new.
    """
    positions = torch.arange(target)
    return positions % length, positions >= length


def pad_heads(heads: int, target: int, kv_heads: int, kv_target: int, width: int) -> tuple[Tensor, Tensor]:
    """The index map that adds query heads, each old one still reading its own key/value head.

    Query head `j` reads key head ``j // group``. When groups get larger, new heads go to the end of each group; new
    key/value heads get groups of new query heads.

    Args:
        heads, target: query heads before and after growth.
        kv_heads, kv_target: key/value heads before and after growth; each divides its number of query heads, and
            groups do not get smaller.
        width: channels of one head.

    Returns:
        As `pad_units`.
    """
    old, new = heads // kv_heads, target // kv_target
    position = torch.arange(target)
    group, rank = position // new, position % new
    donor = (group % kv_heads) * old + rank % old
    fresh = (group >= kv_heads) | (rank >= old)
    channels = torch.arange(width)
    return (donor[:, None] * width + channels).reshape(-1), fresh.repeat_interleave(width)


def sum_copies(weight: Tensor, axis: int, source: Tensor, length: int) -> Tensor:
    """Undo a split: add up the shares of every old unit, in float64.

    Args:
        weight: with `axis` of length new.
        axis: the axis that counts the units read.
        source: (new,), int64.
        length: units before growth.

    Returns:
        float64, `axis` of length `length`.
    """
    shape = list(weight.shape)
    shape[axis] = length
    total = torch.zeros(shape, dtype=torch.float64, device=weight.device)
    return total.index_add_(axis, source.to(weight.device), weight.double())
