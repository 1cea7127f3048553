"""Which files of a checkpoint travel with its weights unchanged: tokenizers, templates, generation settings, and code.

No code is ever run, and no link followed out of the folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreError
from .checkpoint import real_file

__all__ = ["CARRIED", "files_below", "is_real"]

# By their ending: what transformers' tokenizers read, settings, templates, and remote code.
CARRIED = (
    ".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab", ".spm", ".codes", ".bpe", ".tokenizer",
)  # fmt: skip
# In folders of the checkpoint: named chat templates (additional_chat_templates/) and packages of remote code. What else
# lies there belongs to another model, such as original/params.json.
_BELOW = (".jinja", ".py")


def files_below(folder: Path) -> tuple[list[str], list[str]]:
    """(files in the folders of a checkpoint that travel with it, its folders of which something does not), sorted.

    Returns:
        Names relative to `folder`, such as "additional_chat_templates/tools.jinja". Hidden folders are left out.
    """
    carried: list[str] = []
    left_behind: list[str] = []
    for below in sorted(item for item in folder.iterdir() if not item.name.startswith(".")):
        if below.is_dir() and not below.is_symlink():
            found = {name: Path(name).suffix in _BELOW and is_real(folder / name) for name in _walk(folder, below)}
            carried += sorted(name for name, travels in found.items() if travels)
            left_behind += [below.name] * (not all(found.values()))
    return carried, left_behind


def is_real(path: Path) -> bool:
    """Whether a path is a file of its own checkpoint, see `real_file`."""
    try:
        return real_file(path).is_file()
    except StoreError:
        return False


def _walk(folder: Path, below: Path) -> Iterator[str]:
    """What lies in a folder and its folders, links to folders as files that are none."""
    for place, folders, files in os.walk(below):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (os.path.relpath(os.path.join(place, name), folder) for name in [*links, *files])
