"""Two processes count, measure and train as one does, with whole weights in each (DDP) or shards of them (FSDP2)."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer
from hf_bootstrap.training.evaluation import evaluate

from ..processes import together
from ..training.conftest import DOCUMENTS, MODEL
from ..training.test_equivalence import assert_same

RAGGED = [{"input_ids": torch.arange(3 + 5 * i % 40) * 7 % 300} for i in range(13)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Token files, and a model to start from."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")
    torch.manual_seed(0)
    config = LlamaConfig(**{name: value for name, value in MODEL.items() if name != "model_type"})
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    return folder


def load(folder, in_shards, dtype=torch.float32):
    from transformers.distributed import DistributedConfig

    more = {"distributed_config": DistributedConfig(fsdp_size=2)} if in_shards else {}
    return LlamaForCausalLM.from_pretrained(folder / "model", dtype=dtype, **more)


def part():
    """Part from the other process; nothing may hold the wrapped model, or gloo's threads abort the exit."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train(folder, output, batch, steps, in_shards):
    """What one process does, alone or beside another."""
    from transformers import Trainer, TrainingArguments

    from hf_bootstrap import ScalingCallback
    from hf_bootstrap.training.data import PackedBlocks

    arguments = TrainingArguments(
        output_dir=str(output), max_steps=steps, per_device_train_batch_size=batch, learning_rate=5e-4, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential", logging_steps=1,
        dataloader_drop_last=True,
    )  # fmt: skip
    callback = ScalingCallback(
        {"held": PackedBlocks(folder / "held.safetensors", 16, keep_tail=True), "ragged": RAGGED},
        base_tokens=5000, marks=[0, 320, 8000, 20000],
    )  # fmt: skip
    blocks = PackedBlocks(folder / "train.safetensors", 16)
    model = load(folder, in_shards)
    trainer = Trainer(model=model, args=arguments, train_dataset=blocks, callbacks=[callback])
    trainer.callback_handler.callbacks.pop()  # the last one prints every step
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert isinstance(next(model.parameters()), torch.distributed.tensor.DTensor) == in_shards
    (output / f"losses-{arguments.process_index}.json").write_text(json.dumps(losses))
    del trainer, model
    part()


def points(output):
    read = read_points(output / "points.jsonl")
    assert not read.problems, "one process writes, and each point once"
    return read.points


@pytest.mark.parametrize("in_shards", [False, True], ids=["DDP", "FSDP2"])
@pytest.mark.parametrize("steps", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_two_processes_leave_the_points_and_losses_of_one(folder, tmp_path, steps, in_shards):
    assert together(2, train, folder, tmp_path / "two", 2, steps, in_shards) == [0, 0]
    train(folder, tmp_path / "one", 4, steps, False)
    one, two = points(tmp_path / "one"), points(tmp_path / "two")
    assert ({p.world_size for p in one}, {p.world_size for p in two}) == ({1}, {2})
    assert one[-1].tokens == steps * 64
    for single, double in zip(one, two, strict=True):
        same = ("step", "tokens", "tokens_seen", "token_slots", "phase", "base_tokens", "n_params", "flops")
        assert [getattr(single, name) for name in same] == [getattr(double, name) for name in same]
        assert double.loss == pytest.approx(single.loss, rel=1e-5)
        for name, result in single.eval.items():
            assert double.eval[name]["count"] == result["count"]
            assert double.eval[name]["sum"] == pytest.approx(result["sum"], rel=1e-5)
    losses = [json.loads((tmp_path / name).read_text()) for name in ("one/losses-0.json", "two/losses-0.json")]
    assert_same(*losses)


def measure(folder, output, in_shards, dtype):
    import accelerate

    state = accelerate.PartialState(cpu=True)
    model = load(folder, in_shards, dtype)
    # Of 13 texts one process has seven and the other six: with one at a time they need not make as many passes.
    found = [evaluate(model, RAGGED, batch_size=size) for size in (1, 3, 50)]
    (output / f"{state.process_index}.json").write_text(json.dumps([[e.sum, e.count] for e in found]))
    del model
    part()


@pytest.mark.parametrize("in_shards", [False, True], ids=["whole", "FSDP2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-9)], ids=str)
def test_two_processes_measure_what_one_does(folder, tmp_path, in_shards, dtype, tolerance):
    assert together(2, measure, folder, tmp_path, in_shards, dtype, seconds=60) == [0, 0]
    alone = evaluate(load(folder, False, dtype), RAGGED, batch_size=4)
    for process in (0, 1):
        for total, count in json.loads((tmp_path / f"{process}.json").read_text()):
            assert count == alone.count
            assert total == pytest.approx(alone.sum, rel=tolerance)
