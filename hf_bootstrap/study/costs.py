"""What runs cost, worked out from their specs alone: tokens, compute, FLOPs, disk; without torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..records import RunSpec
from ..units import training_flops_per_token
from .grid import start_run_id

__all__ = [
    "checkpoint_bytes",
    "costs",
    "flops",
    "flops_per_token",
    "grown_shape",
    "own_tokens",
    "shapes",
    "tokens_needed",
]


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
    hidden 64, twice the layers, twice the width). The overheads vanish for large models. A start that is
    no run of the study counts as a model of the reference size.
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


def own_tokens(spec: RunSpec) -> int:
    """Tokens a run trains itself: without those of the run it resumes."""
    before = int(str(spec.start).rpartition("-")[2]) * spec.batch_tokens if spec.resume else 0
    return spec.tokens - before


def flops(spec: RunSpec, shape: Mapping[str, Any]) -> float | None:
    """Training FLOPs of the tokens a run trains itself; None where its model is not known."""
    return own_tokens(spec) * flops_per_token(shape, spec.sequence_length, spec.lora) if shape else None


def flops_per_token(shape: Mapping[str, Any], sequence_length: int, lora: Mapping[str, Any] | None = None) -> float:
    """Training FLOPs of one token of a model with this config, attention included.

    Weights that a LoRA freezes pass gradients on and have none of their own: 4 FLOPs each for 6, as points count it.
    """
    layers, matmul, _ = _sizes(shape)
    heads, hidden = shape.get("num_attention_heads", 1), shape.get("hidden_size", shape.get("n_embd", 64))
    width, adapter = heads * (shape.get("head_dim") or hidden // heads), _adapter(lora, shape)
    whole = training_flops_per_token(matmul + adapter, layers, width, sequence_length)
    return whole - 2.0 * matmul if adapter else whole


def checkpoint_bytes(spec: RunSpec, shape: Mapping[str, Any]) -> int:
    """Bytes of the checkpoints a run keeps: weights and two moments of Adam in fp32; 0 where the model is not known.

    A LoRA's hold the adapter alone.
    """
    if not shape:
        return 0
    _, matmul, vocabulary = _sizes(shape)
    table = 0 if shape.get("tie_word_embeddings") else vocabulary
    return len(spec.checkpoints) * 12 * (_adapter(spec.lora, shape) or matmul + table)


def grown_shape(shape: Mapping[str, Any], growth: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes in a model's config after a growth."""
    factors = {"num_hidden_layers": growth.get("depth"), "hidden_size": growth.get("width")}
    factors["intermediate_size"] = factors["num_attention_heads"] = factors["hidden_size"]
    sizes = {key: shape[key] * (by or 1) for key, by in factors.items() if key in shape}
    stated = {key: growth[key] for key in sizes if growth.get(key) is not None}
    if growth.get("layer_map"):
        stated["num_hidden_layers"] = len(growth["layer_map"])
    return {**shape, **sizes, **stated}


def _token_cost(shape: Mapping[str, Any]) -> float:
    layers, matmul, _ = _sizes(shape)
    return float(matmul + 80_000 * (layers + 1))


def _adapter(lora: Mapping[str, Any] | None, shape: Mapping[str, Any]) -> int:
    """Weights of a LoRA beside every linear layer but the head, r (in + out) each; 0 without one.

    Where its target modules are named it has fewer: how many of which size, the model's code alone knows.
    """
    if lora is None:
        return 0
    layers, hidden, inner, _ = _widths(shape)
    return int(lora["r"]) * layers * (4 * 2 * hidden + 3 * (hidden + inner))


def _sizes(shape: Mapping[str, Any]) -> tuple[int, int, int]:
    """Layers, weights in matrix products (head included) and weights of the token table; gated MLP assumed."""
    layers, hidden, inner, vocabulary = _widths(shape)
    return layers, layers * (4 * hidden * hidden + 3 * hidden * inner) + hidden * vocabulary, hidden * vocabulary


def _widths(shape: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Layers, hidden size, that of the MLP, and vocabulary."""
    layers = shape.get("num_hidden_layers", shape.get("n_layer", 2))
    hidden = shape.get("hidden_size", shape.get("n_embd", 64))
    return layers, hidden, shape.get("intermediate_size", 3 * hidden), shape.get("vocab_size", 512)
