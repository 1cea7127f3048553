"""The pages a person reads: README and docs, their code blocks and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# A block begins at a fence of any indentation and ends at the next fence.
_BLOCK = re.compile(r"^[ ]*```(\w+)[^\n]*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """(line number, code) of every block of a language."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(2)].count("\n") + 1, m[2]) for m in _BLOCK.finditer(text) if m[1] == language]


def without_blocks(page):
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
