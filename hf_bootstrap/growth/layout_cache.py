"""`known_layout`: a layout on disk that is worked out once for each version of transformers, and kept in a folder.

Working one out takes a millisecond for most types and seconds for hundreds of experts; only layouts that take a
conversion are kept. An entry belongs to a version of transformers, a class, its config and its tensors; one that cannot
be read, or is not what was written, is made again.
"""

import contextlib
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import StoreError
from ..store import write_atomic
from . import hub_layout as worked_out
from .architecture import find_ties, named_tensors
from .hub_layout import HubLayout, Part, hub_layout, layout_of

__all__ = ["cache_folder", "known_layout"]

# Says nothing about where a tensor lies, and differs between checkpoints of one architecture.
_IDLE = ("_name_or_path", "transformers_version", "hf_bootstrap", "dtype", "architectures")


def known_layout(model: PreTrainedModel) -> HubLayout:
    """As `hub_layout`, from the cache where it holds the answer.

    Args:
        model: may be on the meta device.

    Raises:
        UnsupportedModelError: as `hub_layout`.
    """
    file = cache_folder() / f"transformers-{version('transformers')}" / f"{_key(model)}.json"
    if (layout := _read(file)) is not None:
        return layout
    layout = hub_layout(model)
    as_in_memory = all(len(parts) == 1 and parts[0].stored == name for name, parts in layout.parts.items())
    if not as_in_memory and type(model).__module__.startswith("transformers."):  # code of a checkpoint has no version
        with contextlib.suppress(StoreError):  # a cache that cannot be written costs time and nothing else
            _write(file, layout)
    return layout


def cache_folder() -> Path:
    """Where layouts are kept: ``$HF_BOOTSTRAP_CACHE/layouts``, by default ``~/.cache/hf-bootstrap/layouts``.

    It may be deleted at any time.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_BOOTSTRAP_CACHE") or Path(root) / "hf-bootstrap") / "layouts"


def _key(model: PreTrainedModel) -> str:
    """SHA-256 of everything a layout depends on, this library's own way of finding it included."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _IDLE}
    shapes = {name: list(tensor.shape) for name, tensor in named_tensors(model).items()}
    facts = [f"{type(model).__module__}.{type(model).__qualname__}", config, shapes, find_ties(model)]
    digest = hashlib.sha256(Path(worked_out.__file__).read_bytes())
    digest.update(json.dumps(facts, sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def _write(file: Path, layout: HubLayout) -> None:
    parts = {
        name: [[part.stored, part.box, part.start, part.drops_first] for part in found]
        for name, found in layout.parts.items()
    }
    text = json.dumps({"parts": parts, "ties": dict(layout.ties)}, separators=(",", ":"))
    write_atomic(file, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def _read(file: Path) -> HubLayout | None:
    """The layout an entry holds; None where there is none, or it is not what was written."""
    try:
        digest, _, text = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(text).hexdigest().encode() != digest:
        return None
    record: dict[str, Any] = json.loads(text)
    parts = {
        name: tuple(
            Part(tensor=name, stored=stored, box=tuple((a, b) for a, b in box), start=start, drops_first=drops_first)
            for stored, box, start, drops_first in found
        )
        for name, found in record["parts"].items()
    }
    return layout_of(parts, record["ties"])
