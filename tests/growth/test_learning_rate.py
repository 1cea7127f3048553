import json
from dataclasses import replace

import pytest
import torch

from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained, grow_model
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.learning_rate import lasting_factors, rate_factors, recorded_factors
from hf_bootstrap.growth.plan import plan_growth

from .models import SIZES, drift, logits, random_ids, tiny


def square():
    # As many key heads as heads: where several share one, the copies of a key head get different gradients.
    return tiny("llama", num_key_value_heads=SIZES["num_attention_heads"], pad_token_id=None, vocab_size=64)


def trained(model, rates):
    """Logits after five steps of Adam with a rate for every tensor; no epsilon: gradients of any size count alike."""
    groups = [{"params": [p], "lr": 1e-2 * rates.get(name, 1.0)} for name, p in model.named_parameters()]
    optimizer = torch.optim.AdamW(groups, eps=1e-30, weight_decay=0)
    for step in range(5):
        # Every token once, so that no row of the table has a gradient of nothing.
        generator = torch.Generator().manual_seed(step)
        text = torch.stack([torch.randperm(64, generator=generator) for _ in range(2)])
        model(input_ids=text, labels=text).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return logits(model, input_ids=random_ids() % 60)


@pytest.mark.parametrize("factor", [2, 3])
def test_with_the_advised_rates_growing_and_training_commute(factor):
    plan = plan_growth(square().config, GrowthConfig(width=factor, width_method="clone"))
    before = logits(square(), input_ids=random_ids() % 60)
    theirs = trained(square(), {})
    assert drift(theirs, before) > 0.05  # training did something
    assert drift(trained(grow_model(square(), plan), rate_factors(plan.recipes)), theirs) < 1e-4
    # The old rate for all tensors moves the function elsewhere.
    assert drift(trained(grow_model(square(), plan), {}), theirs) > 0.05


def test_the_advice_is_data_and_a_sentence():
    source = tiny("llama")
    plan = plan_growth(source.config, GrowthConfig(width=2, depth=2))
    advice = plan.learning_rate
    assert (advice.factor, advice.weight_decay_factor) == (0.5, 2.0)
    assert advice.tensors == 7 * 6 + 1  # seven matrices in each of six layers, and the head
    assert "x 0.5 of the base's peak" in str(plan)
    assert "2203.03466" in advice.source
    assert json.loads(json.dumps(plan.to_dict()))["learning_rate"]["factor"] == 0.5


def test_depth_alone_keeps_the_rate_and_says_that_no_rule_is_known():
    advice = plan_growth(tiny("llama").config, GrowthConfig(depth=2)).learning_rate
    assert (advice.factor, advice.source) == (1.0, None)
    assert "no rule for them is in print" in advice.reason


def test_silent_units_ask_for_the_same_rule_and_say_why():
    growth = GrowthConfig(width_method="zero_pad", hidden_size=60, intermediate_size=60)
    advice = plan_growth(tiny("llama").config, growth).learning_rate
    assert advice.factor == pytest.approx(40 / 60)
    assert "silent at first" in advice.reason


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def test_a_grown_model_keeps_the_rates_its_growths_ask_for():
    once = bootstrap_from_pretrained(square(), GrowthConfig(width=2))
    plan = plan_growth(square().config, GrowthConfig(width=2))
    asked = {name: factor for name, factor in rate_factors(plan.recipes).items() if factor != 1}
    assert recorded_factors(once.config, names_of(once)) == asked
    (step,) = once.config.hf_bootstrap["growth"]
    assert len(step["rate_factors"]) == 8, "seven kinds of matrices and the head, whatever the number of layers"

    twice = bootstrap_from_pretrained(once, GrowthConfig(depth=2, intermediate_size=2 * once.config.intermediate_size))
    found = recorded_factors(twice.config, names_of(twice))
    assert {found[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in range(6)} == {0.25}
    assert {found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(6)} == {0.5}


def test_layers_that_differ_are_kept_by_their_own_names():
    config = square().config
    recipes = plan_growth(config, GrowthConfig(width=2)).recipes
    name = "model.layers.1.mlp.down_proj.weight"
    recipes = [replace(r, scale=0.5) if r.target == name else r for r in recipes]
    kept = lasting_factors(recipes, config)
    assert (kept[name], kept["model.layers.0.mlp.down_proj.weight"]) == (0.25, 0.5)
    assert kept["model.layers.*.mlp.up_proj.weight"] == 0.5


def test_a_model_that_was_never_grown_asks_for_nothing():
    assert recorded_factors(square().config, names_of(square())) == {}
    silent = bootstrap_from_pretrained(square(), GrowthConfig(depth=2, depth_method="identity"))
    assert recorded_factors(silent.config, names_of(silent)) == {}
