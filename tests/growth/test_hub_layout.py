"""Where tensors lie on disk, held against what transformers itself writes and reads."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.core_model_loading import revert_weight_conversion

from hf_bootstrap import GrowthConfig, bootstrap_from_pretrained, grow_checkpoint
from hf_bootstrap.errors import UnsupportedModelError
from hf_bootstrap.growth import hub_layout as layouts
from hf_bootstrap.growth import recipe as recipes
from hf_bootstrap.growth.architecture import build_meta, named_tensors
from hf_bootstrap.growth.hub_layout import hub_layout
from hf_bootstrap.growth.verify_files import verify_checkpoint

from .zoo import tiny_config, tiny_model

# Experts one by one, experts fused as in memory, and convolutions cut in three.
CONVERTED = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "olmoe", "olmo_hybrid")
DEEPER, WIDER = GrowthConfig(depth=2, depth_method="interpose"), GrowthConfig(width=2)
SILENT, BOTH = GrowthConfig(depth=2, depth_method="identity"), GrowthConfig(depth=2, depth_method="midas", width=2)
PADDED, NEXT = GrowthConfig(width_method="zero_pad", intermediate_size=56), GrowthConfig(width=2, width_method="aki")


def tensors(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("model_type", "growth"),
    [
        *((name, BOTH) for name in CONVERTED),
        ("gpt_oss", PADDED),
        ("mixtral", NEXT),
        *(pytest.param(name, SILENT, marks=pytest.mark.slow) for name in CONVERTED),
        *(pytest.param(name, PADDED, marks=pytest.mark.slow) for name in ("mixtral", "phimoe")),
        pytest.param("gpt_oss", NEXT, marks=pytest.mark.slow),
        pytest.param("hrm_text", DEEPER, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.depth_method}-{value.width_method}",
)
def test_a_grown_checkpoint_is_what_save_pretrained_writes_of_the_model_grown_in_memory(
    tmp_path, monkeypatch, model_type, growth
):
    monkeypatch.setattr(recipes, "BLOCK", 3000)  # many blocks a tensor
    base, grown, expected = (tmp_path / name for name in ("base", "grown", "expected"))
    tiny_model(model_type, dtype=torch.bfloat16).save_pretrained(base)
    in_memory = bootstrap_from_pretrained(base, growth, verify=False)
    in_memory.save_pretrained(expected)
    grow_checkpoint(base, grown, growth)
    ours, theirs = tensors(grown), tensors(expected)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded, found = AutoModelForCausalLM.from_pretrained(grown, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again = in_memory.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.state_dict().items())


def test_experts_are_stored_one_by_one_as_the_hub_has_them(tmp_path):
    tiny_model("mixtral", dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    report = grow_checkpoint(tmp_path / "base", tmp_path / "grown", BOTH, max_shard_size="60kB")
    names = tensors(tmp_path / "grown")
    assert "model.layers.7.block_sparse_moe.experts.7.w3.weight" in names
    assert not any("gate_up_proj" in name for name in names)
    assert len(report.files) > 3


def test_a_source_in_the_layout_of_memory_is_read_too(tmp_path):
    model = tiny_model("qwen3_moe", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    grow_checkpoint(tmp_path / "base", tmp_path / "one", BOTH)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert any("gate_up_proj" in name for name in state)
    save_file(state, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    grow_checkpoint(tmp_path / "base", tmp_path / "two", BOTH)
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_expert_that_is_off_is_found_on_disk(tmp_path):
    tiny_model("qwen3_moe", dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    grow_checkpoint(tmp_path / "base", tmp_path / "grown", WIDER)
    assert verify_checkpoint(tmp_path / "base", tmp_path / "grown").weight_error == 0
    weights = tensors(tmp_path / "grown")
    weights["model.layers.2.mlp.experts.5.up_proj.weight"][7, 7] += 1
    save_file(weights, tmp_path / "grown/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "grown/growth.json").unlink()
    with pytest.raises(ValueError, match=r"model\.layers\.2\.mlp\.experts\.gate_up_proj"):
        verify_checkpoint(tmp_path / "base", tmp_path / "grown")


def test_boxes_found_on_small_stand_ins_are_those_of_the_real_tensors():
    """Axes above 64 entries are shortened; the real conversion of the real sizes is the judge."""
    sizes = {"hidden_size": 128, "intermediate_size": 224, "moe_intermediate_size": 104, "num_hidden_layers": 2}
    config = Qwen3MoeConfig(**sizes, num_experts=70, num_experts_per_tok=2, num_attention_heads=4, vocab_size=99)
    model = build_meta(config)
    layout = hub_layout(model)
    state = {name: torch.randn(tensor.shape) for name, tensor in named_tensors(model).items()}
    stored = revert_weight_conversion(model, dict(state))
    assert set(layout.shapes) == set(stored)
    for name, parts in layout.stored.items():
        assert layout.shapes[name] == tuple(stored[name].shape)
        for part in parts:
            box = state[part.tensor][tuple(slice(*pair) for pair in part.box)]
            assert torch.equal(box[0] if part.drops_first else box, stored[name][part.start : part.start + part.rows])


def test_an_order_that_is_no_box_is_refused_with_the_reason(monkeypatch):
    def shuffled(model, tensors):
        return {name: tensor.transpose(-1, -2) if tensor.dim() == 3 else tensor for name, tensor in tensors.items()}

    monkeypatch.setattr("transformers.core_model_loading.revert_weight_conversion", shuffled)
    with pytest.raises(UnsupportedModelError, match=r"in another order .* grows it in memory"):
        layouts.hub_layout(build_meta(tiny_config("mixtral")))


@pytest.mark.parametrize("model_type", ["camembert", "xlm-roberta"])
def test_a_tied_table_is_stored_under_the_name_that_is_saved(model_type, tmp_path):
    # The head comes before the table in these classes, and transformers saves the table.
    source = tiny_model(model_type, dtype=torch.float32)
    source.save_pretrained(tmp_path / "base")
    grow_checkpoint(tmp_path / "base", tmp_path / "grown", GrowthConfig(width=2))
    assert set(load_file(tmp_path / "grown/model.safetensors")) == set(load_file(tmp_path / "base/model.safetensors"))
    _, found = type(source).from_pretrained(tmp_path / "grown", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
