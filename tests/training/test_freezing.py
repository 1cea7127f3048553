"""What is frozen stays as it was, and what is said to be trained changes."""

import pytest
import torch

from hf_bootstrap import GrowthConfig, bootstrap_from_pretrained
from hf_bootstrap.errors import TrainingError
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.training.freezing import add_lora, train_only_new_layers


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
    assert size.flops_per_token(16) is None, "the formula counts gradients of every weight"
    with pytest.raises(TrainingError, match="of rank 0 trains nothing"):
        add_lora(model, 0)
