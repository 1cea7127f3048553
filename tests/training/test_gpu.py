"""What only a GPU can show: kernels over documents against sdpa in float32, and a run that counts as on a CPU."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from hf_bootstrap.store import RunFolder
from hf_bootstrap.training import varlen
from hf_bootstrap.training.attention import choose_attention
from hf_bootstrap.training.evaluation import evaluate
from hf_bootstrap.training.isolation import check_isolation

from .test_loop import carry_out, here, spec  # noqa: F401

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = {
    "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
}  # fmt: skip
LENGTHS = (5, 59, 64, 128)  # of the documents in each block


def trained_once(kind, config, name, dtype, batch):
    """(logits, gradient of the first layer's keys), in float32, after one backward pass over packed documents."""
    torch.manual_seed(0)
    varlen.register()
    model = kind(config).to("cuda", dtype)
    model.set_attn_implementation(name)
    check_isolation(model)
    answer = model(**batch, use_cache=False)
    answer.loss.backward()
    gradient = model.model.layers[0].self_attn.k_proj.weight.grad
    return answer.logits.float(), gradient.float()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 16])
def test_a_kernel_over_documents_is_as_near_to_float32_as_sdpa_with_a_mask(kv_heads, window):
    chosen = choose_attention(dtype=torch.bfloat16, isolated=True)
    assert chosen.name == varlen.TORCH_VARLEN, chosen.reason
    kind, config = (
        (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=kv_heads))
        if window is None
        else (MistralForCausalLM, MistralConfig(**SHAPE, num_key_value_heads=kv_heads, sliding_window=window))
    )
    ids = torch.randint(0, 300, (3, sum(LENGTHS)), generator=torch.Generator().manual_seed(1)).cuda()
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).expand(3, -1).cuda()
    batch = {"input_ids": ids, "labels": ids, "position_ids": positions}
    exact = trained_once(kind, config, "sdpa", torch.float32, batch)
    sdpa = trained_once(kind, config, "sdpa", torch.bfloat16, batch)
    found = trained_once(kind, config, chosen.name, torch.bfloat16, batch)
    for ours, theirs, truth in zip(found, sdpa, exact, strict=True):
        error = (ours - truth).norm() / truth.norm()
        assert error < 1.5 * (theirs - truth).norm() / truth.norm()


def test_a_run_on_a_gpu_counts_as_on_a_cpu(here):  # noqa: F811
    on_gpu = carry_out(here, spec(marks=(320,), attention=None)).points()
    folder = RunFolder.create(here, spec(marks=(320,)))
    command = [sys.executable, "-m", "hf_bootstrap.cli", "run", str(folder.path)]
    subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=True)
    on_cpu = folder.points()
    assert [(p.step, p.tokens, p.tokens_seen, p.token_slots, p.phase) for p in on_gpu] == [
        (p.step, p.tokens, p.tokens_seen, p.token_slots, p.phase) for p in on_cpu
    ]
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.loss == pytest.approx(cpu.loss, rel=1e-3)
        assert gpu.flops == cpu.flops
    assert on_gpu[0].attention == "sdpa"
    assert "float32" in on_gpu[0].attention_reason


def test_the_evaluator_depends_on_no_batch_size_on_a_gpu():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).double().cuda()
    chance = torch.Generator().manual_seed(1)
    ragged = [
        {"input_ids": torch.randint(0, 300, (n,), generator=chance)}
        for n in torch.randint(2, 40, (30,), generator=chance).tolist()
    ]
    losses = [evaluate(model, ragged, batch_size=size).loss for size in (1, 3, 16, 50)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-9)
