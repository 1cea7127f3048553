"""Packing drops nothing, repeats nothing, and is read by position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bootstrap.errors import DataError
from hf_bootstrap.training.data import EOS, PackedBlocks, load_tokenizer, pack, train_tokenizer

from .conftest import DOCUMENTS


def test_a_trained_tokenizer_spells_every_document_back(tokenizer):
    for document in [*DOCUMENTS, "Grüße, 世界 \x00\n\t"]:
        assert tokenizer.decode(tokenizer(document)["input_ids"]) == document


def test_a_vocabulary_too_small_for_bytes_is_refused(tmp_path):
    with pytest.raises(DataError, match="256 bytes"):
        train_tokenizer(DOCUMENTS, 200, tmp_path)


def test_the_stream_is_the_documents_joined_by_end_of_text(tmp_path, tokenizer):
    facts = pack(DOCUMENTS, tokenizer, tmp_path / "t.safetensors")
    blocks = PackedBlocks(tmp_path / "t.safetensors", facts.tokens - 1)
    assert tokenizer.decode(blocks[0]["input_ids"]) == EOS + EOS.join(DOCUMENTS) + EOS
    assert facts.text_bytes == sum(len(d.encode()) for d in DOCUMENTS)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 400))
def test_every_token_but_the_first_is_trained_exactly_once(length, study):
    stream = PackedBlocks(study / "train.safetensors", 10**9, keep_tail=True)[0]["input_ids"].numpy()
    blocks = PackedBlocks(study / "train.safetensors", length, keep_tail=True)
    targets = [block["input_ids"][block["labels"] != -100].numpy() for block in blocks]
    assert np.array_equal(np.concatenate(targets), stream[1:])


def test_training_blocks_all_have_the_same_size_and_an_offset_leaves_blocks_out(study):
    blocks = PackedBlocks(study / "train.safetensors", 16)
    assert {len(block["input_ids"]) for block in blocks} == {17}
    later = PackedBlocks(study / "train.safetensors", 16, offset=3)
    assert len(later) == len(blocks) - 3
    assert later[0]["input_ids"].equal(blocks[3]["input_ids"])


def test_bytes_are_known_only_for_a_whole_file(study):
    assert PackedBlocks(study / "held.safetensors", 16, keep_tail=True).text_bytes
    assert PackedBlocks(study / "held.safetensors", 16, offset=1, keep_tail=True).text_bytes is None


def test_the_same_text_gives_the_same_hash_and_another_text_another(tmp_path, tokenizer):
    hashes = [pack(d, tokenizer, tmp_path / "t").hash for d in (DOCUMENTS, DOCUMENTS, DOCUMENTS[::-1])]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_was_mixed_into_a_file_stands_in_every_point_trained_on_it(tmp_path, tokenizer):
    pack(DOCUMENTS, tokenizer, tmp_path / "mixed", replay_ratio=0.05)
    pack(DOCUMENTS, tokenizer, tmp_path / "plain")
    assert PackedBlocks(tmp_path / "mixed", 16).point_facts["replay_ratio"] == 0.05
    assert "replay_ratio" not in PackedBlocks(tmp_path / "plain", 16).point_facts


@pytest.mark.parametrize("documents", [[], ["", ""]])
def test_no_text_is_refused(documents, tmp_path, tokenizer):
    with pytest.raises(DataError, match="no text"):
        pack(documents, tokenizer, tmp_path / "t")


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_writes_the_same_bytes(processes, tmp_path, tokenizer):
    documents = [f"{document} {i}" for i in range(20) for document in DOCUMENTS]
    seen = []
    one = pack(documents, tokenizer, tmp_path / "one")
    many = pack(documents, tokenizer, tmp_path / "many", seen.append, processes=processes)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()
    assert one.hash == many.hash
    assert seen == [256, 512, 768, 1024, 1200]


def test_what_a_tokenizer_was_last_used_for_does_not_cut_documents(tmp_path, tokenizer):
    straight = pack(DOCUMENTS, tokenizer, tmp_path / "t")
    tokenizer(DOCUMENTS[:2], truncation=True, max_length=3)
    try:
        assert pack(DOCUMENTS, tokenizer, tmp_path / "t").hash == straight.hash
    finally:
        tokenizer.backend_tokenizer.no_truncation()


def test_blocks_of_no_tokens_are_refused(study):
    with pytest.raises(DataError, match="train nothing"):
        PackedBlocks(study / "train.safetensors", 0)


@pytest.mark.parametrize("content", [b"", b"not a token file", b"\xff" * 100])
def test_a_file_that_is_no_token_file_is_refused(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="not a token file of"):
        PackedBlocks(tmp_path / "x", 16)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))
