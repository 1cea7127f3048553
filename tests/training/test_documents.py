"""Text comes out of files and data sets as it is, or a sentence says what is wrong with it."""

import gzip
import json

import pandas as pd
import pytest

from hf_bootstrap.errors import DataError
from hf_bootstrap.training.documents import read_documents, read_hub_documents


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


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A folder as the Hub would hand it out, and a cache of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    rows = "".join(json.dumps({"text": f"document {i}", "n": i}) + "\n" for i in range(10))
    (tmp_path / "set" / "train.jsonl").write_text(rows)
    return str(tmp_path / "set")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_gives_its_first_documents(data_set, streaming):
    expected = [f"document {i}" for i in range(4)]
    assert read_hub_documents(data_set, documents=4, streaming=streaming) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streaming": True}, "without a bound"),
        ({"documents": 11}, "10 rows"),
        ({"column": "txt"}, "Did you mean 'text'"),
        ({"column": "n"}, "no text in 10 rows"),
        ({"split": "test"}, "cannot be read"),
    ],
)
def test_a_data_set_that_does_not_hold_what_is_asked_is_refused(data_set, changes, message):
    with pytest.raises(DataError, match=message):
        read_hub_documents(data_set, **changes)


def test_a_data_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_hub_documents(str(tmp_path / "none"))
