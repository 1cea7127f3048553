"""Where every byte of a grown checkpoint will lie: shards, their headers and the index, before one is written.

Pure arithmetic over names, dtypes and shapes; the bytes themselves are for `writer`.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GrowthError
from ..units import parse_count
from .checkpoint import DTYPES, Entry

__all__ = ["INDEX_NAME", "Shard", "lay_out", "shard_index", "shard_limit"]

INDEX_NAME = "model.safetensors.index.json"

# Tensors begin at multiples of this many bytes, so that readers may map them in place (safetensors aligns so too).
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One safetensors file to be.

    Attributes:
        name: of the file.
        header: its first bytes, length included.
        entries: its tensors in the order of their bytes.
        size: of the whole file in bytes.
    """

    name: str
    header: bytes
    entries: tuple[Entry, ...]
    size: int


def shard_limit(size: str | int) -> int:
    """Bytes of the largest shard, from a number or a text such as ``"5GB"`` (powers of 1000).

    Raises:
        GrowthError: zero.
        QuantityError: not a size.
    """
    text = size.strip().removesuffix("B").removesuffix("b") if isinstance(size, str) else size
    limit = parse_count(text, "max_shard_size")
    if limit == 0:
        raise GrowthError("max_shard_size is 0; no tensor fits into it. Try '5GB'.")
    return limit


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]], limit: int) -> tuple[Shard, ...]:
    """Put tensors into files, in the order given, each as full as the limit allows.

    Args:
        tensors: (name, dtype, shape) of each.
        limit: bytes of tensors in one file; a tensor larger than that gets a file of its own.

    Returns:
        One file `model.safetensors`, or `model-00001-of-0000N.safetensors` and on.
    """
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for tensor in tensors:
        size = _size(tensor)
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    count = len(groups)
    names = [
        f"model-{n + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors" for n in range(count)
    ]
    return tuple(_shard(name, group) for name, group in zip(names, groups, strict=True))


def shard_index(shards: Sequence[Shard]) -> dict[str, Any] | None:
    """The record of the index file, as transformers writes it; None where one file needs none."""
    if len(shards) == 1:
        return None
    entries = [entry for shard in shards for entry in shard.entries]
    return {
        "metadata": {
            "total_parameters": sum(math.prod(entry.shape) for entry in entries),
            "total_size": sum(entry.stop - entry.start for entry in entries),
        },
        "weight_map": {entry.name: entry.file for entry in entries},
    }


def _size(tensor: tuple[str, str, tuple[int, ...]]) -> int:
    return DTYPES[tensor[1]] * math.prod(tensor[2])


def _shard(name: str, tensors: list[tuple[str, str, tuple[int, ...]]]) -> Shard:
    # Wide dtypes first: then every tensor begins at a multiple of its own width without gaps between them.
    ordered = sorted(tensors, key=lambda tensor: -DTYPES[tensor[1]])
    record: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in ordered:
        record[tensor[0]] = {
            "dtype": tensor[1],
            "shape": list(tensor[2]),
            "data_offsets": [position, position + _size(tensor)],
        }
        position += _size(tensor)
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    entries = []
    for title, dtype, shape in ordered:
        start, stop = (len(header) + offset for offset in record[title]["data_offsets"])
        entries.append(Entry(name=title, dtype=dtype, shape=shape, file=name, start=start, stop=stop))
    return Shard(name=name, header=header, entries=tuple(entries), size=len(header) + position)
