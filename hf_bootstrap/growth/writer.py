"""Carries a growth out on disk, tensor by tensor, in memory that does not depend on the model.

Unchanged tensors are copied as byte ranges, the others grown in blocks. What is done is noted after it is
safe on disk, so a killed writer goes on where it was. Choosing the folder and showing it when complete is for `stream`.
"""

import errno
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable
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
from .hub_layout import Box, Part
from .job import GrowthJob
from .layout import Shard
from .recipe import Recipe

__all__ = ["PROGRESS", "check_values", "equal_bytes", "hash_file", "write_shards"]

PROGRESS = "progress.json"

# The exponent's bits; all of them set is NaN or infinity. (Types of one byte without infinity: the bits of NaN.)
_EXPONENT = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000), "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C), "F8_E4M3": (np.uint8, 0x7F), "F8_E8M0": (np.uint8, 0xFF),
}  # fmt: skip

_PIECE = 2**23  # bytes read at once
_HASHED = 2**18  # bytes hashed at once: they stay in the processor's cache
_SYNC_EVERY = 2**28  # bytes after which what was written is made safe and noted


class _Digest:
    """SHA-256 of a file that is still being written, read back from it piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path, self.position, self.sha256 = path, 0, hashlib.sha256()

    def read(self, stop: int) -> None:
        """Go on to byte `stop`; what lies before it is not written to any more."""
        buffer = memoryview(bytearray(_HASHED))
        with open(self.path, "rb", buffering=0) as file:
            while self.position < stop:
                count = os.preadv(file.fileno(), [buffer[: min(_HASHED, stop - self.position)]], self.position)
                if count == 0:
                    raise CorruptFileError(f"{self.path} is shorter than what was written to it. Is the disk failing?")
                self.sha256.update(buffer[:count])
                self.position += count

    def finish(self, stop: int) -> str:
        """The whole file's, in hexadecimal."""
        self.read(stop)
        return self.sha256.hexdigest()


@dataclass
class _Work:
    """What the writing of one growth shares: what is done, the last block, and the thread that hashes behind it."""

    job: GrowthJob
    folder: Path
    done: dict[str, int]
    hashing: ThreadPoolExecutor
    on_progress: Callable[[int, int], None] | None
    behind: int = 0  # bytes of the shards before this one
    hot: dict[tuple[str, Box], tuple[list[Tensor], Tensor]] = field(default_factory=dict)

    def make_safe(self, descriptor: int, shard: Shard, entries: int) -> None:
        """Sync what was written to a shard, and note that so many of its entries are on the disk."""
        os.fdatasync(descriptor)
        self.done[shard.name] = entries
        write_json(self.folder.parent / PROGRESS, {"fingerprint": self.job.fingerprint, "done": self.done})

    def block(self, recipe: Recipe, block: Box) -> tuple[list[Tensor], Tensor]:
        """What comes from a block of the source, see `Recipe.grow_block`. The last one is kept: pieces share it."""
        if (recipe.target, block) not in self.hot:
            self.hot.clear()
            part, plan = self.job.source.box(recipe.source, block), self.job.plan
            after = None if recipe.after is None else self.job.source.box(recipe.after, block)
            self.hot[recipe.target, block] = recipe.grow_block(part, block, plan.operator, plan.growth.seed, after)
        return self.hot[recipe.target, block]


def write_shards(job: GrowthJob, folder: Path, on_progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
    """Write every shard of a grown checkpoint into a folder, going on where an earlier call was killed.

    The same plan and source give the same bytes, whatever the number of threads and however often it was killed.

    Args:
        job: the growth. What lies in the folder counts only if it was written under the same fingerprint.
        folder: where the shards go. What is done is noted beside it, in `PROGRESS`.
        on_progress: told after each tensor how many bytes are written, those of an earlier call included, and of how
            many.

    Returns:
        SHA-256 of every shard, read back from the file, in hexadecimal.

    Raises:
        GrowthError: a tensor of the source holds NaN or infinity, or tied tensors differ.
        OSError: the disk is full or failing.
    """
    # Looking for NaN and reading back go on beside the writing, each in a thread of its own; numpy and hashlib let
    # other threads run.
    one = functools.partial(ThreadPoolExecutor, max_workers=1)
    with one() as beside, one() as hashing, job.source:
        work = _Work(job, folder, _earlier(folder, job.fingerprint), hashing, on_progress)
        checks = beside.submit(check_values, job.checkpoint, job.match.entries.values(), job.match.aliases)
        hashes = {shard.name: _write_shard(work, shard, checks) for shard in job.shards}
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
        if not equal_bytes(checkpoint, alias, checkpoint, first):
            raise GrowthError(
                f"{alias.name} and {first.name} are one tensor in this architecture, but {checkpoint.folder} holds two "
                "that differ. Growth would lose one of the two; make the config say what the model is "
                "(tie_word_embeddings)."
            )


def equal_bytes(checkpoint: Checkpoint, entry: Entry, other: Checkpoint, another: Entry) -> bool:
    """Whether two tensors on disk have the same dtype, shape and bytes."""
    if (entry.dtype, entry.shape) != (another.dtype, another.shape):
        return False
    pairs = zip(_pieces(checkpoint, entry), _pieces(other, another), strict=True)
    return all(a == b for a, b in pairs)


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


def _write_shard(work: _Work, shard: Shard, checks: "Future[None]") -> "Future[str]":
    """Write what an earlier call has not; the file's SHA-256 follows."""
    done, digest = work.done.get(shard.name, 0), _Digest(work.folder / shard.name)
    descriptor = os.open(digest.path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if done == 0:
            os.ftruncate(descriptor, shard.size)  # a limit on file sizes speaks up now
            _write(descriptor, memoryview(shard.header), 0)
        unsafe = 0
        for number, entry in enumerate(shard.entries[done:], start=done + 1):
            _write_tensor(work, descriptor, entry)
            if work.on_progress:
                work.on_progress(work.behind + entry.stop, work.job.size)
            unsafe += entry.stop - entry.start
            if unsafe >= _SYNC_EVERY or number == len(shard.entries):
                if checks.done():
                    checks.result()  # stop early where the source is not sound
                work.hashing.submit(digest.read, entry.stop)
                work.make_safe(descriptor, shard, number)
                unsafe = 0
    finally:
        os.close(descriptor)
    work.behind += shard.size
    return work.hashing.submit(digest.finish, shard.size)


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
        for block in recipe.blocks(part.box):
            _write_block(descriptor, entry, part, *work.block(recipe, block))


def _write_block(descriptor: int, entry: Entry, part: Part, positions: list[Tensor], made: Tensor) -> None:
    """Put what a block made where it belongs, as far as it belongs to a part; neighbours in one write."""
    places = []
    for axis, (units, (first, last)) in enumerate(zip(positions, part.box, strict=True)):
        inside = (units >= first) & (units < last)
        if not bool(inside.all()):
            made, units = made.index_select(axis, torch.nonzero(inside).flatten()), units[inside]
        places.append(units - first)
    if not made.numel():
        return
    places = places[part.drops_first :]
    places[0] = places[0] + part.start
    # From the last axis on that is not written whole, neighbours lie next to each other.
    cut = max((axis for axis, units in enumerate(places) if len(units) != entry.shape[axis]), default=0)
    steps = [DTYPES[entry.dtype] * math.prod(entry.shape[axis + 1 :]) for axis in range(cut + 1)]
    data, width, runs = _bytes_of(made), steps[cut], _runs(places[cut])
    for number, outer in enumerate(itertools.product(*(units.tolist() for units in places[:cut]))):
        place = entry.start + sum(unit * step for unit, step in zip(outer, steps, strict=False))
        begin = number * len(places[cut]) * width
        for first, last, unit in runs:
            _write(descriptor, data[begin + first * width : begin + last * width], place + unit * width)


def _runs(units: Tensor) -> list[tuple[int, int, int]]:
    """The runs of neighbours in ascending numbers: (first, behind the last, number of the first) of each."""
    breaks = [int(b) + 1 for b in torch.nonzero(units.diff() != 1).flatten()]
    return [(a, b, int(units[a])) for a, b in itertools.pairwise([0, *breaks, len(units)])]


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
