"""What a token of a mixture goes through, against arithmetic on paper and the figures its makers state."""

import pytest
from transformers import MixtralConfig

from hf_bootstrap import GrowthConfig
from hf_bootstrap.growth.architecture import build_meta
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.growth.forecast import forecast_growth
from hf_bootstrap.growth.job import prepare_growth

from .models import tiny
from .zoo import tiny_config


def test_mixtral_uses_the_parameters_its_makers_state():
    config = MixtralConfig(num_key_value_heads=8, max_position_embeddings=32768)  # the defaults are those of 8x7B
    size = measure_size(build_meta(config))
    expert = 3 * 4096 * 14336
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    inside = attention + 4096 * 8  # and the router
    norms = 65 * 4096
    assert size.total == 32 * (inside + 8 * expert) + norms + 2 * 32000 * 4096
    assert size.active == 32 * (inside + 2 * expert) + norms + 2 * 32000 * 4096
    assert round(size.total / 1e9, 1) == 46.7  # arXiv:2401.04088: 47B, of which 13B are active
    assert round(size.active / 1e9, 1) == 12.9
    matmul = 32 * (inside + 2 * expert) + 32000 * 4096
    assert size.flops_per_token(2048) == 6 * matmul + 6 * 32 * 4096 * 2048


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3", "gpt_oss", "jetmoe", "ernie4_5_moe", "llama4_text"])
def test_experts_that_a_token_leaves_aside_are_not_active(model_type):
    model = build_meta(tiny_config(model_type))
    of_experts = [
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.shape[0] == 8 and (parameter.dim() == 3 or (".experts." in name and name.endswith("_bias")))
    ]
    taken = 1 if model_type == "llama4_text" else 2  # of 8, in the zoo
    size = measure_size(model)
    assert size.total - size.active == sum(of_experts) * (8 - taken) // 8 > 0


@pytest.mark.parametrize("model_type", ["dbrx", "longcat_flash", "doge"])
def test_what_cannot_be_told_is_none_and_not_a_guess(model_type):
    size = measure_size(build_meta(tiny_config(model_type)))
    assert size.active is None
    assert size.flops_per_token(128) is None


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "mamba"])
def test_without_experts_everything_is_active(model_type):
    size = measure_size(build_meta(tiny_config(model_type)))
    assert size.active == size.total


def test_a_plan_says_what_is_active_where_it_is_not_all(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "dense")
    tiny("mixtral").save_pretrained(tmp_path / "mixture")
    dense, mixture = (
        forecast_growth(prepare_growth(tmp_path / name, GrowthConfig(width=2)), tmp_path / "grown")
        for name in ("dense", "mixture")
    )
    assert "active" not in str(dense)
    assert dense.n_params_active == dense.n_params
    assert "active for one token" in str(mixture)
    assert mixture.n_params_active_source < mixture.n_params_source
    assert mixture.n_params_active < mixture.n_params
    assert mixture.flops_per_token > 0
    assert mixture.to_dict()["n_params_active_source"] == mixture.n_params_active_source
