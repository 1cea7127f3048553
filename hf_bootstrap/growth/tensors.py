"""`StoredTensors`: the tensors of an architecture, read from a checkpoint box by box, wherever their pieces lie."""

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ..errors import CorruptFileError, GrowthError
from .checkpoint import DTYPES, Checkpoint, Entry
from .hub_layout import Box, Part

__all__ = ["TORCH_DTYPES", "StoredTensors", "read_box"]

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_box(descriptor: int, entry: Entry, box: Box) -> Tensor:
    """A box of a tensor in a file, as a tensor of its own.

    Args:
        descriptor: of the file.
        entry: the tensor.
        box: (start, stop) on its leading axes; the others are read whole.

    Raises:
        CorruptFileError: the file is shorter than its header says.
        GrowthError: the dtype is not one that can be computed with.
    """
    if entry.dtype not in TORCH_DTYPES:
        raise GrowthError(
            f"{entry.name} is {entry.dtype}, which cannot be widened. Convert the checkpoint to bfloat16."
        )
    shape = (*(stop - start for start, stop in box), *entry.shape[len(box) :])
    dtype, width = TORCH_DTYPES[entry.dtype], DTYPES[entry.dtype]
    buffer = bytearray(width * math.prod(shape))
    if not buffer:
        return torch.empty(shape, dtype=dtype)
    # From the last axis that is cut on, everything lies in one run of bytes.
    cut = max((axis for axis, length in enumerate(shape) if length != entry.shape[axis]), default=0)
    steps = [width * math.prod(entry.shape[axis + 1 :]) for axis in range(len(shape))]
    begin = entry.start + sum(start * step for (start, _), step in zip(box, steps, strict=False))
    run = width * math.prod(shape[cut:])
    places = itertools.product(*(range(0, shape[axis] * steps[axis], steps[axis]) for axis in range(cut)))
    for number, offsets in enumerate(places):
        piece = memoryview(buffer)[number * run : (number + 1) * run]
        if not _read(descriptor, piece, begin + sum(offsets)):
            raise CorruptFileError(f"{entry.file} ended in the middle of {entry.name}; is someone else writing to it?")
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)


def _read(descriptor: int, piece: memoryview, begin: int) -> bool:
    """Fill a piece of memory from a file, of which one call gives 2 GiB at most; whether there was enough."""
    while piece:
        count = os.preadv(descriptor, [piece], begin)
        if count == 0:
            return False
        piece, begin = piece[count:], begin + count
    return True


@dataclass
class StoredTensors:
    """A checkpoint's tensors by the names they have in memory. A context manager: it keeps files open.

    Attributes:
        checkpoint: what is on disk.
        parts: of every tensor, as `hub_layout` gives them.
        entries: by the name on disk that a part states.
        shapes: of every tensor in memory.
    """

    checkpoint: Checkpoint
    parts: Mapping[str, tuple[Part, ...]]
    entries: Mapping[str, Entry]
    shapes: Mapping[str, tuple[int, ...]]
    files: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Files are opened when they are first read."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every file."""
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()

    def descriptor(self, file: str) -> int:
        """Of a file of the checkpoint, open for reading."""
        if file not in self.files:
            self.files[file] = os.open(self.checkpoint.path(file), os.O_RDONLY | os.O_NOFOLLOW)
        return self.files[file]

    def dtype(self, name: str) -> str:
        """As safetensors spells it.

        Raises:
            GrowthError: the pieces of one tensor have different dtypes.
        """
        found = {self.entries[part.stored].dtype for part in self.parts[name]}
        if len(found) > 1:
            raise GrowthError(
                f"{name} is stored in pieces of different dtypes ({', '.join(sorted(found))}). Convert the checkpoint "
                "to one dtype first."
            )
        return found.pop()

    def whole(self, name: str) -> Entry | None:
        """The one entry that holds a tensor and nothing else; None where it is stored in pieces or in another."""
        (first, *more) = self.parts[name]
        entry = self.entries[first.stored]
        return entry if not more and first.shape == self.shapes[name] == entry.shape else None

    def piece(self, name: str, part: Part) -> tuple[Entry, int] | None:
        """The entry that holds a box of a tensor, and the row where it begins; None where none holds just that."""
        for own in self.parts[name]:
            if (own.box, own.drops_first) == (part.box, part.drops_first):
                return self.entries[own.stored], own.start
        return None

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.box(name, ())

    def box(self, name: str, box: Box) -> Tensor:
        """A box of a tensor: (start, stop) on its leading axes; the others are read whole."""
        if (entry := self.whole(name)) is not None:
            return read_box(self.descriptor(entry.file), entry, box)
        box = (*box, *((0, length) for length in self.shapes[name][len(box) :]))
        found = torch.empty([stop - start for start, stop in box], dtype=TORCH_DTYPES[self.dtype(name)])
        for part in self.parts[name]:
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, part.box, strict=True)]
            if any(first >= last for first, last in common):
                continue
            entry = self.entries[part.stored]
            inside = [(a - c, b - c) for (a, b), (c, _) in zip(common, part.box, strict=True)][part.drops_first :]
            if inside:
                inside[0] = (part.start + inside[0][0], part.start + inside[0][1])
            values = read_box(self.descriptor(entry.file), entry, tuple(inside))
            place = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(common, box, strict=True))
            found[place] = values.unsqueeze(0) if part.drops_first else values
        return found
