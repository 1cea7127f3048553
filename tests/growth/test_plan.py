import json
import time

import pytest
import torch
from transformers import LlamaConfig

from hf_bootstrap.errors import GrowthError
from hf_bootstrap.growth.anatomy import probe_axes
from hf_bootstrap.growth.architecture import adds_one, build_meta, find_ties
from hf_bootstrap.growth.bootstrap import grow_model
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.plan import count_parameters, plan_growth

from .models import ARCHITECTURES, tiny


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_plan_names_every_tensor_the_grown_model_has(model_type):
    source = tiny(model_type)
    plan = plan_growth(source.config, GrowthConfig(depth=2, width=2))
    grown = grow_model(source, plan)
    shapes = {name: tuple(p.shape) for name, p in grown.named_parameters()}
    assert {recipe.target: recipe.shape for recipe in plan.recipes} == shapes
    assert count_parameters(grown) == (plan.n_params, plan.n_params_non_embedding)
    assert sum(p.numel() for p in grown.parameters()) == plan.n_params
    assert {recipe.source for recipe in plan.recipes} == set(dict(source.named_parameters()))


def test_a_plan_needs_no_storage_and_little_time():
    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    start = time.perf_counter()
    plan = plan_growth(config, GrowthConfig(depth=2, width=2))
    assert plan.n_params_source == 68_976_648_192  # what Llama 2 70B has
    assert plan.target_config.hidden_size == 16384
    assert time.perf_counter() - start < 60


def test_a_plan_prints_and_becomes_json():
    plan = plan_growth(tiny("gemma2").config, GrowthConfig(depth=2, width=2))
    text = str(plan)
    for line in ("num_hidden_layers", "3 -> 6", "0, 1, 2, 0, 1, 2", "model.norm.weight: scaled by 0.7071"):
        assert line in text
    record = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert record["factors"] == {"hidden": 2, "heads": 2, "kv_heads": 2, "mlp": 2}
    assert len(record["recipes"]) == len(plan.recipes)


def test_axes_have_the_names_a_reader_of_the_code_would_give_them():
    config = tiny("llama").config
    anatomy = probe_axes(config)

    def names(tensor):
        return [[segment.dimension for segment in axis] for axis in anatomy[tensor].axes], anatomy[tensor].reads

    assert names("model.embed_tokens.weight") == ([[None], ["hidden"]], None)
    assert names("model.layers.1.self_attn.q_proj.weight") == ([["heads"], ["hidden"]], 1)
    assert names("model.layers.1.self_attn.k_proj.weight") == ([["kv_heads"], ["hidden"]], 1)
    assert names("model.layers.1.self_attn.o_proj.weight") == ([["hidden"], ["heads"]], 1)
    assert names("model.layers.1.mlp.down_proj.weight") == ([["hidden"], ["mlp"]], 1)
    assert names("lm_head.weight") == ([[None], ["hidden"]], 1)


def test_fused_axes_are_taken_apart():
    phi3, gpt2 = (tiny(kind).config for kind in ("phi3", "gpt2"))
    fused = probe_axes(phi3)["model.layers.0.self_attn.qkv_proj.weight"].axes[0]
    assert [(s.dimension, s.length, s.block) for s in fused] == [
        ("heads", 48, 12),
        ("kv_heads", 24, 12),
        ("kv_heads", 24, 12),
    ]
    conv = probe_axes(gpt2)["transformer.h.0.attn.c_attn.weight"]
    # Queries, keys and values lie one after the other: widened in place, heads whole.
    assert [(s.length, s.block) for s in conv.axes[1]] == [(144, 12)]
    assert conv.reads == 0


@pytest.mark.parametrize(
    ("model_type", "expected"), [("gemma2", True), ("llama", False), ("gpt2", False), ("olmo2", False)]
)
def test_norms_that_add_one_are_found_by_asking_them(model_type, expected):
    model = build_meta(tiny(model_type).config)
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    assert {adds_one(norm) for norm in norms} == {expected}


def test_ties_are_found_on_the_meta_device():
    assert find_ties(build_meta(tiny("gpt2").config)) == {"lm_head.weight": "transformer.wte.weight"}
    assert find_ties(build_meta(tiny("llama").config)) == {}


def test_the_head_width_is_kept_and_written():
    config = LlamaConfig(hidden_size=48, num_attention_heads=4, head_dim=20, num_hidden_layers=1, intermediate_size=8)
    plan = plan_growth(config, GrowthConfig(width=2))
    assert (plan.target_config.head_dim, plan.target_config.num_attention_heads) == (20, 8)


def test_a_layer_map_beyond_the_model_is_refused():
    with pytest.raises(GrowthError, match="layer 5"):
        plan_growth(tiny("llama").config, GrowthConfig(layer_map=(0, 5)))


def test_planning_leaves_the_config_and_the_random_state_alone():
    config = tiny("qwen3").config
    before, state = config.to_dict(), torch.get_rng_state()
    plan_growth(config, GrowthConfig(depth=2, width=2))
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)
