"""Every `raise` of the library: our own errors, with messages that say what happened and what comes next.

Read off the source, so a new `raise` is held to it by existing.
"""

import ast
import re
from pathlib import Path

import pytest

import hf_bootstrap.errors

LIBRARY = Path(__file__).parents[1] / "hf_bootstrap"
OURS = set(hf_bootstrap.errors.__all__) - {"did_you_mean"}

# What else may be raised, and why.
OTHERS = {
    "AttributeError": "Python asks for it: a module without that name",
    "IndexError": "Python asks for it: the end of a sequence",
    "KeyboardInterrupt": "Ctrl-C, handed on with how to go on",
    "typer.BadParameter": "the command line's own error, exit code 2",
    "typer.Exit": "no error: an exit code",
}
# Classes that never leave these files: what their public functions raise instead holds their reason.
REASONS = {
    "folders.py": {"NotADirectoryError", "OSError"},  # as the system calls it wraps would
    "growth/checkpoint.py": {"ValueError"},
    "growth/verify.py": {"ValueError"},
    "laws/law_record.py": {"ValueError"},
    "sealing.py": {"ValueError"},  # as json.loads would; who reads a file says which
}


def raises():
    for path in sorted(LIBRARY.rglob("*.py")):
        name = str(path.relative_to(LIBRARY))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        caught = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught |= {id(inner): node for inner in ast.walk(node)}
            elif isinstance(node, ast.Raise) and node.exc is not None:
                yield pytest.param(name, node, caught.get(id(node)), id=f"{name}:{node.lineno}")


EVERY = list(raises())
each_raise = pytest.mark.parametrize(("name", "node", "handler"), EVERY)


def kind_of(node):
    """The class that is raised as it is written; None where it is a variable or a function's result."""
    called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    written = ast.unparse(called)
    return written if written[:1].isupper() or written.startswith("typer.") else None


def message_of(node):
    """The words of a message, each value as {}; None where it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (message_of(node.left) or "{}") + (message_of(node.right) or "{}")
    return None


def hands_on_ours(node, handler):
    """Whether the message ends with that of an error of ours, which says what comes next."""
    if handler is None or handler.name is None or handler.type is None:
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    text = ast.unparse(node.exc.args[0])
    return {ast.unparse(kind) for kind in kinds} <= OURS and text.rstrip("'\"").endswith(f"{{{handler.name}}}")


def test_there_are_raises_to_hold():
    assert len(EVERY) > 400


@each_raise
def test_what_is_raised_is_ours(name, node, handler):
    kind = kind_of(node)
    if kind is None or kind.startswith("_"):
        return  # a class handed in by the caller, or a reason that never leaves its module
    assert kind in OURS | set(OTHERS) | REASONS.get(name, set())


@each_raise
def test_a_message_says_what_happened_and_what_comes_next(name, node, handler):
    if kind_of(node) not in OURS or not isinstance(node.exc, ast.Call):
        return
    assert node.exc.args, "an error without a message"
    message = message_of(node.exc.args[0])
    if message is None or hands_on_ours(node, handler):
        return
    assert len(message) > 12
    sentences = [
        part for part in re.split(r"[.;?!](?:\s|$)|: (?!\{)|, so |(?<=\{\}) (?=[A-Z])", message) if part.strip()
    ]
    assert len(sentences) >= 2, f"{message!r} says what happened; say too why it matters or what to do next"


@each_raise
def test_a_message_shows_the_values(name, node, handler):
    """Or names the option, field or file that is missing, where there is no value to show."""
    if kind_of(node) not in OURS or not isinstance(node.exc, ast.Call) or not node.exc.args:
        return
    message = message_of(node.exc.args[0])
    assert (
        message is None
        or "{}" in message
        or re.search(r"[=(`'_0-9/]|--\w|[a-z][A-Z]|\b(no|without|needs?|at least|one of)\b", message)
    )
