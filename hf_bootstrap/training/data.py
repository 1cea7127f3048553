"""Text to token files to blocks: packed once, nothing dropped, read by position.

A token file is one long stream, `EOS doc EOS doc ... EOS`, in a safetensors file with its facts in the header.
Block i holds tokens [T*i, T*i + T]: neighbours overlap by one, so every token but the first is
trained exactly once.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch.utils.data import Dataset

from ..errors import DataError, did_you_mean
from ..store import write_atomic

__all__ = ["EOS", "PackedBlocks", "TokenFile", "load_tokenizer", "pack", "read_documents", "train_tokenizer"]

EOS = "<|endoftext|>"
# Documents tokenised at a time: enough for every thread of `tokenizers`, little enough to keep in memory.
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Facts about a packed token file.

    Attributes:
        tokens: tokens in the stream, separators included.
        documents: documents joined.
        text_bytes: UTF-8 bytes of the documents.
        tokenizer_hash: SHA-256 of the tokenizer's JSON.
        hash: SHA-256 of the token stream.
    """

    path: Path
    tokens: int
    documents: int
    text_bytes: int
    tokenizer_hash: str
    hash: str


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
            raise DataError(f"{path} has no column {column!r}. {did_you_mean(column, table.column_names)}")
        rows: list[Any] = table[column][:]
    if wrong := [number for number, row in enumerate(rows, start=1) if not isinstance(row, str)]:
        raise DataError(f"{path} has no text in {len(wrong)} rows, the first is row {wrong[0]}. Remove or fill them.")
    return rows


def train_tokenizer(documents: Iterable[str], vocab_size: int, folder: str | Path) -> Path:
    """Train a byte-level BPE and save it as a folder that `AutoTokenizer` loads.

    Args:
        vocab_size: entries in all: 256 bytes, the end-of-text token, and merges.

    Raises:
        DataError: a vocabulary too small to hold every byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise DataError(
            f"a byte-level vocabulary of {vocab_size} cannot hold 256 bytes and {EOS}. Ask for 257 or more."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS}
    folder = Path(folder)
    write_atomic(folder / "tokenizer.json", tokenizer.to_str())
    write_atomic(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    return folder


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer of a folder or Hub model.

    Raises:
        DataError: there is none, it is not a fast one, or it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no tokenizer could be loaded from {path!r}: {error}. Name a folder or model that has one."
        ) from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer of {path!r} has no fast version or no end-of-text token, and documents are joined by one. "
            "Use a tokenizer with a tokenizer.json and an eos_token."
        )
    return tokenizer


def pack(
    documents: Sequence[str], tokenizer: Any, path: str | Path, report: Callable[[int], None] | None = None
) -> TokenFile:
    """Tokenise documents and write them as one stream.

    Args:
        tokenizer: a fast transformers tokenizer with an end-of-text token.
        report: told the documents done so far.

    Raises:
        DataError: no documents, or none with text.
    """
    kept = [document for document in documents if document]
    if not kept:
        raise DataError(
            f"there is no text to pack into {path}: {len(documents)} documents, all empty. Check the input."
        )
    eos = tokenizer.eos_token_id
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    pieces = [np.array([eos], dtype=dtype)]
    for start in range(0, len(kept), _BATCH):
        encoded = tokenizer(kept[start : start + _BATCH], add_special_tokens=False, verbose=False)["input_ids"]
        pieces.extend(np.array([*ids, eos], dtype=dtype) for ids in encoded)
        if report:
            report(min(start + _BATCH, len(kept)))
    stream = np.concatenate(pieces)
    facts = TokenFile(
        path=Path(path),
        tokens=len(stream),
        documents=len(kept),
        text_bytes=sum(len(document.encode()) for document in kept),
        tokenizer_hash=hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        hash=hashlib.sha256(stream.astype("<u4").tobytes()).hexdigest(),
    )
    header = {key: str(value) for key, value in asdict(facts).items() if key != "path"}
    write_atomic(path, save({"tokens": stream}, metadata=header))
    return facts


class PackedBlocks(Dataset[dict[str, torch.Tensor]]):
    """Blocks of a token file, by position.

    Item i is ``{"input_ids": (T+1,), "labels": (T+1,)}``, int64; the first label is -100, since the token
    before it is in the block before, so each block trains exactly T tokens. A last block shorter than T
    is left to evaluation (`keep_tail`), because a training step has a fixed size.

    Args:
        path: a file written by `pack`.
        sequence_length: trained tokens of one block, T.
        offset: blocks to leave out at the start.
        keep_tail: whether the last, shorter block counts.
    """

    def __init__(self, path: str | Path, sequence_length: int, *, offset: int = 0, keep_tail: bool = False) -> None:
        self.facts, self._tokens = _read(Path(path))
        self.sequence_length = sequence_length
        self.offset = offset
        whole, rest = divmod(self.facts.tokens - 1, sequence_length)
        self._length = max(0, whole + (1 if keep_tail and rest else 0) - offset)
        self._is_whole = offset == 0 and (keep_tail or not rest)

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes the trained tokens spell; None when blocks were left out, since then nobody counted."""
        return self.facts.text_bytes if self._is_whole else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        start = (self.offset + index) * self.sequence_length
        ids = torch.from_numpy(self._tokens[start : start + self.sequence_length + 1].astype(np.int64))
        labels = ids.clone()
        labels[0] = -100
        return {"input_ids": ids, "labels": labels}


def _read(path: Path) -> tuple[TokenFile, np.ndarray[Any, np.dtype[Any]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tokens = file.get_tensor("tokens")
            facts = TokenFile(
                path=path,
                tokens=int(header["tokens"]),
                documents=int(header["documents"]),
                text_bytes=int(header["text_bytes"]),
                tokenizer_hash=header["tokenizer_hash"],
                hash=header["hash"],
            )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is not a token file ({error}). Write it with hf_bootstrap.training.data.pack."
        ) from error
    if tokens.ndim != 1 or len(tokens) != facts.tokens or tokens.dtype.kind != "u":
        raise DataError(
            f"{path} holds {tokens.shape} {tokens.dtype} tokens but says {facts.tokens}. Pack the text again."
        )
    return facts, tokens
