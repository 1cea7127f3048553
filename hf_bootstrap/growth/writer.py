"""Carries a growth out on disk, tensor by tensor, in memory that does not depend on the model.

Unchanged tensors are copied as byte ranges, the others grown in blocks of rows. What is done is noted after it is
safe on disk, so a killed writer goes on where it was. Choosing the folder and showing it when complete is for `stream`.
"""

import errno
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CorruptFileError, GrowthError
from ..store import read_json, write_json
from .checkpoint import DTYPES, Checkpoint, Entry
from .hub_layout import Part
from .job import GrowthJob
from .layout import Shard
from .recipe import Recipe

__all__ = ["PROGRESS", "check_values", "hash_file", "write_shards"]

PROGRESS = "progress.json"

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

    job: GrowthJob
    folder: Path
    done: dict[str, int]
    hot: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def note(self, shard: Shard, entries: int) -> None:
        self.done[shard.name] = entries
        write_json(self.folder.parent / PROGRESS, {"fingerprint": self.job.fingerprint, "done": self.done})

    def block(self, recipe: Recipe, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The grown rows that come from some rows of the source. The last ones are kept: pieces share them."""
        if (recipe.target, start) not in self.hot:
            self.hot.clear()
            rows, plan = self.job.source.rows(recipe.source, start, stop), self.job.plan
            after = None if recipe.after is None else self.job.source.rows(recipe.after, start, stop)
            self.hot[recipe.target, start] = recipe.grow_rows(rows, start, plan.operator, plan.growth.seed, after)
        return self.hot[recipe.target, start]


def write_shards(job: GrowthJob, folder: Path) -> dict[str, str]:
    """Write every shard of a grown checkpoint into a folder, going on where an earlier call was killed.

    The same plan and source give the same bytes, whatever the number of threads and however often it was killed.

    Args:
        job: the growth. What lies in the folder counts only if it was written under the same fingerprint.
        folder: where the shards go. What is done is noted beside it, in `PROGRESS`.

    Returns:
        SHA-256 of every shard, read back from the file, in hexadecimal.

    Raises:
        GrowthError: a tensor of the source holds NaN or infinity, or tied tensors differ.
        OSError: the disk is full or failing.
    """
    work = _Work(job, folder, _earlier(folder, job.fingerprint))
    # Reading back and looking for NaN go on beside the writing; numpy and hashlib let other threads run.
    with ThreadPoolExecutor(max_workers=2) as beside, job.source:
        checks = beside.submit(check_values, job.checkpoint, job.match.entries.values(), job.match.aliases)
        hashes: dict[str, Future[str]] = {}
        for shard in job.shards:
            _write_shard(work, shard, checks)
            hashes[shard.name] = beside.submit(hash_file, folder / shard.name)
        checks.result()
        return {name: future.result() for name, future in hashes.items()}


def check_values(checkpoint: Checkpoint, entries: Iterable[Entry], aliases: Iterable[tuple[Entry, Entry]] = ()) -> None:
    """Read tensors in pieces: every number is finite, and tied tensors that are stored twice are equal.

    Raises:
        GrowthError: with the name of the tensor.
    """
    for entry in entries:
        integer, mask = _EXPONENT.get(entry.dtype, (np.uint8, 0))
        for piece in _pieces(checkpoint, entry) if mask else ():
            numbers: Any = np.frombuffer(piece, integer)
            if ((numbers & integer(mask)) == mask).any():
                raise GrowthError(
                    f"{entry.name} holds NaN or infinity; a grown model would inherit it. Use a sound checkpoint."
                )
    for alias, first in aliases:
        same = (alias.dtype, alias.shape) == (first.dtype, first.shape)
        pairs = zip(_pieces(checkpoint, alias), _pieces(checkpoint, first), strict=True) if same else ()
        if not same or any(a != b for a, b in pairs):
            raise GrowthError(
                f"{alias.name} and {first.name} are one tensor in this architecture, but {checkpoint.folder} holds two "
                "that differ. Growth would lose one of the two; make the config say what the model is "
                "(tie_word_embeddings)."
            )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    for part in work.job.target.stored[entry.name]:
        _write_part(work, descriptor, entry, part)


def _write_part(work: _Work, descriptor: int, entry: Entry, part: Part) -> None:
    recipe, source = work.job.recipes[part.tensor], work.job.source
    place = entry.start + part.start * entry.row_bytes
    if recipe.is_copy and (found := source.piece(recipe.source, part)) is not None:
        origin, row = found
        begin, length = origin.start + row * origin.row_bytes, part.rows * entry.row_bytes
        _copy_range(source.descriptor(origin.file), begin, descriptor, place, length)
    elif not entry.shape:
        plan = work.job.plan
        grown = recipe.grow(source.tensor(recipe.source), plan.operator, plan.growth.seed)
        _write(descriptor, _bytes_of(grown), place)
    else:
        for start, stop in _blocks(recipe, part):
            _write_rows(descriptor, entry, part, *work.block(recipe, start, stop))


def _blocks(recipe: Recipe, part: Part) -> list[tuple[int, int]]:
    """Those blocks of a recipe that make rows of a part."""
    first, last = part.box[0]
    if (index := recipe.index(0)) is not None:
        first, last = int(index[first:last].min()), int(index[first:last].max()) + 1
    return [(start, stop) for start, stop in recipe.blocks() if start < last and stop > first]


def _write_rows(descriptor: int, entry: Entry, part: Part, positions: Tensor, made: Tensor) -> None:
    """Put grown rows where they belong, neighbours in one write."""
    inside = (positions >= part.box[0][0]) & (positions < part.box[0][1])
    if not bool(inside.all()):
        positions, made = positions[inside], made[inside]
    made = made[(slice(None), *(slice(*pair) for pair in part.box[1:]))]
    place = entry.start + part.start * entry.row_bytes
    data = _bytes_of(made)
    if part.drops_first:
        _write(descriptor, data, place)
        return
    breaks = torch.nonzero(positions.diff() != 1).flatten().tolist()
    starts, stops = [0, *(b + 1 for b in breaks)], [*(b + 1 for b in breaks), len(positions)]
    for first, last in zip(starts, stops, strict=True):
        if first < last:
            row = int(positions[first]) - part.box[0][0]
            _write(descriptor, data[first * entry.row_bytes : last * entry.row_bytes], place + row * entry.row_bytes)


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


def _pieces(checkpoint: Checkpoint, entry: Entry) -> Iterable[bytes]:
    step = _PIECE - _PIECE % max(1, DTYPES[entry.dtype])
    with open(checkpoint.path(entry.file), "rb", buffering=0) as file:
        for start in range(entry.start, entry.stop, step):
            yield os.pread(file.fileno(), min(step, entry.stop - start), start)
