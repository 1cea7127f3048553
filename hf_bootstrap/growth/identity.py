"""Which tensors of a copied layer are set to zero so that the layer adds nothing until it is trained.

A layer that adds to the residual stream is silent when what it adds is zero. Where the branch ends in a norm (sandwich
norms), only that norm's scale is zeroed: zeroing the projection before it too makes a layer whose every gradient is
zero, and zeroing the projection alone gives gradients of 1/sqrt(eps). Elsewhere the projections that write to the
stream are zeroed, with their biases. Names say which tensors these are; that the model then computes what it
computed is for `verify` to find out.

Source: LLaMA-Pro, Wu et al. 2024, arXiv:2401.02415.
"""

import re
from collections.abc import Iterable

from ..errors import UnsupportedModelError

__all__ = ["is_writer", "normalises_sum", "silent_tensors"]

# Norms at the end of a branch. A `post_attention_layernorm` is one only where the MLP has one too: in Llama it is
# the norm before the MLP.
_POST_MLP = re.compile(r"post_(feedforward|mlp|ffn|ff|moe)_?(layer_?norm|norm)?|norm_?4|ffn_norm_post")
_POST_ATTENTION = re.compile(
    r"post_(self_)?(attention|attn|mixer|operator)_?(layer_?norm|norm)?|norm_?2|attn_norm_post"
)
# Projections that write to the residual stream.
_WRITERS = re.compile(
    r"o_proj|out_proj|down_proj|c_proj|fc2|fc_out|wo|w2|Wo|dense_4h_to_h|dense|output_linear|out_lin|lin2|linear_out"
    r"|attn_out|ff_out|output|proj_down|o|w_2|project_out|resid_proj|attention_output|linear_2"
)


# Types that normalise the sum of stream and branch, so that no weight makes a layer pass its input on. Where the
# tensors tell (BERT's `attention.output.LayerNorm`), they are asked; these have the names of others.
_NORM_OF_SUM = ("bart", "blenderbot-small", "marian", "mvp", "openai-gpt", "plbart", "prophetnet", "trocr", "xlm")
# Types that change the stream outside the two branches, and how.
_BESIDE_BRANCHES = {
    "deepseek_v4": "mixes several streams",
    "doge": "scales the stream by a learned weight",
    "gemma3n_text": "mixes several streams",
    "gemma4": "scales the whole stream by a scalar of each layer",
    "gemma4_text": "scales the whole stream by a scalar of each layer",
    "gemma4_unified": "scales the whole stream by a scalar of each layer",
    "gemma4_unified_text": "scales the whole stream by a scalar of each layer",
    "hy_v4": "mixes several streams",
    "moshi": "does not pass its input on when the writers are zero (measured: logits change)",
    "longcat_flash": "passes tokens of its zero experts on",
    "ctrl": "adds the normalised input, not the input",
}


def silent_tensors(names: Iterable[str], model_type: str) -> dict[str, bool]:
    """The tensors of one layer to set to zero.

    Args:
        names: of the layer's tensors, without the layer: "mlp.down_proj.weight".
        model_type: for the error message.

    Returns:
        ``{name: is_norm}``: a norm that applies ``1 + w`` gets w = -1, everything else zero.

    Raises:
        UnsupportedModelError: the layer's writers are not known.
    """
    names = list(names)
    if normalises_sum(names, model_type):
        raise UnsupportedModelError(
            f"{model_type} normalises the sum of its residual stream and each branch, so a layer always changes what "
            "it is given and no copy can add nothing. Choose stack or interpose."
        )
    if model_type in _BESIDE_BRANCHES:
        raise UnsupportedModelError(
            f"{model_type} {_BESIDE_BRANCHES[model_type]} in each layer, so a copy with silent branches still "
            "changes the function. Choose stack or interpose."
        )
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    post_mlp = [m for m in modules if _POST_MLP.fullmatch(m.rpartition(".")[2])]
    silent: dict[str, bool] = {}
    if post_mlp:
        after = [m for m in modules if _POST_ATTENTION.fullmatch(m.rpartition(".")[2])]
        after = [m for m in after if "self_att" in m] or after
        if "input_layernorm" in modules and not any(m.startswith(("pre_", "post_self_att")) for m in modules):
            after = []  # as in Llama: the norm after attention is the one before the MLP
        silent = {name: True for name in names if name.rpartition(".")[0] in (*post_mlp, *after)}
        names = [] if after else [name for name in names if "attn" in name or "attention" in name]
    silent |= {name: False for name in names if is_writer(name)}
    if not silent:
        known = ", ".join(sorted({m.rpartition(".")[2] for m in modules})[:8])
        raise UnsupportedModelError(
            f"{model_type}: no projection of its layers that writes to the residual stream is known by name "
            f"(it has {known}), so a copy cannot be made to add nothing. Choose stack or interpose."
        )
    return silent


def normalises_sum(names: Iterable[str], model_type: str) -> bool:
    """Whether layers normalise the sum of stream and branch (post-norm, as in BERT)."""
    return model_type in _NORM_OF_SUM or any("output.LayerNorm" in name for name in names)


def is_writer(name: str) -> bool:
    """Whether a tensor writes to the residual stream, by its name."""
    owner, _, leaf = name.rpartition(".")
    part = owner.rpartition(".")[2]
    if leaf in ("weight", "bias"):
        # Lists of experts (experts.3.w2) and sequences (mlp.2) are named by number: the name before counts too.
        return _WRITERS.fullmatch(part) is not None or (leaf == "bias" and part in ("experts", "mlp"))
    return _WRITERS.fullmatch(leaf.removesuffix("_bias")) is not None  # fused experts: a parameter, not a module
