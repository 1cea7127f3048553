import ast
import sysconfig
import tokenize
from pathlib import Path

import pytest

from hf_bootstrap.errors import StudyError
from hf_bootstrap.study import text
from hf_bootstrap.study.text import content_hash, documentation, python_code, split_documents

SHAPES = '''#!/usr/bin/env python
"""Shapes of the plane."""

# a comment
AREA = 1  # square metres


class Square:
    """A square.

    Shared words.
    """

    def side(self):
        """The side."""

    def name(self):
        "shares no line"  # but a comment
        return """
# not a comment

kept"""

    def one(self): "its own body"
'''
LINES = '''"""Lines.

Shared words.
"""
raise ImportError("reading must not import")
add_newdoc("lines", "cut", """
    Cut a line.

    In two.
    """)
'''


@pytest.fixture
def small_python(tmp_path, monkeypatch):
    """Put a standard library of two modules and two help topics where Python says its own is."""

    def make(name: str) -> None:
        root = tmp_path / name
        files = {
            "os.py": LINES,
            "shapes.py": SHAPES,
            "pydoc_data/topics.py": "topics = {'if': 'The if statement.', 'for': 'The for statement.'}",
            "encodings/table.py": "decoding = 'ABC'",
            "test/test_os.py": '"""Never read."""',
            "broken.py": "print 'Python 2'",
        }
        for file, content in files.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(content)
        monkeypatch.setattr(sysconfig, "get_path", lambda key: str(root))
        monkeypatch.setattr(text, "_DOCUMENTED", ())

    return make


def test_documentation_is_every_docstring_and_topic_once(small_python):
    small_python("here")
    assert documentation() == [
        "Lines.\n\nShared words.\n\nCut a line.\n\nIn two.",
        "The if statement.",
        "The for statement.",
        "Shapes of the plane.\n\nA square.\n\nThe side.\n\nshares no line\n\nits own body",
    ]


def test_code_has_no_docstrings_comments_or_blank_lines_but_keeps_its_strings(small_python):
    small_python("here")
    shapes = python_code()[1]
    assert shapes == (
        "AREA = 1\nclass Square:\n    def side(self):\n        pass\n    def name(self):\n"
        '        return """\n# not a comment\n\nkept"""\n    def one(self): "its own body"'
    )


def test_text_does_not_depend_on_where_python_is(small_python):
    small_python("here")
    first = documentation(), python_code()
    small_python("some where/else")
    assert (documentation(), python_code()) == first


def test_progress_counts_every_file(small_python):
    small_python("here")
    calls = []
    documentation(lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]


def test_a_python_without_sources_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda key: str(tmp_path))
    with pytest.raises(StudyError, match="no source files"):
        python_code()


def _meaning(source: str) -> str:
    """The syntax tree without docstrings and positions, read by Python itself."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            if isinstance(body[0].value.value, str):
                del body[0]
            if not body and not isinstance(node, ast.Module):
                body.append(ast.Pass())
    return ast.dump(tree)


def test_the_standard_librarys_code_still_means_what_it_meant():
    library = Path(sysconfig.get_path("stdlib"))
    names = [
        "argparse",
        "inspect",
        "typing",
        "re/_parser",
        "json/decoder",
        "asyncio/events",
        "turtle",
        "tarfile",
        "ast",
    ]
    for file in [library / f"{name}.py" for name in names]:
        with tokenize.open(file) as stream:
            source = stream.read()
        assert _meaning(text._code_only(source, ast.parse(source))) == _meaning(source), file


@pytest.mark.slow  # `make demo` says so too
def test_this_machine_has_enough_text_for_the_demo():
    """2.6M tokens of documentation and 1.1M of code, at most 2.2 bytes each, without a repeat."""
    documents = documentation()
    assert split_documents(documents).sizes["train"] > 2.2 * 2_600_000
    assert split_documents(python_code()).sizes["train"] > 2.2 * 1_100_000
    paragraphs = [" ".join(p.split()) for document in documents for p in document.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))
    "".join(documents).encode("utf-8")  # a tokenizer takes it as it is


DOCUMENTS = [f"document {n}\n" + f"word {n}\n" * (n * 37 % 91) for n in range(200)]


def test_no_document_is_on_both_sides_and_none_is_lost():
    split = split_documents(DOCUMENTS, held_out=0.1, seed=3)
    assert sorted(split.train + split.held_out) == sorted(DOCUMENTS)
    assert not set(split.train) & set(split.held_out)
    share = split.sizes["held_out"] / (split.sizes["held_out"] + split.sizes["train"])
    assert 0.09 < share <= 0.1


def test_a_seed_fixes_the_split_and_another_seed_changes_it():
    assert split_documents(DOCUMENTS, seed=1) == split_documents(DOCUMENTS[::-1], seed=1)
    assert split_documents(DOCUMENTS, seed=1).hashes != split_documents(DOCUMENTS, seed=2).hashes


def test_long_documents_are_cut_before_lines_that_are_not_indented():
    long = "\n".join(f"def f{n}():\n    return {n}" for n in range(3000))
    pieces = list(text._pieces(long))
    assert "\n".join(pieces) == long
    assert all(piece.startswith("def ") for piece in pieces)
    assert 500 <= min(map(len, pieces[:-1])) <= max(map(len, pieces)) <= 1_000


def test_an_indented_stretch_is_cut_where_a_line_ends():
    stretch = "class C:\n" + "".join(f"    a{n} = {n}\n" for n in range(500))
    pieces = list(text._pieces(stretch))
    assert "\n".join(pieces) == stretch
    assert max(map(len, pieces)) <= 1_000


def test_a_text_without_places_to_cut_stays_whole():
    assert list(text._pieces("a" * 20_000)) == ["a" * 20_000]


@pytest.mark.parametrize("share", [0, 1, -0.1, 2.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(StudyError, match="share"):
        split_documents(DOCUMENTS, held_out=share)


def test_too_few_documents_are_refused():
    with pytest.raises(StudyError, match="cannot be divided"):
        split_documents(["one", "two"])


def test_the_hash_sees_order_and_boundaries():
    hashes = {content_hash(docs) for docs in (["a", "b"], ["b", "a"], ["ab"], ["a", "", "b"])}
    assert len(hashes) == 4
