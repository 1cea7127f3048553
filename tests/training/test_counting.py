"""Parameters and tokens are counted in each sense of the word."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.training.counting import TokenCounter


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_of_the_miniature_llama_are_those_worked_out_by_hand(tied):
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=176, vocab_size=512,
        tie_word_embeddings=tied,
    )  # fmt: skip
    size = measure_size(AutoModelForCausalLM.from_config(config))
    body = 2 * (4 * 64 * 64 + 3 * 64 * 176)
    assert size.non_embedding == body + 5 * 64 == 100_672
    assert size.total == size.non_embedding + (1 if tied else 2) * 512 * 64
    assert size.matmul == body + 512 * 64
    assert size.flops_per_token(128) == 6 * size.matmul + 6 * 2 * 64 * 128


def test_three_counts_are_kept_apart(model):
    counter = TokenCounter()
    counter.attach(model, (10, 20, 30))
    ids = torch.arange(12).reshape(2, 6)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :3] = -100  # a prompt that carries no loss
    model.train()
    model(input_ids=ids, attention_mask=mask, labels=labels)
    assert counter.totals() == (10 + 3 + 3, 20 + 10, 30 + 12)
    model.eval()
    model(input_ids=ids, labels=ids)
    assert counter.totals() == (16, 30, 42)


def test_a_step_without_labels_cannot_be_counted(model):
    counter = TokenCounter()
    counter.attach(model.train(), (0, 0, 0))
    with pytest.raises(TrainingError, match="labels"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))
    counter.detach()
    model(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_weights_that_deepspeed_has_cut_count_whole(model):
    whole = measure_size(model)
    for parameter in model.parameters():
        parameter.ds_shape, parameter.ds_numel = parameter.shape, parameter.numel()
        parameter.data = torch.empty(0)
    assert measure_size(model) == whole
