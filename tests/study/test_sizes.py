import itertools
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.growth.plan import plan_growth
from hf_bootstrap.study.costs import flops_per_token
from hf_bootstrap.study.sizes import KINDS, grown_shape, read_sizes, stated_size, why_unknown

LENGTH = 128
# No two sizes are equal, so that none can stand for another.
USUAL = {
    "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 20, "vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1,
}  # fmt: skip
OLD = {key: value for key, value in USUAL.items() if key not in ("num_key_value_heads", "head_dim")}
OWN = {
    "gpt2": {"n_embd": 48, "n_inner": 88, "n_layer": 3, "n_head": 4, "vocab_size": 320},
    "gpt_neo": {
        "hidden_size": 48, "intermediate_size": 88, "num_layers": 2, "num_heads": 4, "vocab_size": 320,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": OLD,
    "opt": {
        "hidden_size": 48, "ffn_dim": 88, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 48,
        "vocab_size": 320,
    },
}  # fmt: skip
SHAPES = {kind: {"model_type": kind, **OWN.get(kind, USUAL)} for kind in KINDS}


def real(shape):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))


def agrees(shape):
    """Whether FLOPs are those of the real model, and its weights those of its matrices: no vectors, no positions."""
    model, sizes = real(shape), read_sizes(shape)
    size = measure_size(model)
    head = {id(p) for p in model.get_output_embeddings().parameters()}
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    words = next(table for table in tables if table.shape == (shape["vocab_size"], sizes.hidden))
    left_out = sum(p.numel() for p in model.parameters() if p.dim() < 2 and id(p) not in head)
    left_out += sum(p.numel() for p in model.get_output_embeddings().parameters() if p.dim() < 2)
    left_out += sum(table.numel() for table in tables if table is not words)
    return flops_per_token(shape, LENGTH) == size.flops_per_token(LENGTH) and sizes.stored == size.total - left_out


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_counted_as_the_real_model(kind):
    assert agrees(SHAPES[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_left_to_transformers_is_unknown_or_the_one_it_takes(kind):
    unknown = []
    for key in SHAPES[kind].keys() - {"pad_token_id", "bos_token_id", "eos_token_id", "attention_types"}:
        shape = {name: value for name, value in SHAPES[kind].items() if name != key}
        if read_sizes(shape) is None:
            unknown.append(key)
        else:
            assert agrees(shape), key
    assert {"model_type", "vocab_size"} < set(unknown)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_of_every_kind_is_counted_as_the_real_one(kind):
    adapted = get_peft_model(
        real(SHAPES[kind]), LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=kind == "gpt2")
    )
    size = measure_size(adapted)
    assert size.adapter
    assert flops_per_token(SHAPES[kind], LENGTH, {"r": 4}) == size.flops_per_token(LENGTH)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_tie_that_is_stated_is_believed(kind, tied):
    assert agrees({**SHAPES[kind], "tie_word_embeddings": tied})


GROWTHS = [
    {"depth": 2}, {"width": 2}, {"layer_map": (0, 1, 1, 2)}, {"num_hidden_layers": 5},
    {"width": 2, "intermediate_size": 264},
]  # fmt: skip
# Only where heads have a width of their own.
ALONE = [{"hidden_size": 96}, {"num_attention_heads": 8}]


@pytest.mark.parametrize(
    ("kind", "growth"),
    [*itertools.product(["gpt2", "llama", "opt"], GROWTHS), *itertools.product(["llama"], ALONE)],
    ids=str,
)
def test_a_grown_shape_is_that_of_the_growth_itself(kind, growth):
    planned = plan_growth(AutoConfig.for_model(**SHAPES[kind]), GrowthConfig(**growth))
    with torch.device("meta"):
        expected = measure_size(AutoModelForCausalLM.from_config(planned.target_config))
    assert flops_per_token(grown_shape(SHAPES[kind], growth), LENGTH) == expected.flops_per_token(LENGTH)


def test_heads_keep_their_width_where_the_config_does_not_state_it():
    shape = {key: value for key, value in SHAPES["llama"].items() if key != "head_dim"}
    assert read_sizes(grown_shape(shape, {"hidden_size": 96})).queries == 48


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"model_type": "llama"}, "states no hidden_size, num_hidden_layers, num_attention_heads, vocab_size"),
        ({"model_type": "gpt2"}, "states no n_embd, n_layer, n_head, vocab_size"),
        ({"model_type": "mixtral", **USUAL}, "mixtral"),
        ({}, "None"),
        ({"model_type": ["llama"], **USUAL}, "llama"),
        ({**SHAPES["llama"], "vocab_size": "320"}, "states no vocab_size"),
        ({**SHAPES["llama"], "n_embd": 48, "hidden_size": None}, "states no hidden_size"),
        ({**SHAPES["opt"], "word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        ({"model_type": "opt", **OLD}, "states no ffn_dim"),
    ],
)
def test_what_is_not_known_says_why(shape, why):
    assert why in why_unknown(shape)
    assert read_sizes(shape) is None
    assert flops_per_token(shape, LENGTH) is None
    assert read_sizes(grown_shape(shape, {"depth": 2, "width": 2})) is None


def test_usual_names_are_read_where_transformers_reads_them():
    usual = {"model_type": "gpt2", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape = {**usual, "vocab_size": 320, "intermediate_size": 88}  # which GPT-2 does not read: 4 * 48
    assert agrees(shape)
    assert read_sizes(shape).inner == 192
    assert stated_size(shape, "intermediate_size") is None
    assert agrees(grown_shape(shape, {"depth": 2, "width": 2}))


def test_reading_sizes_loads_no_torch():
    code = "import sys, hf_bootstrap.study.sizes; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
