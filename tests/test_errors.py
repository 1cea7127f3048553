"""The error tree: complete, drawn as it is, and kind to people who catch builtins."""

import re

import pytest

from hf_bootstrap import errors
from hf_bootstrap.errors import BootstrapError, did_you_mean

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_the_drawing_is_the_tree():
    drawn = {}
    path = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"( {4}[│├└─ ]*)(\w+Error)\b(?:\s+\((\w+)\))?", line)
        if match:
            depth = (len(match[1]) - 4) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = (path[depth - 1] if depth else None, match[3])
    real = {}
    for kind in TREE:
        ours = [base.__name__ for base in kind.__bases__ if issubclass(base, BootstrapError)]
        builtin = [base.__name__ for base in kind.__bases__ if not issubclass(base, BootstrapError)]
        real[kind.__name__] = (ours[0] if ours else None, builtin[0] if builtin and ours else None)
    # A second builtin of a leaf (`NotFittedError`, `DataError`) is told by its class, not by the drawing.
    assert set(drawn) == set(real)
    assert {name: parent for name, (parent, _) in drawn.items()} == {name: parent for name, (parent, _) in real.items()}
    assert all(builtin == real[name][1] for name, (_, builtin) in drawn.items() if builtin)


@pytest.mark.parametrize("kind", [kind for kind in TREE if kind is not BootstrapError])
def test_every_error_is_also_the_builtin_a_caller_expects(kind):
    assert issubclass(kind, BootstrapError)
    assert issubclass(kind, ValueError | OSError | RuntimeError)
    with pytest.raises(BootstrapError, match="what happened"):
        raise kind("what happened")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("token", "Did you mean 'tokens'?"),
        ("zzz", "Known: loss, tokens."),
        ("", "Known: loss, tokens."),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest_or_with_all(word, sentence):
    assert did_you_mean(word, ["tokens", "loss"]) == sentence
