"""Text to token ids in this process or several, in the order of the text.

It imports little, for every process pays for that; files are the business of `data`.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["encode"]

_Ids = npt.NDArray[np.uint32]

# Documents encoded at a time: enough for every thread of `tokenizers`, little enough to keep in memory.
_BATCH = 256
_tokenizer: Any = None


def encode(
    tokenizer_json: str, documents: Sequence[str], separator: int, processes: int = 1
) -> Iterator[tuple[int, _Ids]]:
    """Encode documents, each followed by the separator.

    Args:
        tokenizer_json: what `tokenizers.Tokenizer.to_str` gives.
        processes: 1 works in this process, with the threads of `tokenizers`; the ids are the same for any number.

    Yields:
        (documents, ids): how many documents the next piece of the stream holds, and the piece.
    """
    batches = [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]
    if processes <= 1 or len(batches) < 2:
        _load(tokenizer_json)
        for batch in batches:
            yield len(batch), _encode(batch, separator)
        return
    # Not forked from this process: it may hold threads of torch or of the tokenizer, which a fork would break.
    context = multiprocessing.get_context("forkserver")
    workers = min(processes, len(batches))
    with ProcessPoolExecutor(workers, context, initializer=_load, initargs=(tokenizer_json,)) as pool:
        pieces = pool.map(_encode, batches, [separator] * len(batches))
        for batch, piece in zip(batches, pieces, strict=True):
            yield len(batch), piece


def _load(tokenizer_json: str) -> None:
    global _tokenizer
    from tokenizers import Tokenizer

    _tokenizer = Tokenizer.from_str(tokenizer_json)


def _encode(batch: Sequence[str], separator: int) -> _Ids:
    encoded = _tokenizer.encode_batch_fast(list(batch), add_special_tokens=False)
    pieces = []
    for document in encoded:
        pieces.append(np.array(document.ids, dtype=np.uint32))
        pieces.append(np.array([separator], dtype=np.uint32))
    return np.concatenate(pieces)
