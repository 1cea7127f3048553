"""Where text comes from: local files and Hub data sets, by `datasets`, as a list of documents.

Everything that is wrong with a source is said here, before anything is tokenised.
"""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from ..hub.refusals import showable, without_secrets

__all__ = ["read_documents", "read_hub_documents"]


def read_documents(path: str | Path, column: str = "text") -> list[str]:
    """The documents in a file, by `datasets`: a text file is one, a JSON-lines or Parquet file has one per row.

    Args:
        path: ``.txt``, ``.json``, ``.jsonl`` or ``.parquet``; text and JSON may be gzipped.
        column: where rows keep their text.

    Raises:
        DataError: no such file, another format, no such column, or rows without text.
    """
    from datasets import Dataset as Table
    from datasets.exceptions import DatasetGenerationError

    path = Path(path)
    suffix = next((end for end in path.suffixes[::-1] if end != ".gz"), "")
    if not path.is_file() or suffix not in (".txt", ".json", ".jsonl", ".parquet"):
        raise DataError(f"{path} is not a .txt, .json, .jsonl or .parquet file. Check the path, or convert the text.")
    with tempfile.TemporaryDirectory() as cache:
        try:
            if suffix == ".txt":
                table = Table.from_text(str(path), sample_by="document", cache_dir=cache)
            elif suffix == ".parquet":
                table = Table.from_parquet(str(path), cache_dir=cache)
            else:
                table = Table.from_json(str(path), cache_dir=cache)
        except (DatasetGenerationError, ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read: {error.__cause__ or error}. Is it whole, and UTF-8?") from error
        column = "text" if suffix == ".txt" else column
        if column not in table.column_names:
            raise DataError(
                f"{path} has no column {column!r}. {did_you_mean(column, table.column_names)} Rename the one with "
                "the text."
            )
        rows: list[Any] = table[column][:]
    if wrong := [number for number, row in enumerate(rows, start=1) if not isinstance(row, str)]:
        raise DataError(f"{path} has no text in {len(wrong)} rows, the first is row {wrong[0]}. Remove or fill them.")
    return rows


def read_hub_documents(
    name: str,
    config: str | None = None,
    *,
    split: str = "train",
    column: str = "text",
    documents: int | None = None,
    streaming: bool = False,
    revision: str | None = None,
) -> list[str]:
    """The first documents of a data set on the Hub, or in a local folder of data files.

    No code of the data set is run: `datasets` reads data files only.

    Args:
        name: such as ``wikitext``; config: the data set's own configuration.
        documents: how many to take from the start of the split; all when None.
        streaming: read over the network without keeping the files; needs `documents`, for a stream has no end in sight.
        revision: a commit; without it the newest, and then only the hashes in the points say what was read.

    Raises:
        DataError: no such data set, split or column, a stream without bound, fewer rows than asked for, or no text.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    if streaming and documents is None:
        raise DataError(f"{name} is to be streamed without a bound. Say how many documents to take.")
    try:
        table = load_dataset(name, config, split=split, streaming=streaming, revision=revision)
        first = list(itertools.islice(iter(table), documents))
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise DataError(
            f"data set {name!r}, split {split!r}, cannot be read: "
            f"{without_secrets(str(error.__cause__ or error))}. Check its name, configuration and split, and whether "
            "this machine is online."
        ) from showable(error)
    if documents is not None and len(first) < documents:
        raise DataError(
            f"{name} has {len(first):,} rows in {split!r}, and {documents:,} were asked for. Ask for fewer."
        )
    return _texts(name, first, column)


def _texts(name: str, rows: list[dict[str, Any]], column: str) -> list[str]:
    if rows and column not in rows[0]:
        raise DataError(
            f"{name} has no column {column!r}. {did_you_mean(column, rows[0])} Rename the one with the text."
        )
    texts = [row.get(column) for row in rows]
    if wrong := [number for number, text in enumerate(texts, start=1) if not isinstance(text, str)]:
        raise DataError(f"{name} has no text in {len(wrong)} rows, the first is row {wrong[0]}. Remove or fill them.")
    return texts  # type: ignore[return-value]
