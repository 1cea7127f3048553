"""Two processes count, measure and train as one does."""

import json

import pytest
import torch

from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

from ..processes import together
from ..training.conftest import DOCUMENTS
from ..training.test_equivalence import assert_same


def train(data, output, batch, steps):
    """What one process does, alone or beside others."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    from hf_bootstrap import ScalingCallback
    from hf_bootstrap.training.data import PackedBlocks

    arguments = TrainingArguments(
        output_dir=str(output), max_steps=steps, per_device_train_batch_size=batch, learning_rate=5e-4, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential", logging_steps=1,
    )  # fmt: skip
    set_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=300,
        max_position_embeddings=64, tie_word_embeddings=False,
    ))  # fmt: skip
    ragged = [{"input_ids": torch.arange(3 + i) % 300} for i in range(7)]
    callback = ScalingCallback(
        {"held": PackedBlocks(data / "held.safetensors", 16, keep_tail=True), "ragged": ragged},
        base_tokens=5000, marks=[0, 320, 8000, 20000],
    )  # fmt: skip
    blocks = PackedBlocks(data / "train.safetensors", 16)
    trainer = Trainer(model=model, args=arguments, train_dataset=blocks, callbacks=[callback])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    (output / f"losses-{arguments.process_index}.json").write_text(json.dumps(losses))
    del trainer  # with the wrapped model gone, the next line joins gloo's threads; left alone they abort at exit
    torch.distributed.is_initialized() and torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")
    return folder


def points(output):
    read = read_points(output / "points.jsonl")
    assert not read.problems, "one process writes, and each point once"
    return read.points


@pytest.mark.parametrize("steps", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_two_processes_leave_the_points_and_losses_of_one(folder, tmp_path, steps):
    assert together(2, train, folder, tmp_path / "two", 2, steps) == [0, 0]
    train(folder, tmp_path / "one", 4, steps)
    one, two = points(tmp_path / "one"), points(tmp_path / "two")
    assert ({p.world_size for p in one}, {p.world_size for p in two}) == ({1}, {2})
    assert one[-1].tokens == steps * 64
    for single, double in zip(one, two, strict=True):
        same = ("step", "tokens", "tokens_seen", "token_slots", "phase", "base_tokens", "n_params")
        assert [getattr(single, name) for name in same] == [getattr(double, name) for name in same]
        assert double.loss == pytest.approx(single.loss, rel=1e-5)
        for name, result in single.eval.items():
            assert double.eval[name]["count"] == result["count"]
            assert double.eval[name]["sum"] == pytest.approx(result["sum"], rel=1e-5)
    losses = [json.loads((tmp_path / name).read_text()) for name in ("one/losses-0.json", "two/losses-0.json")]
    assert_same(*losses)
