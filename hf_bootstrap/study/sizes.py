"""The sizes that a model's config states, under whichever name its type has for them, and the matrices they make.

A size that is left to transformers' defaults is not known, nor is anything of a type that `KINDS` lacks: unknown is
better than wrong. Without torch and transformers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["KINDS", "SIZE_NAMES", "Kind", "Sizes", "grown_shape", "read_sizes", "stated_size", "why_unknown"]

_GPT2 = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# What types call their sizes, where that is not the usual name.
_OTHER_NAMES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gptj", "codegen"), _GPT2),
    "gpt_neo": {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    "opt": {"intermediate_size": "ffn_dim"},
}
# Every name of a size, whoever uses it.
SIZE_NAMES = frozenset(
    {"head_dim", "max_position_embeddings", "num_key_value_heads", "vocab_size"}
    | {name for names in _OTHER_NAMES.values() for pair in names.items() for name in pair}
)
# What grows by `width`; depth has a rule of its own.
_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


class Kind(NamedTuple):
    """How the layers of a type of model are built.

    Attributes:
        gated: whether the MLP has a third matrix, the gate.
        fused: whether queries, keys and values are one matrix, and gate and up another.
        grouped: whether it reads a width of its own for heads, and a number of its own for key/value heads.
        kv_heads, head_dim: whether these, left out, follow from heads and hidden size.
        inner: the size of the MLP where it is left out, in hidden sizes; 0: not known then.
        tied: whether the head is the token table where the config does not say.
    """

    gated: bool = True
    fused: bool = False
    grouped: bool = True
    kv_heads: bool = True
    head_dim: bool = True
    inner: int = 0
    tied: bool = False


_OLD = Kind(gated=False, grouped=False, tied=True)
_GEMMA = Kind(kv_heads=False, head_dim=False, tied=True)
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("granite", "llama", "olmo", "olmo2", "olmo3"), Kind()),
    **dict.fromkeys(("mistral", "qwen2"), Kind(kv_heads=False)),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEMMA),
    "gpt2": _OLD._replace(fused=True, inner=4),
    "gpt_neo": _OLD._replace(inner=4),
    "gpt_neox": _OLD._replace(fused=True, tied=False),
    "opt": _OLD,
    "phi": Kind(gated=False),
    "phi3": Kind(fused=True),
    "qwen3": Kind(kv_heads=False, head_dim=False),
    "smollm3": Kind(kv_heads=False, tied=True),
    "starcoder2": Kind(gated=False, kv_heads=False, tied=True),
}


class Sizes(NamedTuple):
    """What the matrices of a model are made of: its kind, layers and widths.

    Attributes:
        queries, keys: width of all query heads together, and of all key (or value) heads.
        inner: of the MLP.
        tied: whether the head is the token table.
    """

    kind: Kind
    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    tied: bool

    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of every matrix of a layer."""
        into = [self.queries, self.keys, self.keys]
        up = [self.inner] * (2 if self.kind.gated else 1)
        if self.kind.fused:
            into, up = [sum(into)], [sum(up)]
        reading = [(self.hidden, out) for out in (*into, *up)]
        return [*reading, (self.queries, self.hidden), (self.inner, self.hidden)]

    @property
    def body(self) -> int:
        """Weights in matrices of all layers: the non-embedding parameters but for biases, norms and other vectors."""
        return self.layers * sum(reads * writes for reads, writes in self.matrices())

    @property
    def matmul(self) -> int:
        """Weights in matrix products, head included."""
        return self.body + self.hidden * self.vocabulary

    @property
    def stored(self) -> int:
        """Weights of the model, but for vectors and tables of positions."""
        return self.body + self.hidden * self.vocabulary * (1 if self.tied else 2)


def read_sizes(shape: Mapping[str, Any]) -> Sizes | None:
    """The sizes of a model; None where its config does not state one that matters, or its kind is not known."""
    if why_unknown(shape):
        return None
    kind, found = KINDS[shape["model_type"]], {key: stated_size(shape, key) or 0 for key in (*_WIDTHS, "head_dim")}
    hidden, heads = found["hidden_size"], found["num_attention_heads"]
    width = (found["head_dim"] if kind.grouped else 0) or hidden // heads
    groups = (found["num_key_value_heads"] if kind.grouped else 0) or heads
    return Sizes(
        kind=kind,
        layers=stated_size(shape, "num_hidden_layers") or 0,
        hidden=hidden,
        queries=heads * width,
        keys=groups * width,
        inner=found["intermediate_size"] or kind.inner * hidden,
        vocabulary=stated_size(shape, "vocab_size") or 0,
        tied=bool(shape.get("tie_word_embeddings", kind.tied)),
    )


def why_unknown(shape: Mapping[str, Any]) -> str:
    """Why the sizes of a model are not known, such as "states no vocab_size"; empty where they are."""
    kind = KINDS.get(str(shape.get("model_type")))
    if kind is None:
        return f"is of a type whose layers are not known here ({shape.get('model_type')})"
    needed = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    needed += ["intermediate_size"] * (not kind.inner)
    needed += ["head_dim"] * (not kind.head_dim) + ["num_key_value_heads"] * (not kind.kv_heads)
    missing = [_own_name(shape, key) for key in needed if stated_size(shape, key) is None]
    if missing:
        return f"states no {', '.join(missing)}"
    # Left out it is 768, and where it is not the hidden size there are two matrices more.
    if shape["model_type"] == "opt" and shape.get("word_embed_proj_dim") != shape["hidden_size"]:
        return "states no word_embed_proj_dim equal to its hidden_size"
    return ""


def stated_size(shape: Mapping[str, Any], key: str) -> int | None:
    """A size as a config states it, under its type's name; None where it does not, or states no whole number.

    Args:
        key: the usual name, such as hidden_size.
    """
    found = shape.get(_own_name(shape, key))
    return found if type(found) is int and found > 0 else None


def grown_shape(shape: Mapping[str, Any], growth: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config after a growth, as far as it states sizes; heads keep their width."""
    old = {key: size for key in (*_WIDTHS, "num_hidden_layers") if (size := stated_size(shape, key)) is not None}
    factors = {"num_hidden_layers": growth.get("depth") or 1, **dict.fromkeys(_WIDTHS, growth.get("width") or 1)}
    new = {key: growth.get(key) or size * factors[key] for key, size in old.items()}
    if growth.get("layer_map") and "num_hidden_layers" in old:
        new["num_hidden_layers"] = len(growth["layer_map"])
    changed = {_own_name(shape, key): size for key, size in new.items()}
    hidden, heads = old.get("hidden_size"), old.get("num_attention_heads")
    if hidden and heads and new["hidden_size"] * heads != hidden * new["num_attention_heads"]:
        changed["head_dim"] = stated_size(shape, "head_dim") or hidden // heads
    if hidden and shape.get("word_embed_proj_dim") == hidden:
        changed["word_embed_proj_dim"] = new["hidden_size"]
    return {**shape, **changed}


def _own_name(shape: Mapping[str, Any], key: str) -> str:
    """The name under which a config states a size, or would."""
    other = _OTHER_NAMES.get(str(shape.get("model_type")), {}).get(key, key)
    # transformers takes the usual name as well, but for the MLP's, which it would not read.
    return key if key in shape and other not in shape and key != "intermediate_size" else other
