"""SIGKILL while a law is saved or pushed: what is there is the old law or the new one, never a mixture."""

import hashlib
import random
import subprocess
import sys

import pytest

from hf_bootstrap import ScalingLaw
from hf_bootstrap.folders import standing

from ..hub.conftest import ROOT, environment
from ..hub.server import Hub

pytestmark = pytest.mark.slow

# For each delay on its input: a fresh child works, is killed after so many seconds, and "killed" is said.
KILLER = """
import os, signal, sys, time
for line in sys.stdin:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, b"x")
        work()
    os.read(ready, 1)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""
PUSH = """
import itertools, os
from hf_bootstrap.hub.push import push_files
import huggingface_hub.hf_api
def work():
    for i in itertools.count(100000 * os.getpid()):
        name = str(i).encode()
        files = {"law.json": name, "points.jsonl": name * 500, "README.md": b"# " + name, "w.safetensors": name * 9000}
        push_files(files, "me/law")
"""
# Drawing takes a second and writing some milliseconds: drawn once, most kills fall into the writing.
SAVE = """
import functools, sys
from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws import law_folder
law_folder.law_files = functools.cache(law_folder.law_files)
laws = [ScalingLaw.from_pretrained(folder) for folder in sys.argv[1:3]]
for law in laws:
    law_folder.law_files(law)
def work():
    while True:
        for law in laws:
            law.save_pretrained(sys.argv[3])
"""


class Killer:
    """A process that has imported everything, and whose children are killed one after the other."""

    def __init__(self, script, words, hub, home):
        words = [sys.executable, "-c", script + KILLER, *map(str, words)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment(hub, home), **pipes)

    def kill_after(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        assert self.process.stdout.readline() == "killed\n"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.communicate(timeout=60)


def test_a_push_killed_at_a_hundred_moments_leaves_whole_commits(tmp_path):
    rng = random.Random(0)
    with Hub() as hub, Killer(PUSH, [], hub, tmp_path) as killer:
        for _ in range(100):
            killer.kill_after(rng.uniform(0.0, 0.5))
        history = hub.repo("me/law").history()[:-1]
        assert len(history) > 100
        for commit in history:
            name = commit.files["law.json"].content
            assert commit.files["points.jsonl"].content == name * 500
            assert commit.files["README.md"].content == b"# " + name
            assert commit.files["w.safetensors"].content == name * 9000
        # The next push finds nothing in its way.
        environ = environment(hub, tmp_path)
        done = subprocess.run(
            [sys.executable, "-c", "from hf_bootstrap.hub.push import *; push_files({'law.json': b'last'}, 'me/law')"],
            cwd=ROOT, env=environ, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert hub.repo("me/law").head()["law.json"].content == b"last"


def held(folder):
    """What a reader sees: not what is hidden."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items() if not n.startswith(".")}


@pytest.mark.parametrize("beside", [[], ["notes.txt"]], ids=["alone", "beside a file of somebody else's"])
def test_a_save_killed_at_a_hundred_moments_is_the_old_law_or_the_new_one(tmp_path, beside):
    """Every file of it: law, points, card, figures and planner."""
    rng, known = random.Random(1), []
    for name in ("continue", "stack"):
        ScalingLaw(resamples=20).fit(ROOT / "docs" / "demo" / f"{name}.jsonl").save_pretrained(tmp_path / name)
        ScalingLaw.from_pretrained(tmp_path / name).save_pretrained(tmp_path / name)  # as the other process does
        known.append(held(tmp_path / name))
    assert len(known[0]) == 7
    target, seen = tmp_path / "saved" / "law", []
    target.mkdir(parents=True)
    for name in beside:
        (target / name).write_text("mine")
    with Hub() as hub, Killer(SAVE, [tmp_path / "continue", tmp_path / "stack", target], hub, tmp_path) as killer:
        for _ in range(100):
            killer.kill_after(rng.uniform(0.0, 0.2))
            found = {name: digest for name, digest in held(standing(target)).items() if name not in beside}
            if found:
                seen.append(known.index(found))
                ScalingLaw.from_pretrained(target)
    assert len(seen) > 90
    assert set(seen) == {0, 1}
    ScalingLaw.from_pretrained(tmp_path / "stack").save_pretrained(target)
    assert [path.name for path in target.parent.iterdir()] == ["law"], "what the killed ones left is swept"
    assert sorted(path.name for path in target.iterdir()) == sorted(
        [*beside, "README.md", "figures", "law.json", "planner.html", "points.jsonl"]
    )
