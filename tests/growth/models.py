"""Tiny models of many architectures, every parameter random, every dimension of another size."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

torch.set_num_threads(1)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,  # 4 heads x 8 = 32, so the hidden size is no multiple of heads x head width
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Fields an architecture needs because its own default does not fit sizes as small as these.
EXTRA = {
    "stablelm": {"partial_rotary_factor": 0.5},
    "gemma2": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "mistral": {"sliding_window": 5},
}
# In float64 these compute everything in float64; the others fall back to float32 in norms or rotary angles.
EXACT = ("gpt2", "gpt_neox", "nemotron", "phi", "stablelm", "starcoder2")
UPCASTING = (
    "cohere",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
# Head width is hidden size / heads here and nowhere else, so hidden size and heads grow together.
DERIVES_HEAD_WIDTH = ("gpt2", "gpt_neox", "phi", "stablelm", "starcoder2")
ARCHITECTURES = tuple(sorted((*EXACT, *UPCASTING)))
# One of each build (fused or biased projections, norms, windows, gates, parallel blocks); `make test-all` takes all.
_OF_EACH_BUILD = ("cohere", "gemma3_text", "gpt2", "gpt_neox", "llama", "olmo2", "phi3", "starcoder2")


def mostly_slow(values, fast):
    """Values to parametrise with, of which only some belong to the fast tests."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


SPREAD = mostly_slow(ARCHITECTURES, _OF_EACH_BUILD)


def tiny(model_type: str, *, dtype: torch.dtype = torch.float64, **changes: object) -> PreTrainedModel:
    config_class = CONFIG_MAPPING[model_type]
    fields = {**SIZES, **EXTRA.get(model_type, {}), **changes}
    if "head_dim" not in config_class().to_dict():
        fields.pop("head_dim")
    config = config_class(**{config_class.attribute_map.get(k, k): v for k, v in fields.items()})
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                # Norm weights and biases too, or an error in them would not show.
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (0.5 if parameter.dim() == 1 else 0))
    return model.eval()


def allowed(model_type: str) -> float:
    return 1e-9 if model_type in EXACT else 2e-6


def random_ids(rows: int = 2, tokens: int = 12) -> torch.Tensor:
    return torch.randint(3, SIZES["vocab_size"], (rows, tokens), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel, **inputs: object) -> torch.Tensor:
    model.eval()
    return model(**inputs).logits.double()


def drift(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
