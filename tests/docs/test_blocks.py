"""The code in README and docs runs, its commands exist, and its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from hf_bootstrap.cli.main import app

from .pages import PAGES, ROOT, blocks, name_of, without_blocks

SHARED = Path(os.environ.get("HF_BOOTSTRAP_SHARED", ROOT.parent / "shared")).resolve()
PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]
COMMANDS = sorted({line for page in PAGES for _, code in blocks(page, "bash") for line in code.splitlines()})
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")

RUNNER = """
import sys
namespace = {"__name__": "__main__"}
for line, code in BLOCKS:
    exec(compile("\\n" * (line - 1) + code, PAGE, "exec"), namespace)
"""


def test_the_readme_shows_the_library_and_the_command_line():
    assert ROOT / "README.md" in PYTHON_PAGES
    assert [words[0] for _, words in our_commands()]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")  # what a page shows is run from the root of the repository
    code = blocks(page, "python")
    needing = [i for i, (_, text) in enumerate(code) if "HF_BOOTSTRAP_SHARED" in text]
    runnable = code if SHARED.exists() or not needing else code[: needing[0]]
    script = f"PAGE, BLOCKS = {str(page)!r}, {runnable!r}\n{RUNNER}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HF_BOOTSTRAP_SHARED": str(SHARED)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if len(runnable) < len(code):
        pytest.skip(f"from line {code[needing[0]][0]} on it reads tables of {SHARED}, which is not here")


def our_commands():
    """(command, its words) of every line in a bash block that calls `hf-bootstrap` or `make`."""
    for line in COMMANDS:
        words = shlex.split(line, comments=True)
        if words[:1] in (["hf-bootstrap"], ["make"]):
            yield line, words


@pytest.mark.parametrize(
    ("line", "words"), list(our_commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_command_shown_exists_with_its_options(line, words):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    command = get_command(app)
    for verb in words[1:]:
        if not getattr(command, "commands", None) or verb.startswith("-"):
            break
        assert verb in command.commands, f"{line}: no command {verb}"
        command = command.commands[verb]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    targets = [a or b for a, b in LINK.findall(without_blocks(page))]
    missing = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = Path(page.parent, path) if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def anchors(page):
    """The anchors GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
