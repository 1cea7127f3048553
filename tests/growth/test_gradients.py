"""What a backward pass says of a grown model: reached, waiting for a zero, idle as in the source, or dead."""

import pytest
import torch

from hf_bootstrap.errors import VerificationError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.gradients import next_token_loss
from hf_bootstrap.growth.verify import verify_growth

from .models import random_ids, tiny
from .zoo import tiny_model

IDENTITY = GrowthConfig(depth=2, depth_method="identity")


def test_every_tensor_of_a_wider_model_is_reached():
    source = tiny("llama")
    report = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(width=2)), random_ids())
    assert report.gradient_reach is True
    assert report.gradient_waits == 0
    assert "reaches every tensor" in str(report)


def test_tensors_behind_a_zero_wait_and_are_reached_after_one_step():
    source, ids = tiny("llama"), random_ids()
    grown = bootstrap_from_pretrained(source, IDENTITY)
    report = verify_growth(source, grown, ids)
    assert report.gradient_reach is True
    assert report.gradient_waits == 3 * 7  # norms, q, k, v, gate and up of three silent layers
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        next_token_loss(grown(input_ids=ids).logits, ids).backward()
        optimizer.step()
    assert all(bool((weight.grad != 0).any()) for weight in grown.parameters())


def test_a_dead_tensor_is_found_and_named():
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, IDENTITY)
    with torch.no_grad():  # both ends of a branch: nothing between them will ever move
        grown.model.layers[1].mlp.up_proj.weight.zero_()
        grown.model.layers[1].mlp.down_proj.weight.zero_()
    with pytest.raises(VerificationError, match=r"model\.layers\.1\.mlp\.down_proj\.weight: it would never train"):
        verify_growth(source, grown)


def test_an_expert_no_token_went_to_is_idle_and_no_fault():
    source = tiny_model("qwen3_moe", dtype=torch.float64)
    report = verify_growth(source, bootstrap_from_pretrained(source, IDENTITY, verify=False), [5, 6])
    assert report.passed
    assert report.gradient_reach is True


def test_without_gradients_the_report_says_that_they_were_not_asked_for():
    source = tiny("llama")
    report = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(depth=2)), gradients=False)
    assert report.gradient_reach is None
    assert any("not asked for" in note for note in report.notes)


def test_the_card_is_a_table_of_the_same_findings():
    source = tiny("llama")
    card = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(width=2)), random_ids()).to_card()
    assert card.startswith("## Verification\n")
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.count("|") == 3 for line in rows)
    assert any("equal bit for bit" in line for line in rows)
