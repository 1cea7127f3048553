"""A LoRA adapter grown with its base, held to PEFT: base and adapter together compute what they computed."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from hf_bootstrap.errors import GrowthError, StoreError, UnsupportedModelError
from hf_bootstrap.growth.adapters import grow_adapter
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.merging import merge_adapter

from .models import allowed, drift, logits, mostly_slow, random_ids, tiny

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("fan_in_fan_out", "tie_word_embeddings", "save_embedding_layers", "tied")
]
LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "embed_tokens"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi": ["q_proj", "v_proj", "dense", "fc1", "fc2"],
    "gemma2": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj", "down_proj"],
}


def adapted(model_type, folder, *, modules=None, **fields):
    """Save a tiny base and an adapter whose every factor is random; give back the logits of both together."""
    source = tiny(model_type, tie_word_embeddings=model_type == "gemma2")
    source.save_pretrained(folder / "base")
    settings = LoraConfig(r=3, lora_alpha=5, target_modules=modules or LINEAR[model_type], **fields)
    together = get_peft_model(source, settings).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in together.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    together.save_pretrained(folder / "adapter")
    ours = logits(together, input_ids=random_ids())
    assert (
        drift(ours, logits(tiny(model_type, tie_word_embeddings=model_type == "gemma2"), input_ids=random_ids())) > 0.1
    )
    return ours


def grown_together(folder, growth, **fields):
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float64, attn_implementation="eager")
    report = grow_adapter(folder / "adapter", folder / "grown-adapter", growth, base=folder / "base", **fields)
    model = PeftModel.from_pretrained(bootstrap_from_pretrained(base, growth, verify=False), folder / "grown-adapter")
    return report, model.double()


SIZES = {"hidden_size": 72, "intermediate_size": 53, "num_attention_heads": 6, "num_key_value_heads": 3}
GROWTHS = {
    "split": GrowthConfig(width=2),
    "partition by 3": GrowthConfig(width=3, width_method="partition"),
    "silent layers": GrowthConfig(depth=2, depth_method="identity"),
    "both": GrowthConfig(depth=2, depth_method="identity", width=2, width_method="clone"),
    "any size": GrowthConfig(width_method="zero_pad", **SIZES),
}


@pytest.mark.parametrize("model_type", mostly_slow(LINEAR, ("gpt2", "gpt_neox", "llama")))
@pytest.mark.parametrize("growth", GROWTHS.values(), ids=GROWTHS)
def test_grown_base_and_grown_adapter_compute_what_both_computed(model_type, growth, tmp_path):
    before = adapted(model_type, tmp_path)
    report, model = grown_together(tmp_path, growth)
    assert report.keeps_function
    assert drift(logits(model, input_ids=random_ids()), before) < max(allowed(model_type), 1e-6)


@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens"]], ids=str)
def test_an_adapter_of_a_tied_table_or_head_grows_too(modules, tmp_path):
    before = adapted("gemma2", tmp_path, modules=modules)
    _, model = grown_together(tmp_path, GrowthConfig(width=2))
    assert drift(logits(model, input_ids=random_ids()), before) < 2e-6


def test_layers_asked_for_by_number_are_found_again(tmp_path):
    ranks = {"layers.1.self_attn.v_proj": 5}
    fields = {"layers_to_transform": [1], "rank_pattern": ranks, "alpha_pattern": {"v_proj": 9}, "use_rslora": True}
    before = adapted("llama", tmp_path, modules=["q_proj", "v_proj"], **fields)
    _, model = grown_together(tmp_path, GrowthConfig(depth=2, depth_method="identity"))
    assert drift(logits(model, input_ids=random_ids()), before) < 2e-6
    names = {
        name.split(".lora_")[0].removeprefix("base_model.model.")
        for name, _ in model.named_parameters()
        if "lora_" in name
    }
    assert names == {f"model.layers.{n}.self_attn.{part}_proj" for n in (2, 3) for part in "qv"}


def test_stacked_layers_take_the_adapter_of_their_source(tmp_path):
    adapted("llama", tmp_path)
    report, model = grown_together(tmp_path, GrowthConfig(depth=2), grown_base="somewhere")
    assert (report.modules_source, report.modules) == (23, 44)
    assert report.notes == ()
    state = model.state_dict()
    for leaf in ("lora_A", "lora_B"):
        ours, theirs = (state[f"base_model.model.model.layers.{n}.mlp.up_proj.{leaf}.default.weight"] for n in (4, 1))
        assert torch.equal(ours, theirs)
    assert (
        json.loads((tmp_path / "grown-adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "somewhere"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"use_dora": True}, "length of every row"),
        ({"modules_to_save": ["lm_head"]}, "whole copies of base modules"),
        ({"bias": "all"}, "biases of the base"),
        ({"peft_type": "IA3"}, "type IA3; only LORA grows"),
        ({"init_lora_weights": "pissa"}, "changes the base when it is loaded"),
    ],
    ids=str,
)
def test_what_cannot_grow_says_why(fields, reason, tmp_path):
    adapted("llama", tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(UnsupportedModelError, match=reason):
        grow_adapter(tmp_path / "adapter", tmp_path / "new", GrowthConfig(width=2), base=tmp_path / "base")
    assert not (tmp_path / "new").exists()


def test_an_adapter_of_another_base_and_a_full_target_are_refused(tmp_path):
    adapted("llama", tmp_path)
    tiny("phi").save_pretrained(tmp_path / "other")
    with pytest.raises(GrowthError, match="Is it an adapter of this base"):
        grow_adapter(tmp_path / "adapter", tmp_path / "new", GrowthConfig(width=2), base=tmp_path / "other")
    with pytest.raises(GrowthError, match="not an empty folder"):
        grow_adapter(tmp_path / "adapter", tmp_path / "base", GrowthConfig(width=2), base=tmp_path / "base")
    growth = GrowthConfig(width=2, width_method="aki")
    with pytest.raises(UnsupportedModelError, match="other ranks"):
        grow_adapter(tmp_path / "adapter", tmp_path / "new", growth, base=tmp_path / "base")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(StoreError):
        grow_adapter(tmp_path / "adapter", tmp_path / "new", GrowthConfig(width=2), base=tmp_path / "base")


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3"])
def test_merged_first_it_is_a_base_like_any_other(model_type, tmp_path):
    before = adapted(model_type, tmp_path)
    changed = merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert len(changed) == len({*changed}) > 6
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float64, attn_implementation="eager")
    assert drift(logits(merged, input_ids=random_ids()), before) < 2e-6
    grown = bootstrap_from_pretrained(merged, GrowthConfig(width=2))
    assert drift(logits(grown, input_ids=random_ids()), before) < 2e-6


def test_a_shared_table_is_not_merged_and_nothing_is_left_behind(tmp_path):
    adapted("gemma2", tmp_path, modules=["lm_head"])
    with pytest.raises(UnsupportedModelError, match="shared with another module"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(GrowthError, match="exists"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "base")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["adapter", "base"]
