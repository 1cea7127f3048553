"""Ways to the same training that must end at the same losses: accumulation, packing, processes' share of a batch."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.evaluation import evaluate

from .conftest import DOCUMENTS, MODEL

STEPS = 500


def train(data, output, steps=STEPS, **changes):
    """Loss of every step, from the same start at a rate where rounding does not grow: 5e-4."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"}))
    collator = changes.pop("data_collator", None)
    args = TrainingArguments(**{
        "output_dir": str(output), "max_steps": steps, "learning_rate": 5e-4, "logging_steps": 1, "report_to": [],
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "train_sampling_strategy": "sequential",
        **changes,
    })  # fmt: skip
    trainer = Trainer(model=model, args=args, train_dataset=data, data_collator=collator)
    # The log rounds nothing away, but prints every step.
    trainer.callback_handler.callbacks = trainer.callback_handler.callbacks[:1]
    trainer.train()
    return np.array([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]), model


def assert_same(ours, theirs, tolerance=1e-5):
    """Every step within the tolerance, and no drift: ten blocks' mean residuals within two standard errors of zero."""
    assert len(ours) == len(theirs)
    residual = np.log(ours) - np.log(theirs)
    assert np.abs(residual).max() <= tolerance
    blocks = residual.reshape(10, -1).mean(axis=1)
    error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    # Below the rounding of one loss in float32 a mean is as good as zero.
    assert abs(blocks.mean()) <= max(2 * error, 6e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "accumulated"), [(1, 8), (2, 4)])
def test_a_batch_of_eight_is_eight_accumulated(study, tmp_path, batch, accumulated):
    blocks = PackedBlocks(study / "train.safetensors", 16)
    whole, _ = train(blocks, tmp_path, per_device_train_batch_size=8)
    split, _ = train(blocks, tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated)
    assert_same(whole, split)


@pytest.mark.slow
def test_packed_documents_train_as_the_same_documents_padded(tmp_path, tokenizer):
    """Each step one block of two documents against a padded batch of the same two."""
    eos, length = tokenizer.eos_token_id, 24
    stream = [ids[: length - 1] for ids in tokenizer(DOCUMENTS, add_special_tokens=False)["input_ids"]]
    packed, padded = [], []
    for first, second in zip(stream[::2], stream[1::2], strict=True):
        second = second[: len(second) - 5]  # lengths differ, so that padding is needed
        rows = [torch.tensor([eos, *ids]) for ids in (first, second)]
        ids = torch.cat(rows)
        labels = ids.clone()
        labels[0] = labels[len(rows[0])] = -100  # the first token of a document is predicted by nobody
        positions = torch.cat([torch.arange(len(row)) for row in rows])
        packed.append({"input_ids": ids, "labels": labels, "position_ids": positions})
        padded += [{"input_ids": row, "labels": torch.cat([torch.tensor([-100]), row[1:]])} for row in rows]

    def pad(items):
        rows = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": rows([item["input_ids"] for item in items], batch_first=True),
            "labels": rows([item["labels"] for item in items], batch_first=True, padding_value=-100),
            "attention_mask": rows([torch.ones_like(item["input_ids"]) for item in items], batch_first=True),
        }

    ours, _ = train(packed, tmp_path, per_device_train_batch_size=1)
    theirs, _ = train(padded, tmp_path, per_device_train_batch_size=2, data_collator=pad)
    assert_same(ours, theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-9)])
def test_evaluation_does_not_depend_on_the_batch(study, tmp_path, tokenizer, dtype, tolerance):
    torch.manual_seed(0)
    config = LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"}, attn_implementation="sdpa")
    model = LlamaForCausalLM(config).to(dtype)
    eos = tokenizer.eos_token_id
    ragged = [
        {"input_ids": torch.tensor([eos, *ids[: 5 + 7 * n % 50]])}
        for n, ids in enumerate(tokenizer(DOCUMENTS, add_special_tokens=False)["input_ids"])
    ]
    total, count = 0.0, 0
    for item in ragged:  # the plain loop: one document at a time
        with torch.no_grad():
            logits = model(input_ids=item["input_ids"][None]).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, item["input_ids"][1:], reduction="sum").item()
        count += len(item["input_ids"]) - 1
    for size in (1, 2, 3, 7, 16, 33, 50):
        found = evaluate(model, ragged, batch_size=size)
        assert found.count == count
        assert found.sum == pytest.approx(total, rel=tolerance)


def test_two_accumulated_halves_train_as_a_whole_for_a_few_steps(study, tmp_path):
    blocks = PackedBlocks(study / "train.safetensors", 16)
    whole, _ = train(blocks, tmp_path, steps=20, per_device_train_batch_size=4)
    split, _ = train(blocks, tmp_path, steps=20, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert_same(whole, split)
