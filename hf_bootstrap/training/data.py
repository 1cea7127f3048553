"""Text to token files to blocks: packed once, nothing dropped, read by position.

A token file is one long stream, `EOS doc EOS doc ... EOS`, in a safetensors file with its facts in the header.
Block i holds tokens [T*i, T*i + T]: neighbours overlap by one, so every token but the first is
trained exactly once.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

from ..errors import DataError
from ..sealing import canonical_json
from ..store import write_atomic
from .encoding import encode

__all__ = [
    "EOS",
    "ISOLATED",
    "JOINED",
    "PackedBlocks",
    "TokenFile",
    "WholeSteps",
    "load_tokenizer",
    "pack",
    "train_tokenizer",
]

EOS = "<|endoftext|>"
JOINED = "joined by end-of-text, attention crosses documents"
ISOLATED = "joined by end-of-text, documents isolated by position_ids"


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Facts about a packed token file.

    Attributes:
        tokens: tokens in the stream, separators included.
        documents: documents joined.
        text_bytes: UTF-8 bytes of the documents.
        tokenizer_hash: SHA-256 of the tokenizer's JSON.
        hash: SHA-256 of the token stream.
        largest_id: the highest token id; the model's vocabulary must reach beyond it.
        replay_ratio: the share of the base's text mixed in, 0 to 1; None where nothing was said of it.
    """

    path: Path
    tokens: int
    documents: int
    text_bytes: int
    tokenizer_hash: str
    hash: str
    largest_id: int
    replay_ratio: float | None = None


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
    documents: Sequence[str],
    tokenizer: Any,
    path: str | Path,
    report: Callable[[int], None] | None = None,
    *,
    processes: int = 1,
    replay_ratio: float | None = None,
) -> TokenFile:
    """Tokenise documents and write them as one stream.

    Args:
        tokenizer: a fast transformers tokenizer with an end-of-text token.
        report: told the documents done so far.
        processes: that tokenise; any number writes the same bytes.
        replay_ratio: kept in the file, so that every point trained on it says so.

    Raises:
        DataError: no documents, or none with text.
    """
    kept = [document for document in documents if document]
    if not kept:
        raise DataError(
            f"there is no text to pack into {path}: {len(documents)} documents, all empty. Check the input."
        )
    eos = tokenizer.eos_token_id
    content = _plain(tokenizer)
    pieces = [np.array([eos], dtype=np.uint32)]
    done = 0
    for count, ids in encode(content, kept, eos, processes):
        pieces.append(ids)
        done += count
        if report:
            report(done)
    stream = np.concatenate(pieces)
    facts = TokenFile(
        path=Path(path),
        tokens=len(stream),
        documents=len(kept),
        text_bytes=sum(len(document.encode()) for document in kept),
        tokenizer_hash=hashlib.sha256(content.encode()).hexdigest(),
        hash=hashlib.sha256(stream.astype("<u4", copy=False).tobytes()).hexdigest(),
        largest_id=int(stream.max()),
        replay_ratio=replay_ratio,
    )
    _write(facts, stream.astype("<u2" if len(tokenizer) <= 2**16 else "<u4"))
    return facts


def _plain(tokenizer: Any) -> str:
    """The tokenizer's JSON without the truncation and padding of its last use, which would cut documents."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy.to_str()


def _write(facts: TokenFile, tokens: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Write a safetensors file whose header, too, depends on its content alone; the usual writer shuffles it."""
    metadata = {key: str(value) for key, value in asdict(facts).items() if key != "path" and value is not None}
    kind = {2: "U16", 4: "U32"}[tokens.itemsize]
    entry = {"dtype": kind, "shape": [len(tokens)], "data_offsets": [0, tokens.nbytes]}
    header = canonical_json({"__metadata__": metadata, "tokens": entry}).encode()
    header += b" " * (-len(header) % 8)
    write_atomic(facts.path, len(header).to_bytes(8, "little") + header + tokens.tobytes())


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
        isolate: add `position_ids` that start again at every end-of-text token, so that attention stays inside a
            document; `isolation.check_isolation` says whether a model heeds them.
    """

    def __init__(
        self,
        path: str | Path,
        sequence_length: int,
        *,
        offset: int = 0,
        keep_tail: bool = False,
        isolate: bool = False,
    ) -> None:
        if sequence_length < 1:
            raise DataError(f"blocks of {sequence_length} tokens train nothing. Give a length of at least 1.")
        self.facts, self._tokens = _read(Path(path))
        self.sequence_length = sequence_length
        self.offset = offset
        self.isolate = isolate
        whole, rest = divmod(self.facts.tokens - 1, sequence_length)
        self._length = max(0, whole + (1 if keep_tail and rest else 0) - offset)
        self._is_whole = offset == 0 and (keep_tail or not rest)

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes the trained tokens spell; None when blocks were left out, since then nobody counted."""
        return self.facts.text_bytes if self._is_whole else None

    @property
    def largest_id(self) -> int:
        """The highest token id of the file."""
        return self.facts.largest_id

    @property
    def point_facts(self) -> dict[str, Any]:
        """The fields of a scaling point that the data knows."""
        mixed = self.facts.replay_ratio
        return {
            "sequence_length": self.sequence_length,
            "packing": ISOLATED if self.isolate else JOINED,
            "hashes": {"data": self.facts.hash, "tokenizer": self.facts.tokenizer_hash},
            **({} if mixed is None else {"replay_ratio": mixed}),
        }

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        start = (self.offset + index) * self.sequence_length
        tokens = self._tokens[start : start + self.sequence_length + 1].astype(np.int64)
        ids = torch.from_numpy(tokens)
        labels = ids.clone()
        labels[0] = -100
        if not self.isolate:
            return {"input_ids": ids, "labels": labels}
        return {"input_ids": ids, "labels": labels, "position_ids": torch.from_numpy(self._positions(tokens))}

    def _positions(self, tokens: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(T+1,), the place of each token in its document, counted from the end-of-text token before it."""
        here = np.arange(len(tokens))
        begins = np.where(tokens == int(self._tokens[0]), here, 0)
        return here - np.maximum.accumulate(begins)


class WholeSteps(Dataset[dict[str, torch.Tensor]]):
    """The first blocks of a set, as many as make whole steps.

    Where a text is read more than once, a Trainer would end each pass with a smaller step, and the run would train
    fewer tokens than its schedule counts on.

    Args:
        blocks: `PackedBlocks`, or a `Replay` of them.
        per_step: blocks of one optimizer step, all processes and accumulation.

    Raises:
        DataError: not one whole step.
    """

    def __init__(self, blocks: Any, per_step: int) -> None:
        self._blocks = blocks
        self._length = len(blocks) // per_step * per_step
        if not self._length:
            raise DataError(
                f"the training text has {len(blocks):,} blocks of {blocks.sequence_length:,} tokens, and one step "
                f"takes {per_step:,}. Give more text, or take shorter blocks or a smaller batch."
            )
        self.sequence_length: int = blocks.sequence_length
        self.largest_id: int = blocks.largest_id
        self.point_facts: dict[str, Any] = blocks.point_facts

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        item: dict[str, torch.Tensor] = self._blocks[index]
        return item


def _read(path: Path) -> tuple[TokenFile, np.ndarray[Any, np.dtype[Any]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            piece = file.get_slice("tokens")
            shape, kind = tuple(piece.get_shape()), {"U16": np.uint16, "U32": np.uint32}.get(piece.get_dtype())
            names = list(file.keys())
        facts = TokenFile(
            path=path,
            tokens=int(header["tokens"]),
            documents=int(header["documents"]),
            text_bytes=int(header["text_bytes"]),
            tokenizer_hash=header["tokenizer_hash"],
            hash=header["hash"],
            largest_id=int(header["largest_id"]),
            replay_ratio=float(header["replay_ratio"]) if "replay_ratio" in header else None,
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is not a token file of this version ({error}). Write it with hf_bootstrap.training.data.pack."
        ) from error
    if shape != (facts.tokens,) or kind is None or names != ["tokens"]:
        raise DataError(
            f"{path} holds {', '.join(names)} of shape {shape} but says {facts.tokens} tokens. Pack the text again."
        )
    # Mapped, not read: a block costs what it is long, and a corpus may be larger than memory.
    offset = path.stat().st_size - facts.tokens * np.dtype(kind).itemsize
    return facts, np.memmap(path, dtype=kind, mode="r", offset=offset, shape=shape)
