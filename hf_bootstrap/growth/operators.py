"""What growth does to one tensor: index maps, gathering, and the ways copies can share a weight.

Pure functions; they know nothing of models. Which axis of which tensor they are applied to is for `plan`.

The one rule (Net2WiderNet, Chen et al. 2016, arXiv:1511.05641): unit `i` of a widened vector is a copy of old
unit `source[i]`. A tensor that writes the vector is gathered; a tensor that reads it gives each copy a share of
the old weight, and the shares sum to the whole.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .index_maps import copy_ranks, gather

__all__ = [
    "OPERATORS",
    "Operator",
    "WidthMethod",
    "clone",
    "give_first",
    "keyed_generator",
    "noise",
    "partition",
    "rescale",
    "split",
    "split_in_two",
    "width_method",
]

Operator = Callable[[Tensor, int, Tensor, torch.Generator], Tensor]

# Size of the noise of `noise`, of the root mean square of the shares: 20 dB below them.
_NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class WidthMethod:
    """A way to make a model wider, as an object that `GrowthConfig.width_method` takes.

    A plain function of the signature of `Operator` is one too: with copies, and no promise.

    Attributes:
        share: called as ``share(weight, axis, source, generator)`` for every tensor that reads a widened vector:
            the axis `axis` counts the units read, ``source[i]`` is the old unit that new unit `i` is a copy of, and
            `generator` is a CPU generator of the tensor's own. It returns `weight` with that axis of length
            ``len(source)``, same dtype and device, and may be called with some rows of the tensor at a time.
        keeps_function: whether the shares of every old unit are promised to sum to it. Growth then holds the grown
            model to it, and refuses to hand out one that computes something else.
        fresh: new units are no copies: nobody hears them at first, and any number can be added. What old units say
            and hear stays as it was, so `share` is not called.
        next_layer: what writes a copy comes from the next layer instead of its own (in the last one from the layer
            before), which changes the function and parts the copies.
    """

    share: Operator
    keeps_function: bool = False
    fresh: bool = False
    next_layer: bool = False

    def __call__(self, weight: Tensor, axis: int, source: Tensor, generator: torch.Generator) -> Tensor:
        """As `share`."""
        return self.share(weight, axis, source, generator)


def width_method(method: "str | Operator") -> WidthMethod:
    """The method behind a name in `OPERATORS`, or a function."""
    found = OPERATORS[method] if isinstance(method, str) else method
    if isinstance(found, WidthMethod):
        return found
    return WidthMethod(share=found, keeps_function=bool(getattr(found, "keeps_function", False)))


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


def noise(weight: Tensor, axis: int, source: Tensor, generator: torch.Generator) -> Tensor:
    """Let a tensor read a widened vector, equal shares with noise that cancels between the copies of a unit.

    Signature as `split`. The noise is Gaussian, a tenth of the root mean square of the shares.

    Returns:
        As `split`, but each share is rounded by itself, so their sum is off: by about the rounding of the dtype,
        which for bfloat16 is measured in the logits. Never exact by promise; `split` costs the same and is.

    Source: HyperCloning, Samragh et al. 2024, arXiv:2409.12903, section 3.
    """
    return _share(weight, axis, source, generator, _noisy_shares)


def give_first(weight: Tensor, axis: int, source: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Let a tensor read a widened vector: the first copy of each unit keeps the whole weight, the others get zero.

    Signature as `split`. Exact for any dtype. Where new units are no copies this is what "nobody hears them" means.
    """
    first = (copy_ranks(source) == 0).to(weight.device)
    return torch.where(_along(first, axis, weight), gather(weight, axis, source), 0)


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


def _noisy_shares(weight: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    if count == 1:
        return [weight]
    even = weight.double() / count
    size = _NOISE * float(even.square().mean().sqrt())
    draws = torch.randn((count, *weight.shape), generator=generator, dtype=torch.float32).to(weight.device).double()
    shares = even + size * (draws - draws.mean(0))
    return list(shares.to(weight.dtype))


def _along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    shape = [1] * like.dim()
    shape[axis] = -1
    return values.reshape(shape).to(like.device)


# The width methods, by the name a file can hold. An object passed as `width_method` needs no entry.
OPERATORS: dict[str, Operator] = {
    # Advanced knowledge initialisation: Chen et al. 2022 (bert2BERT), arXiv:2110.07143, section 3.3.2.
    "aki": WidthMethod(share=clone, next_layer=True),
    "clone": WidthMethod(share=clone, keeps_function=True),
    "noise": WidthMethod(share=noise),
    "partition": WidthMethod(share=partition, keeps_function=True),
    "split": WidthMethod(share=split, keeps_function=True),
    # Masked structural growth: Yao et al. 2023, arXiv:2305.02869; norms after LEMON, arXiv:2310.07999.
    "zero_pad": WidthMethod(share=give_first, keeps_function=True, fresh=True),
}
