"""What every width method promises, and what those that promise nothing do."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_bootstrap.errors import GrowthError, VerificationError
from hf_bootstrap.growth.architecture import converted
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.operators import OPERATORS, WidthMethod, clone, split
from hf_bootstrap.growth.plan import plan_growth
from hf_bootstrap.growth.stream import grow_checkpoint
from hf_bootstrap.growth.verify import verify_growth
from hf_bootstrap.growth.verify_files import verify_checkpoint

from .models import SIZES, drift, logits, random_ids, tiny

KEEPS = [name for name, method in OPERATORS.items() if method.keeps_function]


@pytest.mark.parametrize("method", OPERATORS)
def test_what_is_made_in_memory_is_what_is_made_on_disk(method, tmp_path):
    source = tiny("llama", dtype=torch.bfloat16)
    source.save_pretrained(tmp_path / "base")
    growth = GrowthConfig(width=2, width_method=method, depth=2, depth_method="interpose")
    report = grow_checkpoint(tmp_path / "base", tmp_path / "grown", growth)
    assert report.keeps_function is False
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "grown").state_dict()
    ours = bootstrap_from_pretrained(source, growth, verify=False).state_dict()
    assert [name for name in ours if not torch.equal(ours[name], loaded[name])] == []
    assert verify_checkpoint(tmp_path / "base", tmp_path / "grown").passed


def copies_apart(model, plan):
    """By tensor and grown axis: the largest difference between a new unit and the old one it comes from."""
    found = {}
    for recipe in plan.recipes:
        tensor = model.state_dict()[recipe.target]
        for axis in range(len(recipe.axes)):
            if (index := recipe.index(axis)) is None:
                continue
            first = torch.tensor([index.tolist().index(i) for i in index.tolist()])
            gap = (tensor - tensor.index_select(axis, first)).abs().max().item()
            found[recipe.target, axis] = gap
    return found


@pytest.mark.parametrize("method", OPERATORS)
def test_after_three_steps_every_tensor_has_moved_and_copies_have_parted(method):
    # As many key heads as heads: where several heads share one, even clone parts the copies of key heads.
    source = tiny("llama", num_key_value_heads=SIZES["num_attention_heads"])
    growth = GrowthConfig(width=2, width_method=method)
    grown = bootstrap_from_pretrained(source, growth)
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
    for step in range(3):
        ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(step))
        grown(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert [name for name, p in grown.named_parameters() if torch.equal(p, before[name])] == []
    gaps = copies_apart(grown, plan_growth(source.config, growth))
    if method == "clone":  # the negative control; Adam divides by gradients, so rounding grows a little
        assert max(gaps.values()) < 1e-6
    else:
        assert [where for where, gap in gaps.items() if gap < 1e-6] == []


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("method", KEEPS)
def test_bfloat16_shares_add_up_bit_for_bit(method, factor):
    source = tiny("llama", dtype=torch.bfloat16)
    growth = GrowthConfig(width=factor, width_method=method)
    grown = bootstrap_from_pretrained(source, growth).state_dict()
    wrong = []
    for recipe in plan_growth(source.config, growth).recipes:
        expected = recipe.expected_sum(source.state_dict()[recipe.source])
        if recipe.scale == 1 and not torch.equal(recipe.fold(grown[recipe.target]), expected):
            wrong.append(recipe.target)
    # A third of a bfloat16 number is none: equal shares of three are rounded, which their docstring says.
    assert bool(wrong) is (method == "clone" and factor == 3)


@pytest.mark.parametrize("method", sorted(set(OPERATORS) - set(KEEPS)))
def test_what_is_not_promised_is_measured_and_said(method):
    source = tiny("llama", dtype=torch.bfloat16)
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method=method))
    report = verify_growth(source, grown, random_ids())
    assert not report.keeps_function
    assert report.tolerance is None
    ours, theirs = (logits(m.float(), input_ids=random_ids()) for m in (grown, source))
    assert report.logit_drift == pytest.approx(drift(ours, theirs), rel=1e-3)
    assert report.logit_drift > 1e-4
    assert "not promised" in str(report)
    assert "changed, or not promised" in str(plan_growth(source.config, GrowthConfig(width=2, width_method=method)))


def test_noise_cancels_up_to_rounding_and_is_a_tenth_of_the_shares():
    source = tiny("llama")
    growth = GrowthConfig(width=2, width_method="noise")
    grown = bootstrap_from_pretrained(source, growth)
    assert drift(logits(grown, input_ids=random_ids()), logits(source, input_ids=random_ids())) < 2e-6
    old, new = (m.state_dict()["model.layers.0.mlp.up_proj.weight"] for m in (source, grown))
    noise = new[::2, ::2] - old / 2
    assert torch.allclose(noise, -(new[::2, 1::2] - old / 2), atol=1e-12)
    assert (noise.std() / (old / 2).std()).item() == pytest.approx(0.1 / 2**0.5, rel=0.1)


def test_aki_takes_later_copies_of_what_is_written_from_the_next_layer():
    source = tiny("llama")
    growth = GrowthConfig(width=2, width_method="aki")
    old, new = source.state_dict(), bootstrap_from_pretrained(source, growth).state_dict()
    for layer, after in ((0, 1), (1, 2), (2, 1)):  # the last layer has no next one
        up, theirs = (old[f"model.layers.{number}.mlp.up_proj.weight"] for number in (layer, after))
        grown = new[f"model.layers.{layer}.mlp.up_proj.weight"]
        # Inputs share equally, as in the paper's function-preserving step, which comes first.
        assert torch.equal(grown[0::2], up.repeat_interleave(2, 1) / 2)
        assert torch.equal(grown[1::2], theirs.repeat_interleave(2, 1) / 2)
    table = old["model.embed_tokens.weight"]
    assert torch.equal(new["model.embed_tokens.weight"], table.repeat_interleave(2, 1))


def test_an_object_of_ones_own_keeps_its_promise_or_is_refused():
    source, ids = tiny("phi"), random_ids()
    honest = WidthMethod(share=lambda *arguments: split(*arguments), keeps_function=True)
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method=honest))
    assert drift(logits(grown, input_ids=ids), logits(source, input_ids=ids)) < 1e-9
    wrong = WidthMethod(share=lambda *arguments: 0.9 * clone(*arguments), keeps_function=True)
    with pytest.raises(VerificationError, match="copies do not add up"):
        bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method=wrong))
    modest = WidthMethod(share=wrong.share)
    bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method=modest))


def test_a_growth_on_disk_by_an_object_is_verified_with_it(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    mine = GrowthConfig(width=2, width_method=WidthMethod(share=lambda *asked: split(*asked), keeps_function=True))
    grow_checkpoint(tmp_path / "base", tmp_path / "grown", mine)
    with pytest.raises(GrowthError, match=r"WidthMethod' is not known.*config=GrowthConfig"):
        verify_checkpoint(tmp_path / "base", tmp_path / "grown")
    assert verify_checkpoint(tmp_path / "base", tmp_path / "grown", config=mine).weight_error == 0
    with pytest.raises(VerificationError, match="planned was"):
        verify_checkpoint(tmp_path / "base", tmp_path / "grown", config=GrowthConfig(width=3))


@pytest.mark.parametrize("method", ["split", "zero_pad"])
def test_a_narrower_dtype_grows_the_converted_source(method, tmp_path):
    source, ids = tiny("llama", dtype=torch.float32), random_ids()
    source.save_pretrained(tmp_path / "base")
    growth = GrowthConfig(width=2, width_method=method, dtype="bfloat16")
    grown = bootstrap_from_pretrained(source, growth)
    assert grown.dtype == torch.bfloat16
    assert grown.config.dtype == torch.bfloat16
    report = verify_growth(source, grown, ids)
    # zero_pad rounds the scaled norms once more.
    assert report.logit_drift < (1e-4 if method == "split" else 1e-2)
    assert source.dtype == torch.float32
    grow_checkpoint(tmp_path / "base", tmp_path / "grown", growth)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in grown.state_dict().items())
    assert verify_growth(source, loaded, ids).passed
    assert verify_checkpoint(tmp_path / "base", tmp_path / "grown").passed


def test_a_wider_dtype_loses_nothing_and_may_come_alone(tmp_path):
    source, ids = tiny("llama", dtype=torch.bfloat16), random_ids()
    source.save_pretrained(tmp_path / "base")
    grow_checkpoint(tmp_path / "base", tmp_path / "same", GrowthConfig(dtype="float32"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "same", attn_implementation="eager")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(logits(loaded, input_ids=ids), logits(converted(source, torch.float32), input_ids=ids))
