"""The choice of attention says what it passed over; a GPU is imitated, for the rule is what is tested."""

import pytest
import torch
from torch.nn.attention import varlen as kernels
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.training import attention, varlen
from hf_bootstrap.training.isolation import check_isolation, leak

from .conftest import MODEL


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


def test_without_a_gpu_it_is_sdpa_and_what_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert attention.choose_attention().name == "sdpa"
    assert attention.choose_attention("eager").reason == "asked for"


@pytest.mark.parametrize(
    ("capability", "installed", "chosen"),
    [((9, 0), set(), "torch_varlen"), ((9, 0), {3}, "torch_varlen"), ((7, 5), {2}, "sdpa")],
)
def test_documents_kept_apart_take_the_kernel_that_needs_no_mask(monkeypatch, capability, installed, chosen):
    machine(monkeypatch, capability, installed)
    found = attention.choose_attention(isolated=True)
    assert found.name == chosen
    assert ("slower" in found.reason) == (chosen == "sdpa")


@pytest.mark.parametrize("asked", ["flash_attention_2", "flash_attention_4", "kernels-community/flash-attn2"])
def test_a_package_that_lets_documents_see_each_other_is_refused(asked):
    assert attention.choose_attention(asked).name == asked
    with pytest.raises(TrainingError, match="batches of one row alone"):
        attention.choose_attention(asked, isolated=True)


def one_document_at_a_time(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa=True):
    """The kernel's documentation, carried out with sdpa; PyTorch has none for a CPU."""
    assert window_size[1] == 0
    assert q.dtype == k.dtype == v.dtype
    assert cu_q.dtype == torch.int32
    assert max_q == cu_q.diff().max()
    assert cu_q[0] == 0
    assert cu_q[-1] == len(q)
    parts = []
    for begin, end in zip(cu_q.tolist()[:-1], cu_q.tolist()[1:], strict=True):
        here = torch.arange(end - begin)
        seen = here[:, None] >= here
        if window_size[0] >= 0:
            seen &= here[:, None] - here <= window_size[0]
        states = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        found = scaled_dot_product_attention(*states, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)


def two_models(monkeypatch, **changes):
    monkeypatch.setattr(kernels, "varlen_attn", one_document_at_a_time)
    varlen.register()
    config = {k: v for k, v in MODEL.items() if k != "model_type"} | changes
    ours, theirs = (
        LlamaForCausalLM(LlamaConfig(**config, attn_implementation=name)).eval() for name in ("torch_varlen", "sdpa")
    )
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_attention_over_documents_is_that_of_sdpa_with_a_mask(monkeypatch, kv_heads):
    ours, theirs = two_models(monkeypatch, num_key_value_heads=kv_heads)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 300, (2, 20), generator=chance)
    positions = torch.cat([torch.arange(7), torch.arange(13), torch.arange(3, 13), torch.arange(10)]).view(2, 20)
    for given in ({"position_ids": positions}, {"position_ids": positions.flip(0)}, {}):
        logits = [model(input_ids=ids, use_cache=False, **given).logits for model in (ours, theirs)]
        torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    assert leak(ours) < 1e-6
    check_isolation(ours)


def test_a_kernel_that_knows_documents_in_one_row_alone_leaks(monkeypatch):
    ours, _ = two_models(monkeypatch)
    places = varlen._documents
    monkeypatch.setattr(
        varlen, "_documents", lambda given, batch, *rest: places(given if batch == 1 else None, batch, *rest)
    )
    assert leak(ours) > 0.1


def test_under_autocast_the_kernel_gets_one_type_and_answers_as_sdpa_does(monkeypatch):
    ours, theirs = two_models(monkeypatch)
    ids, mask = torch.arange(24).view(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    for given in ({"position_ids": torch.arange(6).repeat(2, 2)}, {"attention_mask": mask}):
        with torch.autocast("cpu", torch.bfloat16):
            logits = [model(input_ids=ids, use_cache=False, **given).logits[:, :8] for model in (ours, theirs)]
        assert logits[0].dtype == logits[1].dtype
        torch.testing.assert_close(*logits, rtol=0, atol=1e-2)


def test_padding_is_left_out_and_gradients_flow(monkeypatch):
    ours, theirs = two_models(monkeypatch)
    ids = torch.arange(24).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    losses = [
        model(input_ids=ids, attention_mask=mask, labels=ids.where(mask > 0, -100)).loss for model in (ours, theirs)
    ]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_position_tensor_that_is_written_over_is_read_again(monkeypatch):
    ours, theirs = two_models(monkeypatch)
    ids, positions = torch.arange(12)[None], torch.arange(12)[None].clone()
    ours(input_ids=ids, position_ids=positions, use_cache=False)
    positions[0, 5:] -= 5
    logits = [model(input_ids=ids, position_ids=positions, use_cache=False).logits for model in (ours, theirs)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_what_the_kernel_cannot_do_is_refused(monkeypatch):
    ours, _ = two_models(monkeypatch, attention_dropout=0.1)
    with pytest.raises(TrainingError, match="no dropout"):
        ours.train()(input_ids=torch.arange(6)[None], use_cache=False)


def tiny(kind, **changes):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{"vocab_size": 50, **changes}))


def without_varlen(model):
    """Releases of transformers differ in which models sdpa computes."""
    return "sdpa" if model._supports_sdpa else "eager"


WIDE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
WIDE |= {"num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("kind", "changes", "name", "reason"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}, "sdpa", "has no dropout, which GPT2LMHeadModel uses"),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "attn_pdrop": 0.0}, "torch_varlen", "PyTorch's own flash"),
        ("gemma2", WIDE, None, "has no soft cap, which Gemma2ForCausalLM uses"),
        ("gpt_oss", {**WIDE, "num_local_experts": 2}, None, "has no sinks, which GptOssForCausalLM uses"),
    ],
)
def test_what_a_model_asks_of_its_attention_is_heeded(monkeypatch, kind, changes, name, reason):
    machine(monkeypatch, (9, 0), set())
    model = tiny(kind, **changes)
    found = attention.choose_attention(isolated=True, model=model)
    assert found.name == (name or without_varlen(model))
    assert reason in found.reason
    model.set_attn_implementation(found.name)
    without_gpu = attention.choose_attention("eager", isolated=True, model=model)
    assert without_gpu.name == "eager"


def test_a_model_that_sdpa_would_compute_otherwise_is_eager_without_a_gpu_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gemma = tiny("gemma2", **WIDE)
    assert attention.choose_attention(model=gemma).name == without_varlen(gemma)
    assert attention.choose_attention(model=tiny("gpt2", n_embd=16, n_layer=1, n_head=2)).name == "sdpa"


def test_what_a_model_really_runs_with_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stubborn = tiny("gptj", n_embd=16, n_layer=1, n_head=2, rotary_dim=4)
    runs = stubborn.config._attn_implementation
    other = "sdpa" if runs == "eager" else "eager"
    found = attention.give_attention(stubborn)
    assert found.name == runs == stubborn.config._attn_implementation
    stubborn._supports_sdpa = runs == "eager"  # so that the other is chosen for it
    found = attention.give_attention(stubborn)
    assert found.name == runs
    assert f"did not take {other}" in found.reason
    with pytest.raises(TrainingError, match=f"cannot run with attention '{other}', it keeps '{runs}'"):
        attention.give_attention(stubborn, other)


def test_a_package_that_is_installed_and_broken_is_passed_over(monkeypatch):
    machine(monkeypatch, (9, 0), {4})
    model = tiny("llama", **WIDE)
    whole = type(model).set_attn_implementation

    def broken(self, name):
        if "flash" in name:
            raise ImportError("No module named 'cutlass.cute'")
        whole(self, name)

    monkeypatch.setattr(type(model), "set_attn_implementation", broken)
    found = attention.give_attention(model)
    assert found.name == model.config._attn_implementation == "sdpa"
    assert "did not take flash_attention_4" in found.reason
    assert "No module named 'cutlass.cute'" in found.reason
    with pytest.raises(TrainingError, match=r"cutlass.cute.*Name another"):
        attention.give_attention(model, "flash_attention_4")
