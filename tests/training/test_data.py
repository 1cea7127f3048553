"""Packing drops nothing, repeats nothing, and is read by position."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bootstrap.errors import DataError
from hf_bootstrap.training.data import EOS, PackedBlocks, load_tokenizer, pack, read_documents, train_tokenizer

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


@pytest.mark.parametrize("documents", [[], ["", ""]])
def test_no_text_is_refused(documents, tmp_path, tokenizer):
    with pytest.raises(DataError, match="no text"):
        pack(documents, tokenizer, tmp_path / "t")


@pytest.mark.parametrize("content", [b"", b"not a token file", b"\xff" * 100])
def test_a_file_that_is_no_token_file_is_refused(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="not a token file"):
        PackedBlocks(tmp_path / "x", 16)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_text_json_and_parquet_files_give_their_documents(tmp_path):
    rows = ["one\n\ntwo\n", "three"]
    (tmp_path / "a.txt").write_text(rows[0])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    pd.DataFrame({"body": rows}).to_parquet(tmp_path / "c.parquet")
    with gzip.open(tmp_path / "d.txt.gz", "wt") as file:
        file.write(rows[0])
    assert read_documents(tmp_path / "a.txt") == rows[:1]
    assert read_documents(tmp_path / "b.jsonl") == rows
    assert read_documents(tmp_path / "c.parquet", column="body") == rows
    assert read_documents(tmp_path / "d.txt.gz") == rows[:1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "x", "is not a .txt"),
        ("a.jsonl", '{"txt": "x"}\n', "Did you mean 'txt'"),
        ("a.jsonl", '{"text": null}\n{"text": "x"}\n', "row 1"),
        ("a.jsonl", "{", "cannot be read"),
        ("a.parquet", "not parquet", "cannot be read"),
    ],
)
def test_files_without_text_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_documents(tmp_path / name)
