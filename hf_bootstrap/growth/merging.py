"""`merge_adapter`: a LoRA adapter added into its base on disk, some rows at a time; growing both is for `adapters`."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import GrowthError, StoreError, UnsupportedModelError
from ..sealing import canonical_json
from ..store import read_json, sync_folder, write_json
from .architecture import build_meta, find_ties, named_tensors
from .carried import files_below
from .checkpoint import Checkpoint, Entry, open_checkpoint, real_file
from .job import MERGE_FILE
from .layout_cache import known_layout
from .lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LoraAdapter, open_adapter
from .source import check_depth, open_config
from .tensors import read_box
from .writer import hash_file

__all__ = ["merge_adapter"]

_BYTES = 2**24  # of a weight, changed at once


def merge_adapter(
    base: str | os.PathLike[str], adapter: str | os.PathLike[str], target: str | os.PathLike[str]
) -> list[str]:
    """Write a copy of a checkpoint with an adapter added to its weights: W + s B A, computed in float64, rounded once.

    Args:
        base: the checkpoint's folder; adapter: the adapter's, as PEFT writes it. Both are only read.
        target: a folder that does not exist, or one that an earlier call with the same arguments wrote.

    Returns:
        The names of the tensors that changed.

    Raises:
        UnsupportedModelError: an adapter that cannot be merged here: of another type, of a tied table, or of a tensor
            that is stored in pieces.
        GrowthError: it is no adapter of this base, or the target exists.
        StoreError: a file is missing or cannot be written; nothing is left behind.
    """
    base, target = Path(base), Path(os.path.abspath(target))
    found = open_adapter(adapter)
    checkpoint = open_checkpoint(base)
    check_depth(checkpoint)
    fingerprint = _fingerprint(checkpoint, Path(adapter))
    if os.path.lexists(target):
        return _merged_before(target, fingerprint)
    places = _places(base, found, checkpoint.entries)
    work = target.parent / f".{target.name[:100]}.merging"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for item in sorted(base.iterdir()):
            if item.is_file() and not item.name.startswith("."):
                shutil.copyfile(real_file(item), work / item.name)
        for name in files_below(base)[0]:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real_file(base / name), work / name)
        for module, entry in places.items():
            _add(work / entry.file, entry, _delta(found, module))
        changed = [entry.name for entry in places.values()]
        write_json(work / MERGE_FILE, {"schema": 1, "kind": "merge", "fingerprint": fingerprint, "changed": changed})
        for item in work.rglob("*"):
            if item.is_file():
                with open(item, "rb") as file:
                    os.fsync(file.fileno())
        os.rename(work, target)
        sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{target} could not be written: {error}. Nothing is left behind.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return changed


def _fingerprint(checkpoint: Checkpoint, adapter: Path) -> str:
    """SHA-256 of what decides the merged weights: the base's files by size and time, the adapter's by content."""
    stats = [(name, os.stat(checkpoint.path(name))) for name in (*checkpoint.files, "config.json")]
    facts = {
        "base": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "adapter": [hash_file(real_file(adapter / name)) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)],
    }
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def _merged_before(target: Path, fingerprint: str) -> list[str]:
    """The names that changed in a target that an earlier call with the same arguments has written."""
    if (target / MERGE_FILE).is_file():
        record = read_json(target / MERGE_FILE)
        if record.get("fingerprint") == fingerprint and isinstance(record.get("changed"), list):
            return [str(name) for name in record["changed"]]
    raise GrowthError(
        f"{target} exists, and is not this adapter merged into this base. Remove it, or choose another target for the "
        "merged checkpoint."
    )


def _places(base: Path, adapter: LoraAdapter, stored: Mapping[str, Entry]) -> dict[str, Entry]:
    """The stored weight of every adapted module."""
    model = build_meta(open_config(base))
    layout, ties, tensors = known_layout(model), find_ties(model), named_tensors(model)
    prefix = model.base_model_prefix
    places = {}
    for module in adapter.matrices:
        name = f"{module}.weight"
        if name in ties or name in ties.values():
            raise UnsupportedModelError(
                f"The adapter adapts {module}, whose weight is shared with another module: adding to it would change "
                "both. Grow base and adapter apart (grow_adapter)."
            )
        if name not in tensors:
            raise GrowthError(f"The adapter adapts {module}, which the base lacks. Is it an adapter of this base?")
        parts = layout.parts[name]
        spellings = (parts[0].stored, parts[0].stored.removeprefix(f"{prefix}."), f"{prefix}.{parts[0].stored}")
        entry = next((stored[s] for s in spellings if s in stored), None)
        if len(parts) > 1 or entry is None or entry.shape != tuple(tensors[name].shape):
            raise UnsupportedModelError(
                f"{name} is stored in pieces or under another name, so it cannot be merged on disk. Merge it with PEFT "
                "(merge_and_unload) and save_pretrained."
            )
        places[module] = entry
    return places


def _delta(adapter: LoraAdapter, module: str) -> Tensor:
    """What is added to the weight of a module, as it is stored; float64."""
    pair = adapter.matrices[module]
    is_table = "lora_embedding_A" in pair
    kind = "lora_embedding_" if is_table else "lora_"
    first, second = pair[f"{kind}A"], pair[f"{kind}B"]
    delta = adapter.scaling(module) * (second.double() @ first.double())
    return delta.T if is_table or adapter.settings.get("fan_in_fan_out") else delta


def _add(path: Path, entry: Entry, delta: Tensor) -> None:
    if tuple(delta.shape) != entry.shape:
        raise GrowthError(
            f"The adapter's product for {entry.name} is {list(delta.shape)}, and the weight {list(entry.shape)}. Is it "
            "an adapter of this base?"
        )
    step = max(1, _BYTES // entry.row_bytes)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        for start in range(0, entry.shape[0], step):
            stop = min(start + step, entry.shape[0])
            rows = read_box(descriptor, entry, ((start, stop),))
            merged = (rows.double() + delta[start:stop]).to(rows.dtype)
            data = memoryview(merged.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            position = entry.start + start * entry.row_bytes
            while data:
                written = os.pwrite(descriptor, data, position)
                data, position = data[written:], position + written
    finally:
        os.close(descriptor)
