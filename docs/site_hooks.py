"""Lets the site hold what its pages link to outside docs/: examples, schemas, the README of the repository.

A link out of docs/ is turned to a copy under repository/, so that the built folder is complete in itself.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(\]\()(\.\./[^)\s#]+)((?:#[^)\s]*)?\))")
_ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add every file that a page links to outside docs/, as it is."""
    for page in list(files.documentation_pages()):
        for _, target, _ in _LINK.findall(Path(page.abs_src_path or "").read_text(encoding="utf-8")):
            path = _outside(page.src_uri, target)
            if path is not None and files.get_file_from_path(_place(path)) is None:
                files.append(File.generated(config, _place(path), content=(_ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links out of docs/ to those copies."""

    def turned(match: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, match[2])
        if path is None:
            return match[0]
        up = "../" * page.file.src_uri.count("/")
        return f"{match[1]}{up}{_place(path)}{match[3] if match[3] == ')' else ')'}"

    return _LINK.sub(turned, markdown)


def _outside(page: str, target: str) -> Path | None:
    """The file a link of a page leads to, from the root of the repository; None where it stays inside docs/."""
    path = (_ROOT / "docs" / page).parent.joinpath(target).resolve()
    if not path.is_file() or path.is_relative_to(_ROOT / "docs"):
        return None
    return path.relative_to(_ROOT)


def _place(path: Path) -> str:
    # A Markdown file of the repository is shown as text: its own links are not those of this site.
    return f"repository/{path.as_posix()}" + (".txt" if path.suffix == ".md" else "")
