"""TRL's SFTTrainer takes the callback as any Trainer does, and both count alike."""

import pytest
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from hf_bootstrap import ScalingCallback
from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import PackedBlocks

from .conftest import DOCUMENTS

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[test]'")

ROWS = {
    "text": [{"text": text[:100]} for text in DOCUMENTS],
    "answers": [{"prompt": text[:30], "completion": text[30 : 70 + i]} for i, text in enumerate(DOCUMENTS)],
}


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("rows", ROWS)
def test_sft_gives_points_and_its_own_count_of_tokens_agrees(model, study, tokenizer, tmp_path, rows, packing):
    tokenizer.pad_token = tokenizer.eos_token
    measure = ScalingCallback(
        {"held": PackedBlocks(study / "held.safetensors", 16, keep_tail=True)},
        base_tokens=5000,
        method="sft",
        marks=[0],
    )
    args = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False,
        disable_tqdm=True, max_length=48, packing=packing, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(ROWS[rows]), processing_class=tokenizer,
        callbacks=[measure],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    carried = []
    step = trainer.training_step
    trainer.training_step = lambda model, inputs, *rest: carried.append(inputs["labels"]) or step(model, inputs, *rest)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "num_tokens" in entry]
    assert [entry["tokens_seen"] for entry in logged] == [entry["num_tokens"] for entry in logged]
    first, last = read_points(tmp_path / "points.jsonl").points
    assert (first.tokens, last.tokens_seen, last.phase, last.method) == (0, logged[-1]["num_tokens"], "end", "sft")
    # A token carries loss if its label counts and another stands before it in the row.
    assert last.tokens == sum(int((labels[:, 1:] != -100).sum()) for labels in carried)
    assert 0 < last.tokens < last.tokens_seen
    assert last.loss != first.loss
