"""Pickled weights as byte ranges: torch's guarded reader says where each tensor lies, and no weights are loaded."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptFileError, StoreError, UnsupportedModelError
from .checkpoint import Checkpoint, Entry, open_checkpoint, real_file
from .layout import INDEX_NAME
from .tensors import TORCH_DTYPES

__all__ = ["open_pickled", "open_weights"]

_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def open_weights(folder: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """The weights of a folder: safetensors where there are any; pickles only where they are allowed.

    Raises:
        StoreError, GrowthError: as `open_checkpoint` and `open_pickled`.
    """
    has_tensors = any(os.path.lexists(folder / name) for name in ("model.safetensors", INDEX_NAME))
    return open_pickled(folder) if allow_pickle and folder.is_dir() and not has_tensors else open_checkpoint(folder)


def open_pickled(folder: str | Path) -> Checkpoint:
    """Find the tensors of `pytorch_model.bin`, or of the files its index names.

    The pickle is read with torch's `weights_only` guard, which makes tensors and plain containers and refuses
    everything else, and without the tensors' bytes.

    Raises:
        StoreError: there is no such file.
        CorruptFileError: a pickle that holds more than tensors, or an index that points elsewhere.
        UnsupportedModelError: a tensor is no plain range of bytes.
    """
    folder = Path(folder)
    entries: dict[str, Entry] = {}
    files = _files(folder)
    for file in files:
        for name, entry in _entries(folder / file).items():
            if name in entries:
                raise CorruptFileError(f"{name} is in {entries[name].file} and in {file}. Fetch the checkpoint again.")
            entries[name] = entry
    return Checkpoint(folder=folder, entries=entries, files=tuple(files))


def _files(folder: Path) -> list[str]:
    if os.path.lexists(folder / _SINGLE):
        return [_SINGLE]
    index = folder / _INDEX
    try:
        places = json.loads(real_file(index).read_bytes())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{index} has no weight_map from tensor to file. Fetch it again.") from error
    for file in files:
        if not isinstance(file, str) or file != os.path.basename(file) or not file.endswith(".bin"):
            raise CorruptFileError(
                f"{index} points to {str(file)[:80]!r}, which is no .bin file in the same folder. Fetch it anew."
            )
    return files


def _entries(path: Path) -> dict[str, Entry]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    real = real_file(path)
    size = real.stat().st_size
    try:
        with FakeTensorMode():
            record: Any = torch.load(real, weights_only=True)
    except Exception as error:  # what is not a pickle of tensors fails in many ways
        raise CorruptFileError(
            f"{path} is not a file of tensors that torch's weights_only guard lets through "
            f"({' '.join(str(error).split())[:200]}). Do not trust it."
        ) from error
    if not isinstance(record, dict) or not all(isinstance(value, torch.Tensor) for value in record.values()):
        raise CorruptFileError(f"{path} holds other things than named tensors; it is no state dict.")
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    found = {}
    for name, tensor in record.items():
        offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if offset is None or not tensor.is_contiguous() or tensor.dtype not in names:
            raise UnsupportedModelError(
                f"{path}: {name} ({tensor.dtype}, strides {tuple(tensor.stride())}) is no plain range of bytes in this "
                "file. Load the model and save it as safetensors."
            )
        start = offset + tensor.storage_offset() * tensor.element_size()
        stop = start + tensor.numel() * tensor.element_size()
        if stop > size:
            raise CorruptFileError(f"{path} has {size:,} bytes, but {name} ends at {stop:,}: it is cut short.")
        found[str(name)] = Entry(
            name=str(name), dtype=names[tensor.dtype], shape=tuple(tensor.shape), file=path.name, start=start, stop=stop
        )
    if not found:
        raise StoreError(f"{path} holds no tensors. Name a checkpoint with weights.")
    return found
