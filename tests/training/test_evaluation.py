"""The loss depends on the model and the text, and on nothing else."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap.errors import DataError
from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.evaluation import evaluate

from .conftest import MODEL


@pytest.fixture(scope="module")
def exact_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"})).double()


@pytest.fixture(scope="module")
def ragged():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 40, (30,), generator=generator).tolist()
    return [{"input_ids": torch.randint(0, 300, (n,), generator=generator)} for n in lengths]


@pytest.fixture(scope="module")
def plain_loop(exact_model, ragged):
    """The oracle: one document at a time, PyTorch's own cross-entropy."""
    total, count = 0.0, 0
    with torch.no_grad():
        for item in ragged:
            logits = exact_model(input_ids=item["input_ids"][None]).logits[0, :-1]
            total += cross_entropy(logits, item["input_ids"][1:], reduction="sum").item()
            count += len(item["input_ids"]) - 1
    return total, count


@pytest.mark.parametrize("batch_size", [1, 3, 8, 16, 50])
def test_the_loss_of_ragged_text_equals_a_plain_loop_at_any_batch_size(batch_size, exact_model, ragged, plain_loop):
    result = evaluate(exact_model, ragged, batch_size=batch_size)
    assert result.count == plain_loop[1]
    assert result.sum == pytest.approx(plain_loop[0], rel=1e-9)


def test_bits_per_byte_counts_the_bytes_of_the_text(exact_model, study):
    blocks = PackedBlocks(study / "held.safetensors", 16, keep_tail=True)
    result = evaluate(exact_model, blocks)
    assert result.count == blocks.facts.tokens - 1
    assert result.bits_per_byte == pytest.approx(result.loss * result.count / math.log(2) / blocks.facts.text_bytes)


def test_the_mode_of_the_model_is_left_as_it_was(model, ragged):
    evaluate(model.train(), ragged)
    assert model.training
    evaluate(model.eval(), ragged)
    assert not model.training


def test_nothing_to_score_is_refused(model):
    with pytest.raises(DataError, match="no token to score"):
        evaluate(model, [{"input_ids": torch.tensor([1])}])
    with pytest.raises(DataError, match="length"):
        evaluate(model, iter([]))
