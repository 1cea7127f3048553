"""What is frozen stays as it was, and what is said to be trained changes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap import GrowthConfig, bootstrap_from_pretrained
from hf_bootstrap.errors import TrainingError
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.training.freezing import add_lora, train_only_new_layers

from .conftest import MODEL


def changed_by_a_step(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ids = torch.arange(20)[None]
    for _ in range(2):  # a zero matrix passes no gradient to what stands before it
        model(input_ids=ids, labels=ids).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= parameter.grad
        model.zero_grad()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_only_the_layers_that_an_identity_growth_put_in_are_trained(model):
    grown = bootstrap_from_pretrained(model, GrowthConfig(depth=2, depth_method="identity"))
    writers = [name for name, p in grown.named_parameters() if p.dim() == 2 and not p.any()]
    trained = train_only_new_layers(grown)
    assert trained == sum(p.numel() for n, p in grown.named_parameters() if ".layers.1." in n or ".layers.3." in n)
    changed = changed_by_a_step(grown)
    assert changed == {name for name, _ in grown.named_parameters() if ".layers.1." in name or ".layers.3." in name}
    assert set(writers) <= changed, "the new layers are those that add nothing yet"


def test_layers_that_are_copies_at_work_cannot_be_trained_alone(model):
    with pytest.raises(TrainingError, match="identity"):
        train_only_new_layers(model)
    with pytest.raises(TrainingError, match="identity"):
        train_only_new_layers(bootstrap_from_pretrained(model, GrowthConfig(depth=2)))


def test_a_lora_trains_beside_a_frozen_model_and_is_counted(model):
    before = measure_size(model)
    adapted = add_lora(model, 2)
    assert all("lora" in name for name in changed_by_a_step(adapted))
    size = measure_size(adapted)
    added = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert size.total == before.total + added
    assert size.adapter == added
    with pytest.raises(TrainingError, match="of rank 0 trains nothing"):
        add_lora(model, 0)


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "LoRA"])
def test_the_floating_point_operations_are_those_pytorch_counts(adapted):
    """All but attention, which PyTorch counts without the causal half, and what no gradient needs to reach."""
    torch.manual_seed(0)
    config = LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"}, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    model = add_lora(model, 2) if adapted else model
    length = 32
    ids = torch.randint(0, config.vocab_size, (1, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    attention = 12 * layers * hidden * length  # the whole square of scores, forward and backward
    unreached = 2 * 3 * hidden**2 + 2 * 3 * 2 * hidden if adapted else 0  # what the first q, k and v would pass on
    expected = measure_size(model).flops_per_token(length) + attention / 2 - unreached
    assert counter.get_total_flops() / length == pytest.approx(expected, rel=1e-9)


def test_parts_frozen_otherwise_have_no_formula(model):
    adapted = add_lora(model, 2)
    for name, parameter in adapted.named_parameters():
        if ".layers.0." in name:
            parameter.requires_grad_(False)
    assert measure_size(adapted).flops_per_token(16) is None
    model.get_input_embeddings().weight.requires_grad_(False)
    assert measure_size(model).flops_per_token(16) is None
