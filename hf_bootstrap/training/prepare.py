"""Text packed once into a run's folder, and found again only if it is still the same text.

A run that is started again must read the tokens it read before; what it was packed from is noted beside them.
"""

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..errors import DataError
from ..store import read_json, write_json
from .data import pack
from .documents import read_documents

__all__ = ["fingerprint", "pack_files", "pack_once"]


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as a text that says so.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    return f"sha256 {digest.hexdigest()}"


def pack_files(
    folder: str | Path, files: dict[str, str | None], tokenizer: Any, *, processes: int = 1
) -> dict[str, Path]:
    """Token files of local text files, each packed once; those without a path are left out."""
    made = {}
    for name, path in files.items():
        if path:
            read = functools.partial(read_documents, path)
            made[name] = pack_once(folder, name, fingerprint(path), read, tokenizer, processes=processes)
    return made


def pack_once(
    folder: str | Path,
    name: str,
    source: str,
    read: Callable[[], list[str]],
    tokenizer: Any,
    *,
    processes: int = 1,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Pack documents into ``<folder>/<name>.safetensors`` unless that was done before, from the same source.

    Args:
        source: what tells this text from another: a `fingerprint`, or a data set's name, revision and bounds.
        read: gives the documents; called only when they are needed.
        tokenizer, processes, report: as `pack` takes them; without a report a terminal shows a progress bar.

    Raises:
        DataError: the folder holds the tokens of another text, or of another tokenizer.
    """
    path, note = Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"
    tokenizer_hash = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    asked = {"source": source, "tokenizer": tokenizer_hash}
    if note.exists():  # written last
        before = read_json(note)
        for what, value in asked.items():
            if before.get(what) != value:
                raise DataError(
                    f"{path} was packed with {what} {before.get(what)}, and it is {value} now: the folder belongs to "
                    "another run. Use another output folder, or restore what was changed."
                )
        return path
    documents = read()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"Tokenising {name}", total=len(documents))
        tell = report or (lambda done: bar.update(task, completed=done))
        facts = pack(documents, tokenizer, path, tell, processes=processes)
    write_json(note, {**asked, "hash": facts.hash, "tokens": facts.tokens})
    return path
