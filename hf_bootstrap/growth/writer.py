"""Carries a growth out on disk, tensor by tensor, in memory that does not depend on the model.

Unchanged tensors are copied as byte ranges, the others grown in blocks of rows. What is done is noted after it is
safe on disk, so a killed writer goes on where it was. Choosing the folder and showing it when complete is for `stream`.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CorruptFileError, GrowthError
from ..store import read_json, write_json
from .checkpoint import DTYPES, Checkpoint, Entry, Match
from .layout import Shard
from .plan import GrowthPlan
from .recipe import Recipe

__all__ = ["PROGRESS", "check_values", "hash_file", "read_rows", "write_shards"]

PROGRESS = "progress.json"

_TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

# The exponent's bits; all of them set is NaN or infinity.
_EXPONENT = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000), "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80),
}  # fmt: skip

_PIECE = 2**23  # bytes read at once
_SYNC_EVERY = 2**28  # bytes after which what was written is made safe and noted


@dataclass
class _Work:
    """What the writing of one growth shares."""

    source: Path
    match: Match
    plan: GrowthPlan
    folder: Path
    recipes: Mapping[str, Recipe]
    done: dict[str, int]
    fingerprint: str
    inputs: dict[str, int] = field(default_factory=dict)

    def note(self, shard: Shard, entries: int) -> None:
        self.done[shard.name] = entries
        write_json(self.folder.parent / PROGRESS, {"fingerprint": self.fingerprint, "done": self.done})

    def open_source(self, file: str) -> int:
        if file not in self.inputs:
            self.inputs[file] = os.open(self.source / file, os.O_RDONLY | os.O_NOFOLLOW)
        return self.inputs[file]


def write_shards(
    checkpoint: Checkpoint,
    match: Match,
    plan: GrowthPlan,
    recipes: Mapping[str, Recipe],
    shards: tuple[Shard, ...],
    folder: Path,
    fingerprint: str,
) -> dict[str, str]:
    """Write every shard of a grown checkpoint into a folder, going on where an earlier call was killed.

    The same plan and source give the same bytes, whatever the number of threads and however often it was killed.

    Args:
        checkpoint: the source; match: which of its entries are which tensors.
        plan: the growth; recipes: its recipes by the name of the tensor on disk.
        shards: as `lay_out` gives them; folder: where they go. What is done is noted beside it, in `PROGRESS`.
        fingerprint: of source, plan and layout. What lies in the folder counts only if it was written under the same.

    Returns:
        SHA-256 of every shard, read back from the file, in hexadecimal.

    Raises:
        GrowthError: a tensor of the source holds NaN or infinity, or tied tensors differ.
        OSError: the disk is full or failing.
    """
    done = _earlier(folder, fingerprint)
    work = _Work(checkpoint.folder, match, plan, folder, recipes, done, fingerprint)
    # Reading back and looking for NaN go on beside the writing; numpy and hashlib let other threads run.
    with ThreadPoolExecutor(max_workers=2) as beside:
        checks = beside.submit(check_values, checkpoint.folder, match.entries.values(), match.aliases)
        hashes: dict[str, Future[str]] = {}
        try:
            for shard in shards:
                _write_shard(work, shard, checks)
                hashes[shard.name] = beside.submit(hash_file, folder / shard.name)
            checks.result()
            return {name: future.result() for name, future in hashes.items()}
        finally:
            for descriptor in work.inputs.values():
                os.close(descriptor)


def check_values(folder: Path, entries: Iterable[Entry], aliases: Iterable[tuple[Entry, Entry]] = ()) -> None:
    """Read tensors in pieces: every number is finite, and tied tensors that are stored twice are equal.

    Raises:
        GrowthError: with the name of the tensor.
    """
    for entry in entries:
        integer, mask = _EXPONENT.get(entry.dtype, (np.uint8, 0))
        for piece in _pieces(folder, entry) if mask else ():
            numbers: Any = np.frombuffer(piece, integer)
            if ((numbers & integer(mask)) == mask).any():
                raise GrowthError(
                    f"{entry.name} holds NaN or infinity; a grown model would inherit it. Use a sound checkpoint."
                )
    for alias, first in aliases:
        same = (alias.dtype, alias.shape) == (first.dtype, first.shape)
        if not same or any(a != b for a, b in zip(_pieces(folder, alias), _pieces(folder, first), strict=True)):
            raise GrowthError(
                f"{alias.name} and {first.name} are one tensor in this architecture, but {folder} holds two that "
                "differ. Growth would lose one of the two; make the config say what the model is (tie_word_embeddings)."
            )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(descriptor: int, entry: Entry, start: int, stop: int) -> Tensor:
    """Rows of a tensor in a file, as a tensor of their own; a scalar is read whole.

    Raises:
        CorruptFileError: the file is shorter than its header says.
    """
    if not entry.shape:
        begin, length, shape = entry.start, entry.stop - entry.start, entry.shape
    else:
        begin, length = entry.start + start * entry.row_bytes, (stop - start) * entry.row_bytes
        shape = (stop - start, *entry.shape[1:])
    buffer = bytearray(length)
    if os.preadv(descriptor, [buffer], begin) != length:
        raise CorruptFileError(f"{entry.file} ended in the middle of {entry.name}; is someone else writing to it?")
    if entry.dtype not in _TORCH:
        raise GrowthError(
            f"{entry.name} is {entry.dtype}, which cannot be widened. Convert the checkpoint to bfloat16."
        )
    return torch.frombuffer(buffer, dtype=_TORCH[entry.dtype]).reshape(shape) if length else torch.empty(shape)


def _earlier(folder: Path, fingerprint: str) -> dict[str, int]:
    """Entries of each shard that an earlier call has made safe."""
    if not (folder.parent / PROGRESS).exists():
        return {}
    record = read_json(folder.parent / PROGRESS)
    return dict(record["done"]) if record.get("fingerprint") == fingerprint else {}


def _write_shard(work: _Work, shard: Shard, checks: "Future[None]") -> None:
    done = work.done.get(shard.name, 0)
    descriptor = os.open(work.folder / shard.name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if done == 0:
            os.ftruncate(descriptor, shard.size)  # a limit on file sizes speaks up now
            _write(descriptor, memoryview(shard.header), 0)
        unsafe = 0
        for number, entry in enumerate(shard.entries[done:], start=done + 1):
            _write_tensor(work, descriptor, entry)
            unsafe += entry.stop - entry.start
            if unsafe >= _SYNC_EVERY:
                if checks.done():
                    checks.result()  # stop early where the source is not sound
                os.fdatasync(descriptor)
                work.note(shard, number)
                unsafe = 0
        if done < len(shard.entries):
            os.fsync(descriptor)
            work.note(shard, len(shard.entries))
    finally:
        os.close(descriptor)


def _write_tensor(work: _Work, descriptor: int, entry: Entry) -> None:
    recipe = work.recipes[entry.name]
    origin = work.match.entries[recipe.source]
    source = work.open_source(origin.file)
    if recipe.is_copy:
        _copy_range(source, origin.start, descriptor, entry.start, entry.stop - entry.start)
        return
    operator, seed = work.plan.operator, work.plan.growth.seed
    if not recipe.axes:
        rows = origin.shape[0] if origin.shape else 1
        _write(descriptor, _bytes_of(recipe.grow(read_rows(source, origin, 0, rows), operator, seed)), entry.start)
        return
    for start, stop in recipe.blocks():
        positions, made = recipe.grow_rows(read_rows(source, origin, start, stop), start, operator, seed)
        _write_rows(descriptor, entry, positions, made)


def _write_rows(descriptor: int, entry: Entry, positions: Tensor, made: Tensor) -> None:
    """Put rows where they belong, neighbours in one write."""
    data = _bytes_of(made)
    breaks = torch.nonzero(positions.diff() != 1).flatten().tolist()
    starts, stops = [0, *(b + 1 for b in breaks)], [*(b + 1 for b in breaks), len(positions)]
    for first, last in zip(starts, stops, strict=True):
        if first < last:
            place = entry.start + int(positions[first]) * entry.row_bytes
            _write(descriptor, data[first * entry.row_bytes : last * entry.row_bytes], place)


def _bytes_of(tensor: Tensor) -> memoryview:
    values: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(values)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _copy_range(source: int, start: int, target: int, offset: int, length: int) -> None:
    """Copy bytes from file to file, inside the kernel where the file system can."""
    while length:
        try:
            copied = os.copy_file_range(source, target, length, start, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            data = os.pread(source, min(length, _PIECE), start)
            _write(target, memoryview(data), offset)
            copied = len(data)
        if copied == 0:
            raise CorruptFileError("The source's weights ended early; is someone else writing to them?")
        start, offset, length = start + copied, offset + copied, length - copied


def _pieces(folder: Path, entry: Entry) -> Iterable[bytes]:
    step = _PIECE - _PIECE % max(1, DTYPES[entry.dtype])
    with open(folder / entry.file, "rb", buffering=0) as file:
        for start in range(entry.start, entry.stop, step):
            yield os.pread(file.fileno(), min(step, entry.stop - start), start)
