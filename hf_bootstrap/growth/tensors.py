"""`StoredTensors`: the tensors of an architecture, read from a checkpoint row by row, wherever their pieces lie."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ..errors import CorruptFileError, GrowthError
from .checkpoint import Checkpoint, Entry
from .hub_layout import Part

__all__ = ["TORCH_DTYPES", "StoredTensors", "read_rows"]

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_rows(descriptor: int, entry: Entry, start: int, stop: int) -> Tensor:
    """Rows of a tensor in a file, as a tensor of their own; a scalar is read whole.

    Raises:
        CorruptFileError: the file is shorter than its header says.
        GrowthError: the dtype is not one that can be computed with.
    """
    if not entry.shape:
        begin, length, shape = entry.start, entry.stop - entry.start, entry.shape
    else:
        begin, length = entry.start + start * entry.row_bytes, (stop - start) * entry.row_bytes
        shape = (stop - start, *entry.shape[1:])
    buffer = bytearray(length)
    if os.preadv(descriptor, [buffer], begin) != length:
        raise CorruptFileError(f"{entry.file} ended in the middle of {entry.name}; is someone else writing to it?")
    if entry.dtype not in TORCH_DTYPES:
        raise GrowthError(
            f"{entry.name} is {entry.dtype}, which cannot be widened. Convert the checkpoint to bfloat16."
        )
    dtype = TORCH_DTYPES[entry.dtype]
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape) if length else torch.empty(shape, dtype=dtype)


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
        shape = self.shapes[name]
        return self.rows(name, 0, shape[0] if shape else 1)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows (entries of the first axis) of a tensor, (stop - start, ...); a scalar is read whole."""
        if (entry := self.whole(name)) is not None:
            return read_rows(self.descriptor(entry.file), entry, start, stop)
        found = torch.empty((stop - start, *self.shapes[name][1:]), dtype=TORCH_DTYPES[self.dtype(name)])
        for part in self.parts[name]:
            first, last = max(start, part.box[0][0]), min(stop, part.box[0][1])
            if first >= last:
                continue
            entry = self.entries[part.stored]
            skipped = 0 if part.drops_first else first - part.box[0][0]
            count = part.rows if part.drops_first else last - first
            begin = part.start + skipped
            rows = read_rows(self.descriptor(entry.file), entry, begin, begin + count)
            place = (slice(first - start, last - start), *(slice(*pair) for pair in part.box[1:]))
            found[place] = rows.unsqueeze(0) if part.drops_first else rows
        return found
