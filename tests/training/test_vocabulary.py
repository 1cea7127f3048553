"""Another tokenizer: what both know keeps its row, what is new begins as the mean, and bits per byte still compare."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import DataError, PointError
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import append_point
from hf_bootstrap.training.checks import check_fit
from hf_bootstrap.training.data import PackedBlocks, load_tokenizer, pack, train_tokenizer
from hf_bootstrap.training.evaluation import evaluate
from hf_bootstrap.training.vocabulary import change_vocabulary

from .conftest import DOCUMENTS, MODEL


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return load_tokenizer(
        str(train_tokenizer(["völlig anderer Text und Wörter"] * 50, 320, tmp_path_factory.mktemp("t")))
    )


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_found_by_their_spelling_or_are_the_mean(tokenizer, other, tied):
    config = {k: v for k, v in MODEL.items() if k != "model_type"} | {"tie_word_embeddings": tied}
    model = LlamaForCausalLM(LlamaConfig(**config))
    old = [table.weight.detach().clone() for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    added = change_vocabulary(model, tokenizer, other)
    assert 0 < added < len(other)
    assert model.config.vocab_size == len(other)
    ids = tokenizer.get_vocab()
    for before, table in zip(old, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        for token, place in other.get_vocab().items():
            expected = before[ids[token]] if token in ids else before[: len(tokenizer)].mean(dim=0)
            torch.testing.assert_close(table.weight[place], expected)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_the_same_tokenizer_changes_nothing(model, tokenizer):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert change_vocabulary(model, tokenizer, tokenizer) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_changed_model_trains_on_the_new_tokens_and_its_bits_per_byte_are_those_of_the_text(
    model, tokenizer, other, tmp_path
):
    pack(DOCUMENTS, other, tmp_path / "new")
    blocks = PackedBlocks(tmp_path / "new", 16, keep_tail=True)
    model.config.vocab_size = 260
    with pytest.raises(DataError, match=r"training\.vocabulary"):
        check_fit(model, "training", blocks)
    model.config.vocab_size = 300
    change_vocabulary(model, tokenizer, other)
    check_fit(model, "training", blocks)
    found = evaluate(model, blocks)
    assert found.bytes == sum(len(text.encode()) for text in DOCUMENTS)
    assert 0 < found.bits_per_byte < 16


def test_a_tokenizer_of_another_model_is_refused(tokenizer, other):
    config = {k: v for k, v in MODEL.items() if k != "model_type"} | {"vocab_size": 280}
    with pytest.raises(DataError, match="another model's"):
        change_vocabulary(LlamaForCausalLM(LlamaConfig(**config)), tokenizer, other)


def planted(tokenizers):
    """Points of one law in bits per byte; each tokenizer spells a byte with another number of tokens."""
    for d1 in (1e5, 4e5, 1.6e6, 6.4e6):
        for i, d2 in enumerate(np.geomspace(1e5, 6.4e6, 6)):
            bits = 0.8 + 40 * d1**-0.1 * d2**-0.25
            tokens_per_byte = (0.3, 0.45)[i % tokenizers]
            yield ScalingPoint(
                run_id=f"{d1:.0f}-{i}", base_run_id=f"{d1:.0f}", base_tokens=int(d1), tokens=int(d2),
                loss=bits * math.log(2) / tokens_per_byte, bits_per_byte=bits,
            )  # fmt: skip


def test_laws_of_several_tokenizers_are_fitted_to_bits_per_byte(tmp_path):
    for point in planted(tokenizers=2):
        append_point(tmp_path / "points.jsonl", point)
    law = ScalingLaw(form="multiplicative", objective="lsq")
    law.fit(tmp_path / "points.jsonl", columns={"loss": "bits_per_byte"})
    assert law.params_["E"] == pytest.approx(0.8, rel=1e-2)
    assert law.params_["alpha2"] == pytest.approx(0.25, rel=1e-2)
    assert "in bits per UTF-8 byte" in law.summary()
    law.save_pretrained(tmp_path / "law")
    assert not (tmp_path / "law/points.jsonl").exists(), "those hold the loss per token, which was not fitted"
    again = ScalingLaw.from_pretrained(tmp_path / "law")
    assert again.predict(base_tokens=1e6, tokens=1e6).value == law.predict(base_tokens=1e6, tokens=1e6).value


def test_points_that_do_not_know_their_bytes_are_refused(tmp_path):
    points = [dataclasses.replace(point, bits_per_byte=None) for point in planted(tokenizers=1)]
    with pytest.raises(PointError, match="Row 1 has loss None"):
        ScalingLaw(form="multiplicative").fit(points, columns={"loss": "bits_per_byte"})
