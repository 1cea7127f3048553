import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_bootstrap.errors import GrowthError, UnsupportedModelError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig

from .models import drift, logits, random_ids, tiny

WIDER = GrowthConfig(width=2)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "base"
    tiny("llama", dtype=torch.float32).save_pretrained(path)
    return path


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_no_growth_gives_the_model_back_as_it_is():
    source = tiny("llama")
    assert bootstrap_from_pretrained(source, GrowthConfig()) is source


def test_the_source_stays_as_it_is():
    source = tiny("gpt2").eval()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    config = source.config.to_dict()
    random_state = torch.get_rng_state()
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2, depth=2))
    assert all(torch.equal(before[name], tensor) for name, tensor in source.state_dict().items())
    assert source.config.to_dict() == config
    assert not source.training
    assert torch.equal(torch.get_rng_state(), random_state)
    shared = {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in grown.parameters()}
    assert shared == set()


def test_the_grown_model_is_ready_to_train():
    source = tiny("llama", dtype=torch.bfloat16)
    source.generation_config.max_new_tokens = 17
    grown = bootstrap_from_pretrained(source, WIDER)
    assert type(grown) is type(source)
    assert grown.training
    assert {p.dtype for p in grown.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in grown.parameters())
    assert grown.config._attn_implementation == source.config._attn_implementation == "eager"
    assert grown.generation_config.max_new_tokens == 17


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text"])
def test_a_grown_model_survives_its_files(tmp_path, model_type):
    grown = bootstrap_from_pretrained(tiny(model_type), GrowthConfig(width=2, depth=2, depth_method="interpose"))
    grown.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float64)
    assert drift(logits(again, input_ids=random_ids()), logits(grown, input_ids=random_ids())) < 1e-7
    assert again.config.hf_bootstrap == grown.config.hf_bootstrap
    (step,) = again.config.hf_bootstrap["growth"]
    assert step["layer_map"] == [0, 0, 1, 1, 2, 2]
    assert step["recipe"]["width_method"] == "split"
    assert step["verification"]["passed"] is True
    assert set(step["versions"]) == {"hf_bootstrap", "torch", "transformers"}
    json.dumps(step, allow_nan=False)


def test_growing_twice_keeps_both_steps():
    once = bootstrap_from_pretrained(tiny("llama"), WIDER)
    twice = bootstrap_from_pretrained(once, GrowthConfig(depth=2))
    assert [step["recipe"]["depth"] for step in twice.config.hf_bootstrap["growth"]] == [1, 2]
    assert len(once.config.hf_bootstrap["growth"]) == 1


def test_a_folder_and_a_live_model_grow_alike(folder):
    live = bootstrap_from_pretrained(tiny("llama", dtype=torch.float32), WIDER).state_dict()
    read = bootstrap_from_pretrained(folder, WIDER).state_dict()
    assert all(torch.equal(live[name], read[name]) for name in live)
    half = bootstrap_from_pretrained(str(folder), WIDER, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.config.hf_bootstrap["growth"][0]["source"]["name_or_path"] == str(folder)


def test_a_missing_tensor_is_refused(folder):
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(GrowthError, match=r"lacks tensors.*layers\.1\.mlp\.up_proj"):
        bootstrap_from_pretrained(folder, WIDER)


def test_a_missing_tensor_is_refused_without_growth_too(folder):
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(GrowthError, match="lacks tensors"):
        bootstrap_from_pretrained(folder, GrowthConfig())


def test_an_unknown_tensor_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}))
    with pytest.raises(GrowthError, match=r"does not know.*q_norm"):
        bootstrap_from_pretrained(folder, WIDER)


def test_a_tensor_of_another_shape_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(GrowthError, match=r"another shape.*model\.norm\.weight"):
        bootstrap_from_pretrained(folder, WIDER)


def test_weights_that_are_not_finite_are_refused():
    source = tiny("llama")
    with torch.no_grad():
        source.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(GrowthError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        bootstrap_from_pretrained(source, WIDER)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(GrowthError, match="nowhere"):
        bootstrap_from_pretrained(tmp_path / "nowhere", WIDER)


def test_loading_options_for_a_live_model_are_refused():
    with pytest.raises(GrowthError, match="dtype"):
        bootstrap_from_pretrained(tiny("llama"), WIDER, dtype=torch.bfloat16)


def test_other_kinds_of_model_are_refused():
    small = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for model, reason in (
        (T5ForConditionalGeneration(T5Config(**small)), "encoder-decoder"),
        (BertForMaskedLM(BertConfig(**bert, vocab_size=32)), "not a causal"),
        (LlamaForSequenceClassification(tiny("llama").config), "not a causal"),
        (torch.nn.Linear(2, 2), "Linear cannot be grown"),
    ):
        with pytest.raises(UnsupportedModelError, match=reason):
            bootstrap_from_pretrained(model, WIDER)


def test_quantised_weights_are_refused():
    source = tiny("llama")
    source.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(UnsupportedModelError, match="quantised"):
        bootstrap_from_pretrained(source, WIDER)


def test_an_adapter_is_refused_with_the_way_out():
    from peft import LoraConfig, get_peft_model

    with pytest.raises(UnsupportedModelError, match="merge_and_unload"):
        bootstrap_from_pretrained(get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj"])), WIDER)


@pytest.mark.parametrize("growth", [WIDER, GrowthConfig(depth=2), GrowthConfig(layer_map=(0,))], ids=str)
def test_a_head_that_is_not_what_the_config_says_is_refused(growth):
    untied = tiny("gpt2")
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    with pytest.raises(GrowthError, match=r"lm_head\.weight has weights of its own"):
        bootstrap_from_pretrained(untied, growth)
    tied = tiny("llama")
    tied.lm_head.weight = tied.model.embed_tokens.weight
    with pytest.raises(GrowthError, match="is the same tensor as"):
        bootstrap_from_pretrained(tied, growth)


def test_remote_code_is_not_run_unasked(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
        )
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(GrowthError):
        bootstrap_from_pretrained(tmp_path, WIDER)
    assert not (tmp_path / "ran").exists()
