"""What growth does to one tensor: index maps, gathering, and the ways copies can share a weight.

Pure functions; they know nothing of models. Which axis of which tensor they are applied to is for `plan`.

The one rule (Net2WiderNet, Chen et al. 2016, arXiv:1511.05641): unit `i` of a widened vector is a copy of old
unit `source[i]`. A tensor that writes the vector is gathered; a tensor that reads it gives each copy a share of
the old weight, and the shares sum to the whole.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "OPERATORS",
    "Operator",
    "clone",
    "copy_ranks",
    "gather",
    "interleave",
    "keyed_generator",
    "partition",
    "rescale",
    "split",
    "split_in_two",
    "sum_copies",
]

Operator = Callable[[Tensor, int, Tensor, torch.Generator], Tensor]


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


def clone(weight: Tensor, axis: int, source: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Let a tensor read a widened vector, every copy with the same share.

    The copies of a unit then get the same gradient for ever and stay one unit: a negative control, not a way to
    gain capacity. (One exception: copies of a key/value head that several query heads share come to serve
    different ones of them, and part.) Signature and result as `split`.

    Returns:
        Exact when a unit is copied 1, 2, 4 ... times (and no share underflows), rounded once otherwise.

    Source: Net2WiderNet, Chen et al. 2016, arXiv:1511.05641; HyperCloning, arXiv:2409.12903.
    """
    counts = torch.bincount(source, minlength=weight.shape[axis])[source]
    return gather(weight, axis, source) / _along(counts, axis, weight)


def split(weight: Tensor, axis: int, source: Tensor, generator: torch.Generator) -> Tensor:
    """Let a tensor read a widened vector, the copies with random, unequal shares.

    Each entry is cut in two by `split_in_two`, and the parts again until there is one per copy. Entries are cut
    independently, so the copies get different gradients and part in training.

    Args:
        weight: any shape, any float dtype.
        axis: the axis that counts the units read.
        source: (new,), int64, every old unit at least once.
        generator: a CPU generator; the result depends on its state and on nothing else.

    Returns:
        `weight` with `axis` of length new, same dtype and device. The shares of an entry sum to it bit-exactly
        for any number of copies, subnormal numbers included. Share and entry have the same sign.

    Source: unequal shares from LEMON, Wang et al. 2023, arXiv:2310.07999.
    """
    return _share(weight, axis, source, generator, _split_shares)


def partition(weight: Tensor, axis: int, source: Tensor, generator: torch.Generator) -> Tensor:
    """Let a tensor read a widened vector, each entry given whole to one random copy and zero to the others.

    Exact for any number of copies and any dtype. Signature and result as `split`.
    """
    return _share(weight, axis, source, generator, _partition_shares)


def split_in_two(weight: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Cut every entry into two unequal parts that sum to it exactly.

    The larger part is ``W1 = round(a W)`` with a in [1/2, 1]; then W/2 <= W1 <= W, and by Sterbenz's lemma the
    remainder ``W - W1`` is a number of the same dtype: nothing is rounded away. (Adding and subtracting noise is
    off in nearly half of all bf16 entries; a below 1/2 has no such guarantee.) A coin decides which part is first.

    Args:
        weight: any shape, any float dtype.
        uniform: same shape, float, in [0, 1): the share of the first part. Both the coin and a come from it.

    Returns:
        Two tensors like `weight`.

    Source: P. H. Sterbenz, Floating-Point Computation, 1974, theorem 4.3.1.
    """
    larger_share = torch.maximum(uniform, 1 - uniform)
    larger = (weight * larger_share.to(torch.promote_types(weight.dtype, torch.float32))).to(weight.dtype)
    # A subnormal entry of odd size has no half: the larger part is then rounded down, which is still exact
    # because subnormal numbers are multiples of one smallest number and so are their differences.
    smaller = weight - larger
    return _exchange(larger, smaller, uniform < 0.5)


def rescale(weight: Tensor, factor: float, *, offset: float = 0.0) -> Tensor:
    """Scale a tensor whose effective value is ``offset + weight``.

    Norms of the Gemma family apply ``1 + w``: to scale what they apply, `offset` is 1 and the new weight
    ``factor * (1 + w) - 1``.

    Returns:
        Same shape, dtype and device; computed in float64 and rounded once. Exact when `factor` is a power of two
        and `offset` 0.
    """
    return (factor * (offset + weight.double()) - offset).to(weight.dtype)


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


def keyed_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one tensor: its numbers do not depend on the order in which tensors are grown."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _share(
    weight: Tensor,
    axis: int,
    source: Tensor,
    generator: torch.Generator,
    shares: Callable[[Tensor, int, torch.Generator], list[Tensor]],
) -> Tensor:
    """Cut the units into as many shares as they have copies, and put each where its copy sits."""
    shape = list(weight.shape)
    shape[axis] = len(source)
    grown = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    counts, ranks = torch.bincount(source, minlength=weight.shape[axis]), copy_ranks(source)
    for count in torch.unique(counts[source]).tolist():
        for rank in range(count):
            positions = torch.nonzero((counts[source] == count) & (ranks == rank)).flatten()
            # By old unit, so that position i of every rank is a copy of the same unit.
            positions = positions[torch.argsort(source[positions])]
            if rank == 0:
                units = source[positions]
                alone = len(units) == weight.shape[axis]  # sorted and without repetition: all of them, in order
                parts = shares(weight if alone else gather(weight, axis, units), count, generator)
            _put(grown, axis, positions, parts[rank])
    return grown


def _split_shares(weight: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    if count == 1:
        return [weight]
    first, second = split_in_two(weight, _uniform(weight.shape, generator).to(weight.device))
    n_first = (count + 1) // 2
    return _split_shares(first, n_first, generator) + _split_shares(second, count - n_first, generator)


def _put(grown: Tensor, axis: int, positions: Tensor, part: Tensor) -> None:
    """Write `part` at the sorted-by-unit positions of an axis; evenly spaced ones, the common case, in one stride."""
    first, step = int(positions[0]), int(positions[1] - positions[0]) if len(positions) > 1 else 1
    if step > 0 and bool((positions.diff() == step).all()):
        rows = (slice(None),) * axis + (slice(first, int(positions[-1]) + 1, step),)
        grown[rows] = part
    else:
        grown.index_copy_(axis, positions.to(grown.device), part)


def _uniform(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Random shares, float32: the 256 numbers (n + 1/2) / 256, none of them 0, 1/2 or 1.

    One random byte for each: a finer share would be rounded away in bfloat16, and drawing would take most of the time.
    """
    count = shape.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[:count].reshape(shape).float().add_(0.5).mul_(1 / 256)


def _exchange(first: Tensor, second: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Swap entries where a mask says so, by their bits: `torch.where` takes ten times as long in bfloat16."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.element_size()]
    left, right = first.view(integer), second.view(integer)
    changed = (left ^ right) & -where.to(integer)
    return (left ^ changed).view(first.dtype), (right ^ changed).view(first.dtype)


def _partition_shares(weight: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    owner = torch.randint(count, weight.shape, generator=generator).to(weight.device)
    return [torch.where(owner == rank, weight, 0) for rank in range(count)]


def _along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    shape = [1] * like.dim()
    shape[axis] = -1
    return values.reshape(shape).to(like.device)


# The width methods, by the name a file can hold. A function passed as `width_method` needs no entry.
OPERATORS: dict[str, Operator] = {"clone": clone, "partition": partition, "split": split}
