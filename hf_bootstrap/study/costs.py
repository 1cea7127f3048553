"""What runs cost, worked out from their specs alone: tokens, compute, FLOPs, disk; without torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..records import RunSpec
from ..units import training_flops_per_token
from .grid import start_run_id
from .sizes import KINDS, Sizes, grown_shape, read_sizes

__all__ = [
    "chain_costs",
    "checkpoint_bytes",
    "costs",
    "flops",
    "flops_per_token",
    "own_tokens",
    "shapes",
    "tokens_needed",
]

# What a model counts as, relative to others, whose sizes nobody knows.
_REFERENCE = Sizes(kind=KINDS["llama"], layers=2, hidden=64, queries=64, keys=64, inner=192, vocabulary=512, tied=False)


def tokens_needed(specs: Sequence[RunSpec]) -> dict[str, int]:
    """For each token file, the trained tokens it must hold from its beginning, skipped blocks included."""
    needed: dict[str, int] = {}
    for spec in specs:
        end = spec.data_offset * spec.sequence_length + spec.tokens
        needed[spec.data] = max(needed.get(spec.data, 0), end)
    return needed


def costs(specs: Sequence[RunSpec]) -> dict[str, float]:
    """Relative compute of each run, by run id: tokens it trains itself times the cost of one token.

    A token costs its weights in matrix products plus 80,000 for every layer and once more: what a layer
    costs in overheads at these sizes on one CPU thread (33, 56 and 62 microseconds a token measured at
    hidden 64, twice the layers, twice the width). The overheads vanish for large models. A model whose sizes
    are not known, such as a start that is no run of the study, counts as one of the reference size.
    """
    return {run_id: own_tokens(spec) * _token_cost(shape) for run_id, (spec, shape) in shapes(specs).items()}


def shapes(specs: Sequence[RunSpec]) -> dict[str, tuple[RunSpec, Mapping[str, Any]]]:
    """By run id the spec and the config of its model, growth applied; empty for a start that is no run of the study.

    Args:
        specs: each after the run it starts from.
    """
    found: dict[str, tuple[RunSpec, Mapping[str, Any]]] = {}
    for spec in specs:
        shape = spec.model
        if shape is None:
            _, before = found.get(start_run_id(spec) or "", (None, {}))
            shape = grown_shape(before, spec.growth) if spec.growth else before
        found[spec.run_id] = (spec, shape)
    return found


def chain_costs(specs: Mapping[str, RunSpec], own: Mapping[str, float]) -> dict[str, float]:
    """Of each run, its own cost and that of the longest line of runs behind it, all by run id.

    Args:
        own: each after the run it starts from.
    """
    chains = dict.fromkeys(own, 0.0)
    for run_id in reversed(list(own)):
        chains[run_id] += own[run_id]
        writer = start_run_id(specs[run_id])
        if writer in chains:
            chains[writer] = max(chains[writer], chains[run_id])
    return chains


def own_tokens(spec: RunSpec) -> int:
    """Tokens a run trains itself: without those of the run it resumes."""
    before = int(str(spec.start).rpartition("-")[2]) * spec.batch_tokens if spec.resume else 0
    return spec.tokens - before


def flops(spec: RunSpec, shape: Mapping[str, Any]) -> float | None:
    """Training FLOPs of the tokens a run trains itself; None where the sizes of its model are not known."""
    one = flops_per_token(shape, spec.sequence_length, spec.lora)
    return None if one is None else own_tokens(spec) * one


def flops_per_token(
    shape: Mapping[str, Any], sequence_length: int, lora: Mapping[str, Any] | None = None
) -> float | None:
    """Training FLOPs of one token of a model with this config, attention included; None where sizes are not known.

    Weights that a LoRA freezes pass gradients on and have none of their own: 4 FLOPs each for 6, as points count it.
    """
    sizes = read_sizes(shape)
    if sizes is None:
        return None
    adapter = _adapter(lora, sizes)
    whole = training_flops_per_token(sizes.matmul + adapter, sizes.layers, sizes.queries, sequence_length)
    return whole - 2.0 * sizes.matmul if adapter else whole


def checkpoint_bytes(spec: RunSpec, shape: Mapping[str, Any]) -> int:
    """Bytes of the checkpoints a run keeps: weights and two moments of Adam in fp32; 0 where sizes are not known.

    A LoRA's hold the adapter alone.
    """
    sizes = read_sizes(shape)
    return len(spec.checkpoints) * 12 * (_adapter(spec.lora, sizes) or sizes.stored) if sizes else 0


def _token_cost(shape: Mapping[str, Any]) -> float:
    sizes = read_sizes(shape) or _REFERENCE
    return float(sizes.matmul + 80_000 * (sizes.layers + 1))


def _adapter(lora: Mapping[str, Any] | None, sizes: Sizes) -> int:
    """Weights of a LoRA beside every linear layer but the head, r (in + out) each; 0 without one.

    Where its target modules are named it has fewer: how many of which size, the model's code alone knows.
    """
    return 0 if lora is None else int(lora["r"]) * sizes.layers * sum(map(sum, sizes.matrices()))
