import copy

import pytest
import torch
from torch import nn

from hf_bootstrap.errors import UnsupportedModelError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained, grow_model
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.depth import find_layers, per_layer_lists
from hf_bootstrap.growth.plan import plan_growth

from .models import SPREAD, drift, logits, random_ids, tiny
from .zoo import tiny_config, tiny_model

MAPS = {"stack": [0, 1, 2, 0, 1, 2], "interpose": [0, 0, 1, 1, 2, 2], "explicit": [2, 0, 1, 1]}


def assembled_by_hand(source, layer_map):
    """The base's own modules, put one after the other in a copy of the base."""
    reference = copy.deepcopy(source)
    holder = next(m for m in reference.modules() if any(isinstance(c, nn.ModuleList) for c in m.children()))
    name = next(n for n, c in holder.named_children() if isinstance(c, nn.ModuleList))
    layers = [copy.deepcopy(getattr(holder, name)[i]) for i in layer_map]
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    setattr(holder, name, nn.ModuleList(layers))
    config = reference.config
    if getattr(config, "layer_types", None):
        config.layer_types = [source.config.layer_types[i] for i in layer_map]
    setattr(config, config.attribute_map.get("num_hidden_layers", "num_hidden_layers"), len(layer_map))
    return reference


def growth_by(name):
    return GrowthConfig(layer_map=MAPS[name]) if name == "explicit" else GrowthConfig(depth=2, depth_method=name)


@pytest.mark.parametrize("model_type", SPREAD)
@pytest.mark.parametrize("name", MAPS)
def test_a_deeper_model_equals_the_bases_layers_assembled_by_hand(model_type, name):
    source, ids = tiny(model_type), random_ids()
    grown = bootstrap_from_pretrained(source, growth_by(name))
    expected = logits(assembled_by_hand(source, MAPS[name]), input_ids=ids, use_cache=False)
    # Rotary and embedding constants of a float64 model may have been rounded to float32 when it was made.
    assert drift(logits(grown, input_ids=ids, use_cache=False), expected) < 1e-6
    assert drift(logits(source, input_ids=ids), expected) > 1e-2  # the comparison can see a difference


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "gpt_neox"])
def test_depth_and_width_together_equal_the_deep_model(model_type):
    source, ids = tiny(model_type), random_ids()
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2, width=3))
    expected = logits(assembled_by_hand(source, MAPS["stack"]), input_ids=ids, use_cache=False)
    assert drift(logits(grown, input_ids=ids), expected) < 2e-6


def test_lists_per_layer_follow_the_layer_map():
    source = tiny("gemma3_text")
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2, depth_method="interpose"))
    full, sliding = "full_attention", "sliding_attention"
    assert source.config.layer_types == [sliding, full, sliding]
    assert grown.config.layer_types == [sliding, sliding, full, full, sliding, sliding]


def test_a_list_that_happens_to_be_as_long_as_the_model_is_deep_is_left_alone():
    config = tiny("qwen3", eos_token_id=[1, 2, 3]).config
    assert set(per_layer_lists(config, find_layers(config))) == {"layer_types"}
    assert plan_growth(config, GrowthConfig(depth=2)).target_config.eos_token_id == [1, 2, 3]


def test_names_of_classes_are_no_table_of_layers():
    labels = dict(enumerate("abcd"))
    config = tiny_config("llama", num_hidden_layers=4, id2label=labels)
    assert plan_growth(config, GrowthConfig(depth=2)).target_config.id2label == labels


def test_layers_are_found_whatever_they_are_called():
    names = {kind: find_layers(tiny(kind).config).prefixes for kind in ("llama", "gpt2", "gpt_neox")}
    assert names == {"llama": ("model.layers",), "gpt2": ("transformer.h",), "gpt_neox": ("gpt_neox.layers",)}


def test_a_layer_that_depends_on_its_number_is_refused():
    source = tiny("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UnsupportedModelError, match="scale_attn_by_inverse_layer_idx"):
        plan_growth(source.config, GrowthConfig(depth=2))


def test_a_model_of_several_is_refused_for_nobody_says_which_shall_grow():
    with pytest.raises(UnsupportedModelError, match=r"several models in one.*patcher_config.num_hidden_layers"):
        plan_growth(tiny_config("blt"), GrowthConfig(depth=2))


def test_a_layer_built_by_its_position_is_refused():
    # Differential attention weighs its second map by a constant of the layer's number.
    source = tiny("diffllama")
    with pytest.raises(UnsupportedModelError, match=r"by its position.*lambda_init"):
        plan_growth(source.config, GrowthConfig(depth=2))


def test_a_layer_with_tensors_of_its_own_is_not_copied_away():
    source = tiny("rwkv")  # only its first layer has a norm before the block
    with pytest.raises(UnsupportedModelError, match=r"by its position.*blocks\.1\.pre_ln"):
        plan_growth(source.config, GrowthConfig(depth=2, depth_method="interpose"))


def test_a_module_that_counts_the_layers_may_count_more():
    source, ids = tiny("ctrl"), random_ids()
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2))
    assert (source.transformer.num_layers, grown.transformer.num_layers) == (3, 6)
    expected = logits(assembled_by_hand(source, MAPS["stack"]), input_ids=ids, use_cache=False)
    assert drift(logits(grown, input_ids=ids, use_cache=False), expected) < 1e-6


def test_a_model_can_become_shallower():
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, GrowthConfig(layer_map=(0, 2)))
    assert grown.config.num_hidden_layers == 2
    assert torch.equal(grown.model.layers[1].mlp.up_proj.weight, source.model.layers[2].mlp.up_proj.weight)


def test_mixtures_of_experts_grow_in_depth():
    source = tiny("mixtral", dtype=torch.float32, num_local_experts=4)
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2))
    ids = random_ids()
    expected = logits(assembled_by_hand(source, MAPS["stack"]), input_ids=ids, use_cache=False)
    assert drift(logits(grown, input_ids=ids, use_cache=False), expected) < 1e-5


# One of every way a layer adds to the stream: pre-norm, sandwich (1 + w and w), post-branch norms, parallel, fused
# experts, fused experts with biases, latent attention, an encoder's decoder.
SILENT = (
    "llama",
    "gemma2",
    "glm4",
    "olmo2",
    "gpt_neox",
    "phi",
    "gpt2",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "axk1",
    "whisper",
)


@pytest.mark.parametrize("model_type", SILENT)
def test_identity_depth_keeps_the_function_and_trains_everywhere(model_type):
    source, ids = tiny_model(model_type), random_ids() % 78 + 3
    growth = GrowthConfig(depth=2, depth_method="identity")
    # No stack for first layers of another kind; identity repeats layers in place, so they follow.
    grown = grow_model(source, plan_growth(source.config, growth, model_class=type(source)))
    expected = logits(source, input_ids=ids, use_cache=False)
    assert drift(logits(grown, input_ids=ids, use_cache=False), expected) < 1e-12
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    grown.train()
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(3):
        output = grown(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        gradients = [p.grad for p in grown.parameters() if p.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        optimizer.step()
        optimizer.zero_grad()
    assert [
        n for n, p in grown.named_parameters() if torch.equal(p, before[n]) and not never_moves(model_type, n)
    ] == []


def never_moves(model_type, name):
    """Parameters that get no gradient in the source either: biases a softmax cancels, or of routing, or unused."""
    return {
        "whisper": "encoder" in name or "k_proj" in name,
        "deepseek_v3": "correction_bias" in name,
    }.get(model_type, False)


@pytest.mark.parametrize("model_type", ["bert", "bart", "openai-gpt"])
def test_a_layer_that_normalises_the_sum_cannot_be_silent(model_type):
    with pytest.raises(UnsupportedModelError, match="normalises the sum"):
        plan_growth(tiny_config(model_type), GrowthConfig(depth=2, depth_method="identity"))


def test_a_norm_that_adds_one_is_silent_at_minus_one():
    source = tiny("gemma2")
    grown = grow_model(source, plan_growth(source.config, GrowthConfig(depth=2, depth_method="identity")))
    copied, kept = grown.model.layers[1], grown.model.layers[0]
    assert (copied.post_feedforward_layernorm.weight == -1).all()
    assert (copied.post_attention_layernorm.weight == -1).all()
    # The projections stay: zeroing them too would leave every gradient zero.
    assert torch.equal(copied.mlp.down_proj.weight, source.model.layers[0].mlp.down_proj.weight)
    assert torch.equal(kept.post_attention_layernorm.weight, source.model.layers[0].post_attention_layernorm.weight)


def test_a_table_with_a_block_for_each_layer_follows_the_layer_map():
    source = tiny_model("gemma4_text")
    grown = grow_model(source, plan_growth(source.config, GrowthConfig(depth=2, depth_method="interpose")))
    name = "embed_tokens_per_layer"
    old, new = (getattr(m.model, name).weight.data for m in (source, grown))
    blocks = old.reshape(len(old), 4, -1)
    assert torch.equal(new.reshape(len(old), 8, -1), blocks[:, [0, 0, 1, 1, 2, 2, 3, 3]])


@pytest.mark.parametrize(
    ("model_type", "changes", "field", "expected"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 1}, "first_k_dense_replace", 2),
        ("afmoe", {"num_dense_layers": 2}, "num_dense_layers", 4),
        ("qwen2_moe", {"mlp_only_layers": [1, 3]}, "mlp_only_layers", [2, 3, 6, 7]),
    ],
)
def test_what_speaks_of_layer_numbers_follows_the_layer_map(model_type, changes, field, expected):
    plan = plan_growth(tiny_config(model_type, **changes), GrowthConfig(depth=2, depth_method="interpose"))
    assert getattr(plan.target_config, field) == expected


def test_layers_are_found_in_a_part_and_by_a_list():
    assert find_layers(tiny_config("gemma3")).fields == ("text_config.num_hidden_layers",)
    assert find_layers(tiny_config("bart")).fields == ("decoder_layers",)
    assert find_layers(tiny_config("nemotron_h")).fields == ("layers_block_type",)


def test_the_last_layer_may_be_of_another_kind_and_stays_last():
    config = tiny_config("gpt_neox_japanese")  # only its last layer has a bias
    with pytest.raises(UnsupportedModelError, match=r"by its position.*dense_bias"):
        plan_growth(config, GrowthConfig(depth=2))
    plan = plan_growth(config, GrowthConfig(num_hidden_layers=6, depth_method="solar"))
    assert plan.layer_map == (0, 1, 2, 1, 2, 3)
