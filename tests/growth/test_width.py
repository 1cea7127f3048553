import pytest
import torch

from hf_bootstrap.errors import UnsupportedModelError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained, grow_model
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.plan import plan_growth

from .models import (
    ARCHITECTURES,
    DERIVES_HEAD_WIDTH,
    SIZES,
    SPREAD,
    allowed,
    drift,
    logits,
    mostly_slow,
    random_ids,
    tiny,
)
from .zoo import tiny_config, tiny_model


@pytest.mark.parametrize("model_type", SPREAD)
def test_a_wider_model_gives_the_same_logits(model_type):
    source, ids = tiny(model_type), random_ids()
    expected = logits(source, input_ids=ids)
    for factor, method in ((2, "split"), (3, "split"), (2, "clone"), (3, "clone")):
        grown = bootstrap_from_pretrained(source, GrowthConfig(width=factor, width_method=method), verify=False)
        assert drift(logits(grown, input_ids=ids), expected) < allowed(model_type), (factor, method)
        assert grown.config.hidden_size == factor * source.config.hidden_size


@pytest.mark.parametrize("model_type", SPREAD)
def test_left_padding_sees_the_same_function(model_type):
    # float32, because several architectures answer NaN to padding in float64 (a mask beyond float32's range).
    source, ids = tiny(model_type, dtype=torch.float32), random_ids()
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2), verify=False)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    kept = mask.bool()
    assert drift(logits(grown, **inputs)[kept], logits(source, **inputs)[kept]) < 2e-5


@pytest.mark.parametrize("model_type", SPREAD)
def test_a_cached_step_sees_the_same_function(model_type):
    source, ids = tiny(model_type), random_ids()
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2), verify=False).eval()
    with torch.no_grad():
        start = grown(input_ids=ids[:, :8], use_cache=True)
        last = grown(input_ids=ids[:, 8:], past_key_values=start.past_key_values, use_cache=True).logits
    assert drift(last.double(), logits(source, input_ids=ids)[:, 8:]) < allowed(model_type)


# What needs more than plain projections: fused experts in both orientations and both interleavings, routers, shared
# experts, latent attention, one key for all heads, fused projections, short convolutions, state spaces, position
# tables, a decoder of its own, a part of a composite, a head with a norm of its own.
SPECIAL = (
    "mixtral", "gpt_oss", "qwen2_moe", "llama4_text", "deepseek_v3", "falcon", "gpt_bigcode", "codegen", "lfm2",
    "mamba", "opt", "biogpt", "whisper", "gemma3", "roberta", "minicpm3", "helium",
)  # fmt: skip


@pytest.mark.parametrize("model_type", mostly_slow(SPECIAL, SPECIAL[::2]))
def test_special_architectures_give_the_same_logits_too(model_type):
    source, ids = tiny_model(model_type), random_ids() % 75 + 3
    expected = logits(source, input_ids=ids, use_cache=False)
    for factor in (2, 3):
        plan = plan_growth(source.config, GrowthConfig(width=factor), model_class=type(source))
        assert drift(logits(grow_model(source, plan), input_ids=ids, use_cache=False), expected) < 2e-6, factor


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "llama4_text"])
def test_experts_are_told_apart_whichever_way_they_lie(model_type):
    source, ids = tiny_model(model_type), random_ids() % 75 + 3
    factors = {"hidden": 2, "mlp": 3, "heads": 1, "kv_heads": 1}
    plan = plan_growth(source.config, GrowthConfig(width=2), factors=factors)
    ours, theirs = (logits(m, input_ids=ids, use_cache=False) for m in (grow_model(source, plan), source))
    assert drift(ours, theirs) < 2e-6


def test_a_router_chooses_as_before():
    source = tiny_model("mixtral")
    plan = plan_growth(source.config, GrowthConfig(width=2))
    grown = grow_model(source, plan).state_dict()
    router = next(recipe for recipe in plan.recipes if recipe.target.endswith("mlp.gate.weight"))
    assert torch.equal(router.fold(grown[router.target]), source.state_dict()[router.source])


def test_each_size_can_be_asked_for_by_itself():
    source, ids = tiny("llama"), random_ids()
    growth = GrowthConfig(intermediate_size=120, num_attention_heads=8)
    grown = bootstrap_from_pretrained(source, growth)
    assert (grown.config.intermediate_size, grown.config.num_attention_heads) == (120, 8)
    assert (grown.config.hidden_size, grown.config.num_key_value_heads) == (48, 2)
    assert drift(logits(grown, input_ids=ids), logits(source, input_ids=ids)) < 2e-6


def test_latent_attention_refuses_other_key_heads():
    config = tiny_config("deepseek_v3")
    factors = {"hidden": 2, "mlp": 2, "heads": 2, "kv_heads": 1}
    with pytest.raises(UnsupportedModelError, match="as many key/value heads as query heads"):
        plan_growth(config, GrowthConfig(width=2), factors=factors)


# Every dimension by another factor, and each alone: an axis taken for another cannot stay hidden.
@pytest.mark.parametrize("model_type", sorted(set(ARCHITECTURES) - set(DERIVES_HEAD_WIDTH)))
@pytest.mark.parametrize(
    "factors",
    [
        {"hidden": 3, "mlp": 5, "heads": 4, "kv_heads": 2},
        {"hidden": 2, "mlp": 1, "heads": 1, "kv_heads": 1},
        {"hidden": 1, "mlp": 2, "heads": 1, "kv_heads": 1},
        {"hidden": 1, "mlp": 1, "heads": 3, "kv_heads": 1},
        {"hidden": 1, "mlp": 1, "heads": 1, "kv_heads": 2},
    ],
    ids=str,
)
def test_each_dimension_can_grow_by_itself(model_type, factors):
    source, ids = tiny(model_type), random_ids()
    plan = plan_growth(source.config, GrowthConfig(width=2), factors=factors)
    grown = grow_model(source, plan)
    assert drift(logits(grown, input_ids=ids), logits(source, input_ids=ids)) < allowed(model_type)


def test_an_architecture_that_derives_its_head_width_refuses_unequal_factors():
    with pytest.raises(UnsupportedModelError, match="derives the head width"):
        plan_growth(
            tiny("gpt2").config, GrowthConfig(width=2), factors={"hidden": 2, "mlp": 2, "heads": 1, "kv_heads": 1}
        )


@pytest.mark.parametrize("model_type", ["llama", "gemma", "gpt2", "starcoder2", "cohere"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [2, 3])
def test_ties_stay_as_they_are(model_type, tied, factor):
    source, ids = tiny(model_type, tie_word_embeddings=tied), random_ids()
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=factor), verify=False)
    assert (grown.get_input_embeddings().weight is grown.get_output_embeddings().weight) is tied
    assert drift(logits(grown, input_ids=ids), logits(source, input_ids=ids)) < allowed(model_type)


def test_dimensions_of_equal_length_are_not_confused():
    same = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "max_position_embeddings": 32}
    source = tiny("llama", **same, num_key_value_heads=4, num_hidden_layers=4)
    ids = random_ids() % 32
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=3), verify=False)
    assert grown.config.vocab_size == 32
    assert drift(logits(grown, input_ids=ids), logits(source, input_ids=ids)) < 2e-6


@pytest.mark.parametrize("factor", [2, 3])
def test_bfloat16_shares_add_up_bit_for_bit_in_every_matrix(factor):
    source = tiny("llama", dtype=torch.bfloat16)
    plan = plan_growth(source.config, GrowthConfig(width=factor))
    grown = grow_model(source, plan).state_dict()
    old = source.state_dict()
    split = [recipe for recipe in plan.recipes if recipe.operator == "split"]
    assert len(split) == 7 * SIZES["num_hidden_layers"] + 1
    for recipe in split:
        assert grown[recipe.target].dtype == torch.bfloat16
        # A wide float64 sum of interleaved shares, without our own index maps: q, k, v and MLP read 48 or 40 units.
        weight, shares = old[recipe.source].double(), grown[recipe.target].double()
        if recipe.target.endswith("o_proj.weight"):
            summed = shares.reshape(len(shares), 4, factor, 8).sum(2).reshape(len(shares), 32)
        else:
            summed = shares.reshape(len(shares), -1, factor).sum(2)
        rows = {"q_proj": 8, "k_proj": 8, "v_proj": 8, "lm_head": None}.get(recipe.target.split(".")[-2], 1)
        if rows is not None:
            weight = weight.reshape(-1, 1, rows, weight.shape[1]).expand(-1, factor, -1, -1).reshape(summed.shape)
        assert torch.equal(summed, weight), recipe.target


def part_of_copies(model, plan):
    """Smallest, over tensors and grown axes, of the largest difference between first and second copies."""
    tensors = model.state_dict()
    differences = {}
    for recipe in plan.recipes:
        for axis in range(len(recipe.axes)):
            if (index := recipe.index(axis)) is None:
                continue
            first, second = (
                tensors[recipe.target].index_select(axis, (ranks_of(index) == r).nonzero().flatten()) for r in (0, 1)
            )
            differences[recipe.target, axis] = (first - second).abs().max().item()
    return differences


def ranks_of(index):
    seen = {}
    return torch.tensor([seen.update({i: seen.get(i, -1) + 1}) or seen[i] for i in index.tolist()])


def train(model, steps=3):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("method", ["split", "partition"])
def test_copies_part_in_training(model_type, method):
    source = tiny(model_type)
    growth = GrowthConfig(width=2, width_method=method)
    plan = plan_growth(source.config, growth)
    grown = bootstrap_from_pretrained(source, growth)
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    train(grown)
    assert [name for name, p in grown.named_parameters() if torch.equal(p, before[name])] == []
    together = {where for where, gap in part_of_copies(grown, plan).items() if gap < 1e-7}
    assert together == set()


def test_clone_copies_stay_together_in_training():
    source = tiny("llama", num_key_value_heads=SIZES["num_attention_heads"])
    growth = GrowthConfig(width=2, width_method="clone")
    grown = bootstrap_from_pretrained(source, growth)
    train(grown)
    # Adam divides by the size of a gradient, so rounding grows a little; parted copies are a thousand times apart.
    assert max(part_of_copies(grown, plan_growth(source.config, growth)).values()) < 1e-6


def test_with_shared_key_heads_clone_parts_the_key_heads_alone():
    source = tiny("llama")  # two query heads per key head; after growth a key copy serves one of them
    growth = GrowthConfig(width=2, width_method="clone")
    grown = bootstrap_from_pretrained(source, growth)
    train(grown)
    gaps = part_of_copies(grown, plan_growth(source.config, growth))
    parted = {name.split(".")[-2] for (name, _), gap in gaps.items() if gap > 1e-6}
    assert parted == {"k_proj", "v_proj"}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    source = tiny("llama")
    first, again, other = (
        bootstrap_from_pretrained(source, GrowthConfig(width=2, seed=seed), verify=False).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_an_operator_of_ones_own_is_used():
    def all_to_the_first(weight, axis, source, generator):
        grown = torch.zeros(*weight.shape[:axis], len(source), *weight.shape[axis + 1 :], dtype=weight.dtype)
        first = torch.tensor([source.tolist().index(unit) for unit in range(weight.shape[axis])])
        return grown.index_copy(axis, first, weight)

    source, ids = tiny("phi"), random_ids()
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method=all_to_the_first))
    assert drift(logits(grown, input_ids=ids), logits(source, input_ids=ids)) < 1e-9
    assert "all_to_the_first" in grown.config.hf_bootstrap["growth"][0]["recipe"]["width_method"]


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bloom", "ALiBi"),
        ("diffllama", "second half of its heads"),
        ("mamba2", "Inconsistent configuration"),
        ("openai-gpt", "0 normalisations"),
    ],
)
def test_what_cannot_be_widened_says_why(model_type, reason):
    from transformers import AutoConfig

    fields = {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": 97, "pad_token_id": 0}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    config = AutoConfig.for_model(model_type)
    for name, value in fields.items():
        setattr(config, config.attribute_map.get(name, name), value)
    with pytest.raises(UnsupportedModelError, match=reason):
        plan_growth(config, GrowthConfig(width=2))


@pytest.mark.parametrize(
    ("model_type", "fields", "asked", "nearest"),
    [
        ("gpt2", {"hidden_size": 72}, "hidden_size from 48 to 72, num_attention_heads from 4 to 4",
         "hidden_size=72 and num_attention_heads=6"),
        ("helium", {"hidden_size": 96, "width_method": "split"}, "hidden_size from 48 to 96", "num_attention_heads=8"),
    ],
)  # fmt: skip
def test_sizes_that_must_grow_together_are_named_with_the_nearest(model_type, fields, asked, nearest):
    growth = GrowthConfig(**{"width_method": "zero_pad", **fields})
    with pytest.raises(UnsupportedModelError, match=f"{asked}.*Nearest is .*{nearest}") as refusal:
        plan_growth(tiny(model_type).config, growth)
    assert "Fraction" not in str(refusal.value)
    assert "{" not in str(refusal.value)
