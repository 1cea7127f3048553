"""A checkpoint folder as it lies on disk: safetensors headers and byte ranges, read without trust and without weights.

Every name, offset and shape is checked before it is used; nothing outside the folder is opened and no code in it
is run. What the tensors mean to an architecture is settled by `match_tensors`; writing is for `writer`.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, GrowthError, StoreError, UnsupportedModelError

__all__ = ["DTYPES", "Checkpoint", "Entry", "Match", "match_tensors", "open_checkpoint", "read_header", "real_file"]

# Bytes of one entry, by the names safetensors gives to dtypes. Types of less than a byte hold quantised weights.
DTYPES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip

# The limit of the format itself (safetensors, MAX_HEADER_SIZE).
_LARGEST_HEADER = 100_000_000
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor in a file.

    Attributes:
        name: in the file.
        dtype: as safetensors spells it, such as "BF16".
        shape: of the tensor, row-major.
        file: name of the file in its folder.
        start, stop: where its bytes are, counted from the beginning of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of the first axis."""
        return DTYPES[self.dtype] * math.prod(self.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of a folder: `entries` by name, and the `files` they are in, sorted."""

    folder: Path
    entries: Mapping[str, Entry]
    files: tuple[str, ...]

    def path(self, file: str) -> Path:
        """Where a file of the folder lies, see `real_file`."""
        return real_file(self.folder / file)


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which entry of a checkpoint is which tensor of an architecture.

    Attributes:
        entries: by tensor name, tied tensors once.
        aliases: (entry, the tensor it must equal) for tied tensors that are stored twice.
        left_out: entries the architecture knows and ignores, such as rotary frequencies in old files.
    """

    entries: Mapping[str, Entry]
    aliases: tuple[tuple[Entry, Entry], ...] = ()
    left_out: tuple[str, ...] = ()


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Read the headers of a checkpoint's weight files.

    Raises:
        StoreError: the folder or a file in it cannot be read.
        CorruptFileError: a header, index or file that is not what safetensors allows, or that points elsewhere.
        UnsupportedModelError: the weights are pickled.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder. Give a local checkpoint, or a name on the Hub such as org/model.")
    single, index = (folder / name for name in (_SINGLE, _INDEX))
    if os.path.lexists(single) and os.path.lexists(index):
        raise GrowthError(f"{folder} holds both {_SINGLE} and {_INDEX}; which are the weights? Remove one of them.")
    if os.path.lexists(index):
        return _open_sharded(folder, index)
    if not os.path.lexists(single):
        raise _no_weights(folder)
    entries = read_header(single)
    return Checkpoint(folder=folder, entries=entries, files=(_SINGLE,))


def read_header(path: Path) -> dict[str, Entry]:
    """Read the header of one safetensors file and hold it against the file's size.

    Raises:
        StoreError: the file cannot be read.
        CorruptFileError: no regular file, cut short, or a header that breaks the format; nothing else was read.
    """
    try:
        with open(real_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_LARGEST_HEADER, size - 8):
                raise CorruptFileError(
                    f"{path} has {size:,} bytes and states a header of {length:,}: it is cut short or no safetensors "
                    "file. Fetch it again."
                )
            text = file.read(length)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from error
    record = _parse(path, text)
    record.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, 8 + length) for name, value in record.items()}
    position = 8 + length
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != position:
            raise CorruptFileError(
                f"{path}: the bytes of {entry.name} begin at {entry.start:,}, where {position:,} was due. Tensors in a "
                "safetensors file neither overlap nor leave gaps. Fetch it again."
            )
        position = entry.stop
    if position != size:
        raise CorruptFileError(
            f"{path} has {size:,} bytes, but its tensors end at {position:,}: it is cut short, or longer than it says. "
            "Fetch it again."
        )
    return entries


def match_tensors(
    checkpoint: Checkpoint,
    shapes: Mapping[str, tuple[int, ...]],
    ties: Mapping[str, str],
    *,
    prefix: str = "",
    ignored: Iterable[str] = (),
) -> Match:
    """Say which entry is which tensor; every tensor must be there, and every entry must be one.

    Args:
        checkpoint: what is on disk.
        shapes: of the architecture's tensors, by name, tied ones once.
        ties: tensors that are another tensor, as `find_ties` gives them.
        prefix: of the base model, which older files leave out or add ("transformer").
        ignored: patterns of names the architecture ignores.

    Raises:
        GrowthError: tensors missing, unknown, given twice or of another shape; the message names them.
    """
    entries: dict[str, Entry] = {}
    tied: dict[str, list[Entry]] = {}
    unknown: list[str] = []
    left_out: list[str] = []
    for entry in checkpoint.entries.values():
        spellings = (entry.name, f"{prefix}.{entry.name}", entry.name.removeprefix(f"{prefix}."))
        name = next((n for n in spellings if n in shapes or n in ties), None)
        if name is None:
            known = any(re.search(pattern, entry.name) for pattern in ignored)
            (left_out if known else unknown).append(entry.name)
        elif name in ties:
            tied.setdefault(ties[name], []).append(entry)
        elif name in entries:
            raise GrowthError(f"{checkpoint.folder} holds {name} twice: as {entries[name].name} and as {entry.name}.")
        else:
            entries[name] = entry
    for name, copies in tied.items():
        entries.setdefault(name, copies[0])
    _refuse(checkpoint, "lacks tensors the architecture has", sorted(set(shapes) - set(entries)))
    _refuse(checkpoint, "holds tensors the architecture does not know", sorted(unknown))
    _refuse(
        checkpoint,
        "holds tensors of another shape than its config says",
        [f"{n} {list(e.shape)}, not {list(shapes[n])}" for n, e in sorted(entries.items()) if e.shape != shapes[n]],
    )
    aliases = tuple((copy, entries[name]) for name, copies in tied.items() for copy in copies if copy != entries[name])
    return Match(entries=entries, aliases=aliases, left_out=tuple(sorted(left_out)))


def _refuse(checkpoint: Checkpoint, what: str, found: list[str]) -> None:
    if found:
        raise GrowthError(
            f"The checkpoint {os.fspath(checkpoint.folder)!r} {what}: {', '.join(found[:5])}"
            f"{' ...' if len(found) > 5 else ''} ({len(found)} in all). It is damaged, or of another architecture than "
            "its config says."
        )


def _open_sharded(folder: Path, index: Path) -> Checkpoint:
    try:
        record = _parse(index, real_file(index).read_bytes())
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{index} cannot be read: {error.strerror}. Check its permissions.") from error
    places = record.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CorruptFileError(f"{index} has no weight_map from tensor to file. Fetch it again.")
    files = sorted(set(places.values()))
    for file in files:
        # A file name and nothing more: transformers would follow "../../x" and absolute paths.
        if file != os.path.basename(file) or file in ("", ".", "..") or not file.endswith(".safetensors"):
            raise CorruptFileError(
                f"{index} points to {file[:80]!r}, which is not the name of a safetensors file in the same folder. Do "
                "not trust this checkpoint."
            )
    entries: dict[str, Entry] = {}
    for file in files:
        for name, entry in read_header(folder / file).items():
            if places.get(name) != file:
                where = repr(places[name]) if name in places else "nowhere"
                raise CorruptFileError(f"{name} is in {file!r}, but {index} says {where}. Fetch the checkpoint again.")
            entries[name] = entry
    if missing := sorted(set(places) - set(entries)):
        raise CorruptFileError(
            f"{index} puts {missing[0]} in {places[missing[0]]!r}, which does not hold it. Fetch both anew."
        )
    return Checkpoint(folder=folder, entries=entries, files=tuple(files))


def real_file(path: Path) -> Path:
    """The regular file under a path: itself, or in a snapshot of the Hub's cache the blob of the same repository.

    The Hub's cache keeps ``models--NAME/snapshots/COMMIT/FILE`` as a link into ``models--NAME/blobs``. Any other link,
    and pipes, devices and folders, are refused.

    Raises:
        StoreError: there is nothing.
        CorruptFileError: it is something else.
    """
    path = Path(os.path.abspath(path))
    try:
        mode = os.lstat(path).st_mode
        snapshots = next((folder for folder in path.parents[1:] if folder.name == "snapshots"), None)
        if stat.S_ISLNK(mode) and snapshots is not None:
            blob = Path(os.path.realpath(path, strict=True))
            if blob.parent == Path(os.path.realpath(snapshots.parent)) / "blobs":
                path, mode = blob, os.lstat(blob).st_mode
    except (OSError, ValueError) as error:
        raise StoreError(f"{str(path)!r} cannot be read: {error}. Is the checkpoint complete?") from error
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "no regular file"
        raise CorruptFileError(
            f"{path} is {what}; what is read from a checkpoint must be a file of its own folder (or lie in the Hub's "
            "cache of the same repository). Copy the file there."
        )
    return path


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """One JSON object, no name twice."""
    try:
        record = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} has no readable header: {str(error)[:200]}. Fetch it again.") from error
    if not isinstance(record, dict):
        raise CorruptFileError(f"{path} has a header that is no JSON object. Fetch it again.")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is given twice")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _entry(path: Path, name: str, value: Any, begin: int) -> Entry:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or not isinstance(dtype, str):
        raise CorruptFileError(
            f"{path}: the header of {name[:80]!r} has no dtype, shape and two offsets. Fetch it anew."
        )
    if dtype not in DTYPES:
        raise UnsupportedModelError(
            f"{path}: {name[:80]!r} has dtype {dtype[:20]!r}, which is not a plain number type (quantised weights?). "
            "Growth needs the original weights."
        )
    start, stop = offsets
    if stop - start != DTYPES[dtype] * math.prod(shape):
        raise CorruptFileError(
            f"{path}: {name[:80]!r} is {dtype} {list(shape)}, but {stop - start:,} bytes are set aside for it. "
            "Fetch it again."
        )
    return Entry(name=name, dtype=dtype, shape=shape, file=path.name, start=begin + start, stop=begin + stop)


def _counts(values: Any) -> tuple[int, ...] | None:
    # Python's whole numbers have no end; a product of a few numbers below 2^63 is still quick to compare.
    short = isinstance(values, list) and len(values) <= 16
    return tuple(values) if short and all(type(value) is int and 0 <= value < 2**63 for value in values) else None


def _no_weights(folder: Path) -> GrowthError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if not pickles:
        return GrowthError(f"{folder} holds no {_SINGLE} and no {_INDEX}, so there are no weights to grow.")
    return UnsupportedModelError(
        f"{folder} holds pickled weights ({pickles[0]}), which can run code when they are read. allow_pickle=True "
        "(--allow-pickle) reads them with torch's weights_only guard, which makes tensors and nothing else."
    )
