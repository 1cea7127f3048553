"""`accelerate launch` with two processes under SIGKILL of the launcher alone, or of one of its processes.

Nobody lives on, and the same command goes on to the points of an undisturbed run.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

from ..cli.test_run import BATCH, LAUNCH, OFFLINE, make, measured
from ..training.conftest import DOCUMENTS

__all__ = ["make"]  # a fixture
# Long enough that the processes notice before the end.
RUN = {"tokens": 1000 * BATCH, "warmup_tokens": 0, "marks": (50 * BATCH, 900 * BATCH)}


def launch(folder):
    words = [sys.executable, *LAUNCH, "-m", "hf_bootstrap.cli", "run", str(folder.path), "--save-every", "3200"]
    with (folder.path / "log.txt").open("a") as log:
        return subprocess.Popen(words, env=OFFLINE, stdout=log, stderr=log, start_new_session=True)


def children(pid):
    """Processes a process started, in the order of their numbers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def rank_of(pid):
    variables = dict(item.partition("=")[::2] for item in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return int(variables["RANK"])


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Token files for a thousand steps."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50] * 4, tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory, text):
    """The points of an undisturbed run of two processes."""
    folder = make.__wrapped__(text, tmp_path_factory.mktemp("straight"))(**RUN)
    assert launch(folder).wait(300) == 0, (folder.path / "log.txt").read_text()
    return measured(folder)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "rank 0", "rank 1"])
def test_after_a_kill_nobody_lives_on_and_the_next_call_ends_as_an_undisturbed_run(make, straight, victim):
    folder = make(**RUN)
    launcher = launch(folder)
    wait_until(lambda: folder.checkpoints() or launcher.poll() is not None, 300)
    ranks = {rank_of(pid): pid for pid in children(launcher.pid)}
    assert sorted(ranks) == [0, 1], (folder.path / "log.txt").read_text()
    os.kill(launcher.pid if victim == "launcher" else ranks[int(victim[-1])], signal.SIGKILL)
    assert launcher.wait(120) != 0
    wait_until(lambda: not any(map(lives, ranks.values())), 30)
    assert not folder.is_done(), "the kill came too late to show anything"
    again = launch(folder)
    assert again.wait(300) == 0, (folder.path / "log.txt").read_text()
    assert measured(folder) == straight
