"""Isolated documents are scored as if each were alone, in evaluation and in training; joined ones are not."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Mamba2Config, Trainer, TrainingArguments

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.training.data import PackedBlocks, pack
from hf_bootstrap.training.evaluation import evaluate
from hf_bootstrap.training.isolation import check_isolation, leak

from .conftest import MODEL

SHORT = ["one two", "three", "four five six seven", "eight nine"]


@pytest.fixture
def stream(tmp_path, tokenizer):
    """One block that holds every short document, and the documents alone, each behind its end-of-text token."""
    facts = pack(SHORT, tokenizer, tmp_path / "t.safetensors")
    eos = tokenizer.eos_token_id
    alone = [torch.tensor([[eos, *tokenizer(text, add_special_tokens=False)["input_ids"]]]) for text in SHORT]
    return tmp_path / "t.safetensors", facts.tokens - 1, alone


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_of_packed_documents_are_those_of_separate_forward_passes(stream, attention):
    path, length, alone = stream
    torch.manual_seed(0)
    config = LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"}, attn_implementation=attention)
    model = LlamaForCausalLM(config).eval()
    expected = torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in alone])
    block = PackedBlocks(path, length, isolate=True)[0]
    given = {"input_ids": block["input_ids"][None], "position_ids": block["position_ids"][None], "use_cache": False}
    together = model(**given).logits[0, :-1]  # the last end-of-text token begins a document that is not there
    torch.testing.assert_close(together, expected, atol=1e-6, rtol=1e-6)
    joined = model(input_ids=given["input_ids"], use_cache=False).logits[0, :-1]
    assert (joined - expected).abs().max() > 1e-3


def test_evaluation_of_isolated_blocks_is_that_of_each_document_alone_whatever_the_batch(model, study):
    model = model.double()
    held = PackedBlocks(study / "held.safetensors", 24, keep_tail=True, isolate=True)
    first = evaluate(model, held, batch_size=1)
    for size in (3, 50):
        again = evaluate(model, held, batch_size=size)
        assert again.count == first.count
        assert again.sum == pytest.approx(first.sum, rel=1e-9)
    assert evaluate(model, PackedBlocks(study / "held.safetensors", 24, keep_tail=True)).sum != first.sum


def test_a_trainer_step_on_a_packed_block_is_one_on_separate_documents(model, stream, tmp_path):
    path, length, alone = stream
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = []
    eos = int(alone[0][0, 0])
    for ids in alone:
        whole = torch.cat([ids[0], torch.tensor([eos])])
        rows.append({"input_ids": whole, "labels": whole.clone()})
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(items):
        ids = torch.stack([torch.nn.functional.pad(i["input_ids"], (0, longest - len(i["input_ids"]))) for i in items])
        labels = [torch.nn.functional.pad(i["labels"], (0, longest - len(i["labels"])), value=-100) for i in items]
        return {"input_ids": ids, "labels": torch.stack(labels)}

    ends = []
    for data, batch, collator in (
        (PackedBlocks(path, length, isolate=True), 1, None),
        (PackedBlocks(path, length), 1, None),
        (rows, len(rows), padded),
    ):
        model.load_state_dict(weights)
        args = TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=batch, learning_rate=0.1,
            optim="sgd", lr_scheduler_type="constant", max_grad_norm=0, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        Trainer(model=model, args=args, train_dataset=data, data_collator=collator).train()
        ends.append(torch.cat([tensor.flatten() for tensor in model.state_dict().values()]))
    packed, joined, separate = ends
    torch.testing.assert_close(packed, separate, atol=1e-6, rtol=1e-6)
    assert (joined - separate).abs().max() > 1e-5


def test_a_model_that_heeds_positions_passes_and_a_recurrent_one_is_refused(model):
    assert leak(model) < 1e-6
    check_isolation(model)
    recurrent = AutoModelForCausalLM.from_config(
        Mamba2Config(
            vocab_size=300, hidden_size=16, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=8, n_groups=1
        )
    )
    with pytest.raises(TrainingError, match=r"see each other|takes no position_ids"):
        check_isolation(recurrent)


def test_positions_count_from_the_last_end_of_text(study, tokenizer):
    block = PackedBlocks(study / "train.safetensors", 400, isolate=True)[1]
    place = 0
    for token, position in zip(block["input_ids"].tolist(), block["position_ids"].tolist(), strict=True):
        place = 0 if token == tokenizer.eos_token_id else place
        assert position == place
        place += 1
    assert tokenizer.eos_token_id in block["input_ids"]
