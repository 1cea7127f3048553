"""SIGKILL while a law is saved or pushed: what is there is the old law or the new one, never a mixture."""

import random
import signal
import subprocess
import sys
import time

import pytest

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import LawFileError

from ..hub.conftest import ROOT, environment
from ..hub.server import Hub

pytestmark = pytest.mark.slow

PUSH = """
import itertools, sys
from hf_bootstrap.hub.push import push_files
for i in itertools.count(int(sys.argv[1])):
    name = str(i).encode()
    files = {"law.json": name, "points.jsonl": name * 500, "README.md": b"# " + name, "w.safetensors": name * 9000}
    push_files(files, "me/law")
    print("ready", flush=True)
"""
SAVE = """
import sys
from hf_bootstrap import ScalingLaw
laws = [ScalingLaw.from_pretrained(folder) for folder in sys.argv[1:3]]
print("ready", flush=True)
while True:
    for law in laws:
        law.save_pretrained(sys.argv[3])
"""


def killed(script, words, hub, home, delay):
    child = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)], stdout=subprocess.PIPE, cwd=ROOT, env=environment(hub, home)
    )
    assert child.stdout.readline() == b"ready\n"
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_a_push_killed_at_fifty_moments_leaves_whole_commits(tmp_path):
    rng = random.Random(0)
    with Hub() as hub:
        for number in range(50):
            killed(PUSH, [1000 * (number + 1)], hub, tmp_path, rng.uniform(0.0, 0.5))
        history = hub.repo("me/law").history()[:-1]
        assert len(history) > 50
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


def test_a_save_killed_at_fifty_moments_is_old_new_or_refused(tmp_path):
    """Law and points are two files: between the two a reader refuses them by their digest, and never mixes them."""
    rng, laws = random.Random(1), []
    for name in ("continue", "stack"):
        laws.append(ScalingLaw(resamples=20).fit(ROOT / "docs" / "demo" / f"{name}.jsonl"))
        laws[-1].save_pretrained(tmp_path / name)
    known = [(law.fitted.theta.tolist(), law.points_.digest()) for law in laws]
    refused = 0
    with Hub() as hub:
        for _ in range(50):
            words = [tmp_path / "continue", tmp_path / "stack", tmp_path / "law"]
            killed(SAVE, words, hub, tmp_path / "home", rng.uniform(0.5, 3.0))
            if not (tmp_path / "law" / "law.json").exists():
                continue
            try:
                found = ScalingLaw.from_pretrained(tmp_path / "law")
            except LawFileError as error:
                refused += 1
                assert "does not hold the points this law was fitted to" in str(error)  # noqa: PT017
            else:
                assert found.points_ is not None
                assert (found.fitted.theta.tolist(), found.points_.digest()) in known
    assert refused < 50
