"""Two processes count, measure and train as one does."""

import os
import subprocess
import sys

import pytest

from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

from ..training.conftest import DOCUMENTS

SCRIPT = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
from hf_bootstrap import ScalingCallback
from hf_bootstrap.training.data import PackedBlocks

data, output, batch, steps = sys.argv[1:]
torch.set_num_threads(1)
set_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=300,
    max_position_embeddings=64, tie_word_embeddings=False,
))
ragged = [{"input_ids": torch.arange(3 + i) % 300} for i in range(7)]
callback = ScalingCallback(
    {"held": PackedBlocks(data + "/held.safetensors", 16, keep_tail=True), "ragged": ragged},
    base_tokens=5000, marks=[0, 320, 8000, 20000],
)
arguments = TrainingArguments(
    output_dir=output, max_steps=int(steps), per_device_train_batch_size=int(batch), learning_rate=5e-4, report_to=[],
    save_strategy="no", use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential",
)
trainer = Trainer(
    model=model, args=arguments, train_dataset=PackedBlocks(data + "/train.safetensors", 16), callbacks=[callback]
)
trainer.train()
del trainer  # with the wrapped model gone, the next line joins gloo's threads; left alone they abort at exit
torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")
    (folder / "train.py").write_text(SCRIPT)
    return folder


def run(folder, processes, steps):
    output = folder / f"out-{processes}-{steps}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] * (processes > 1)
    arguments = [str(folder), str(output), str(4 // processes), str(steps)]
    done = subprocess.run(
        [sys.executable, *launcher, str(folder / "train.py"), *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    read = read_points(output / "points.jsonl")
    assert not read.problems, "one process writes, and each point once"
    return read.points


@pytest.mark.parametrize("steps", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_two_processes_leave_the_points_of_one(folder, steps):
    one, two = run(folder, 1, steps), run(folder, 2, steps)
    assert ({p.world_size for p in one}, {p.world_size for p in two}) == ({1}, {2})
    assert one[-1].tokens == steps * 64
    for single, double in zip(one, two, strict=True):
        same = ("step", "tokens", "tokens_seen", "token_slots", "phase", "base_tokens", "n_params")
        assert [getattr(single, name) for name in same] == [getattr(double, name) for name in same]
        assert double.loss == pytest.approx(single.loss, rel=1e-5)
        for name, result in single.eval.items():
            assert double.eval[name]["count"] == result["count"]
            assert double.eval[name]["sum"] == pytest.approx(result["sum"], rel=1e-5)
