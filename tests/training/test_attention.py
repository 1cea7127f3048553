"""The choice of attention says what it passed over; a GPU is imitated, for the rule is what is tested."""

import pytest
import torch

from hf_bootstrap.training import attention


def machine(monkeypatch, capability, installed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    for number in (2, 3, 4):
        name = f"transformers.utils.import_utils.is_flash_attn_{number}_available"
        monkeypatch.setattr(name, lambda number=number: number in installed)


@pytest.mark.parametrize(
    ("capability", "installed", "chosen"),
    [
        ((9, 0), {2, 3, 4}, "flash_attention_4"),
        ((9, 0), {2, 3}, "flash_attention_3"),
        ((8, 0), {2, 4}, "flash_attention_2"),
        ((7, 0), {2}, "sdpa"),
        ((9, 0), set(), "sdpa"),
    ],
)
def test_the_newest_package_that_runs_is_taken(monkeypatch, capability, installed, chosen):
    machine(monkeypatch, capability, installed)
    found = attention.choose_attention()
    assert found.name == chosen
    for number in {2, 3, 4} - installed:
        if chosen == "sdpa" or number > int(chosen[-1]):
            assert f"flash_attention_{number} is not installed" in found.reason


def test_an_old_gpu_and_float32_are_named_as_the_reason(monkeypatch):
    machine(monkeypatch, (7, 5), {2})
    assert "needs compute capability 8.0, this GPU has 7.5" in attention.choose_attention().reason
    assert "float32" in attention.choose_attention(dtype=torch.float32).reason


def test_without_a_gpu_it_is_sdpa_and_what_is_asked_for_is_taken():
    assert attention.choose_attention().name == "sdpa"
    assert attention.choose_attention("eager").reason == "asked for"
