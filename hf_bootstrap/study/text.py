"""Real text found on this machine, read without importing any of it: English documentation and Python code.

For studies that must run offline anywhere this package is installed. Text differs between releases of
Python, numpy and scipy, and losses with it, so every split carries the hash of its content. Tokens are
the business of others.
"""

import ast
import hashlib
import importlib.util
import inspect
import io
import os
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StudyError

__all__ = ["Split", "content_hash", "documentation", "python_code", "reshuffled", "split_documents"]

# The packages besides the standard library whose docstrings are read: there wherever this package is
# installed, since scipy is a dependency and numpy is one of scipy.
_DOCUMENTED = ("numpy", "scipy")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "idle_test", "test", "tests", "site-packages", "dist-packages"})
# Tables of characters and help topics kept as Python literals are not code anybody wrote.
_NOT_CODE = frozenset({"encodings", "pydoc_data"})
# A decay of 50 steps trains on some 50,000 characters. Cut into small pieces and shuffled, these come from many
# modules; with pieces of 8,000 characters a loss depends by 0.5% to 1% on which few modules came last.
_PIECE = 1_000
_LAYOUT = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}
)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Text to train on and text held out; no document has a part in both.

    Attributes:
        train: pieces of documents, about 1,000 characters each, in a fixed shuffled order.
        held_out: likewise, so that the first part of it stands for the whole.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each side."""
        return {"train": content_hash(self.train), "held_out": content_hash(self.held_out)}

    @property
    def sizes(self) -> dict[str, int]:
        """UTF-8 bytes of each side."""
        return {"train": _size(self.train), "held_out": _size(self.held_out)}


def documentation(on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """English technical prose: the language reference's help topics and the docstrings of every module.

    Of the standard library, numpy and scipy, test packages left out; a paragraph that came before is
    dropped. Files are parsed, never imported; a file that is not Python is passed over.

    Args:
        on_progress: called with files read and files in all.

    Returns:
        One string per module or help topic, in an order that does not depend on where Python is.

    Raises:
        StudyError: this Python has no source files to read.
    """
    folders = [_standard_library(), *(_package(name) for name in _DOCUMENTED)]
    files = [file for folder in folders for file in _sources(folder)]
    seen: set[str] = set()
    documents = []
    for number, file in enumerate(files, start=1):
        module = _read(file)
        texts = _texts(module[1], file) if module is not None else []
        documents += [_without_repeats(text, seen) for text in texts]
        if on_progress is not None:
            on_progress(number, len(files))
    return [document for document in documents if document]


def python_code(on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """The standard library's code without docstrings, comments and blank lines; test packages left out.

    Args:
        on_progress: called with files read and files in all.

    Returns:
        One string per module, in an order that does not depend on where Python is; each still means
        what its module meant.

    Raises:
        StudyError: this Python has no source files to read.
    """
    files = [file for file in _sources(_standard_library()) if not _NOT_CODE.intersection(file.parts)]
    documents = []
    for number, file in enumerate(files, start=1):
        module = _read(file)
        if module is not None:
            documents.append(_code_only(*module))
        if on_progress is not None:
            on_progress(number, len(files))
    return [document for document in documents if document]


def split_documents(documents: Sequence[str], held_out: float = 0.05, seed: int = 0) -> Split:
    """Divide documents into text to train on and text held out, by whole documents.

    Both sides are then cut into pieces and shuffled. The order comes from hashes of the content and the
    seed, so it is the same on every machine and changes little when a document is added.

    Args:
        documents: any texts.
        held_out: share of all characters to hold out, above 0 and below 1.
        seed: another seed gives another division and another order.

    Raises:
        StudyError: a share outside (0, 1), or too little text to hold that much out.
    """
    if not 0 < held_out < 1:
        raise StudyError(f"held_out is {held_out}; it is a share of the text, above 0 and below 1. 0.05 is usual.")
    room = round(held_out * sum(map(len, documents)))
    sides: tuple[list[str], list[str]] = ([], [])
    for document in _shuffled(dict.fromkeys(documents), seed):
        # A document longer than the room left is trained on, so the share held out is never exceeded.
        out = len(document) <= room
        room -= len(document) if out else 0
        sides[out].extend(_pieces(document))
    train, held = (tuple(_shuffled(side, seed)) for side in sides)
    if not train or not held:
        raise StudyError(
            f"{len(documents)} documents cannot be divided so that {held_out:.1%} of their characters are held out. "
            "Give more, or shorter, documents."
        )
    return Split(train=train, held_out=held)


def reshuffled(pieces: Sequence[str], seed: int) -> list[str]:
    """The order of another seed; 0 is the order `split_documents` gives."""
    return list(pieces) if seed == 0 else _shuffled(pieces, seed)


def content_hash(documents: Iterable[str]) -> str:
    """SHA-256 over the documents in their order; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def _size(documents: Iterable[str]) -> int:
    return sum(len(document.encode("utf-8", "surrogatepass")) for document in documents)


def _shuffled(documents: Iterable[str], seed: int) -> list[str]:
    return sorted(
        documents, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    )


def _pieces(document: str) -> Iterator[str]:
    """Cut a long text where a line ends, if possible before one that is not indented: a paragraph, a definition."""
    start = 0
    while len(document) - start > _PIECE:
        window = document[start + _PIECE // 2 : start + _PIECE]
        flush = [match.start() for match in re.finditer(r"\n(?=\S)", window)]
        cut = flush[-1] if flush else window.rfind("\n")
        end = start + _PIECE // 2 + cut if cut >= 0 else document.find("\n", start + _PIECE)
        if end < 0:
            break
        yield document[start:end]
        start = end + 1
    yield document[start:]


def _standard_library() -> Path:
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "os.py").exists():
        raise StudyError(
            f"{folder} holds no source files of the standard library, so there is no text to train on. "
            "Use a Python installed with its .py files."
        )
    return folder


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise StudyError(f"{name} is not installed, so its documentation cannot be read. Install {name}.")
    return Path(spec.submodule_search_locations[0])


def _sources(folder: Path) -> list[Path]:
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith("config-")]
        # _sysconfigdata_*.py and __config__.py state how and where this Python and numpy were built.
        found += [
            Path(where, name)
            for name in names
            if name.endswith(".py") and not name.startswith(("_sysconfigdata", "__config"))
        ]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _read(file: Path) -> tuple[str, ast.Module] | None:
    """The text of a file, line ends made equal, and its syntax tree; None where it is not Python."""
    try:
        with tokenize.open(file) as stream:
            text = stream.read()
        return text, ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _texts(tree: ast.Module, file: Path) -> list[str]:
    """The documents in one file: each help topic, or all docstrings together."""
    if file.name == "topics.py" and file.parent.name == "pydoc_data":
        tables = [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
        return [topic for table in tables if isinstance(table, ast.Dict) for topic in ast.literal_eval(table).values()]
    return ["\n\n".join(_docstrings(tree.body, ast.get_docstring(tree)))]


def _docstrings(body: list[ast.stmt], own: str | None) -> Iterator[str]:
    if own:
        yield own
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _added_docs(node.value)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(node.body, ast.get_docstring(node))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _docstrings(getattr(node, part, []), None)


def _added_docs(call: ast.Call) -> Iterator[str]:
    """Documentation of compiled functions, which numpy and scipy give by `add_newdoc(...)`."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name == "add_newdoc":
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
                yield inspect.cleandoc(node.value)


def _without_repeats(text: str, seen: set[str]) -> str:
    kept = []
    for paragraph in text.split("\n\n"):
        key = " ".join(paragraph.split())
        if key and key not in seen:
            seen.add(key)
            kept.append(paragraph.rstrip())
    return "\n\n".join(kept).strip("\n")


def _code_only(text: str, tree: ast.Module) -> str:
    """Cut off comments, take out docstrings, and drop the lines that hold nothing else."""
    lines = text.split("\n")
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
        elif token.type not in _LAYOUT:
            used.update(range(row, token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _take_out_docstring(node.body, lines, used)
    return "\n".join(line for row, line in enumerate(lines, start=1) if row in used)


def _take_out_docstring(body: list[ast.stmt], lines: list[str], used: set[int]) -> None:
    first = body[0] if body else None
    if not (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    ):
        return
    start, end = first.lineno, first.end_lineno or first.lineno
    indent = lines[start - 1][: first.col_offset]
    # One that shares its line with other code stays: `def f(): "so"` needs it as its body.
    if indent.strip() or (len(body) > 1 and body[1].lineno == end):
        return
    used.difference_update(range(start, end + 1))
    if len(body) == 1 and indent:
        lines[start - 1] = f"{indent}pass"
        used.add(start)
