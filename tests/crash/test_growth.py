"""Growth on disk under SIGKILL and two processes: the target is absent or complete, and the next call finishes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap.growth.checkpoint import open_checkpoint
from hf_bootstrap.store import read_json

# A server: it has paid for its imports and the plan once, and each growth is a child of it that can be killed.
GROWER = """
import os, sys, torch
from hf_bootstrap import GrowthConfig
from hf_bootstrap.growth import stream, writer
torch.set_num_threads(1)  # a child of a process with other threads must not need them
writer._SYNC_EVERY = 2**18
source, config = sys.argv[1], GrowthConfig(width=2, depth=2)
job = stream.prepare_growth(source, config, max_shard_size="4MB")
stream.prepare_growth = lambda *arguments, **options: job
print("ready", flush=True)

def grow(target):
    child = os.fork()
    if child:
        return child
    try:
        stream.grow_checkpoint(source, target, config, max_shard_size="4MB")
    except BaseException as error:
        print(type(error).__name__, str(error)[:300], file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

for line in sys.stdin:
    count, target = line.rstrip().split(" ", 1)
    children = [grow(target) for _ in range(int(count))]
    print(*children, flush=True)
    sys.stdin.readline()  # until then a child that is done stays, and its id is no other's
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """About 3 MB, so that a growth lasts long enough to be killed in the middle."""
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    path = tmp_path_factory.mktemp("source") / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=512)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def grower(source, tmp_path_factory):
    """``grow(target, after)`` grows in a process of its own, killed `after` seconds; its exit code."""
    errors = tmp_path_factory.mktemp("errors") / "text"
    command, pipe = [sys.executable, "-c", GROWER, str(source)], subprocess.PIPE
    with (
        open(errors, "w") as file,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, text=True) as server,
    ):
        assert server.stdout.readline() == "ready\n", errors.read_text()

        def grow(target, after=None, at_once=1):
            server.stdin.write(f"{at_once} {target}\n")
            server.stdin.flush()
            children = [int(word) for word in server.stdout.readline().split()]
            if after is not None:
                time.sleep(after)
                os.kill(children[0], signal.SIGKILL)
            server.stdin.write("\n")
            server.stdin.flush()
            codes = [int(word) for word in server.stdout.readline().split()]
            return codes[0] if at_once == 1 else (sorted(codes), errors.read_text())

        yield grow
        server.stdin.close()


def state(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(folder).iterdir())}


def is_complete(target):
    files = read_json(target / "growth.json")["files"]
    return set(open_checkpoint(target).files) == set(files) and all(
        hashlib.sha256((target / name).read_bytes()).hexdigest() == record["sha256"] for name, record in files.items()
    )


def kills(grow, source, folder, count):
    """Kill growths at random moments until `count` of them died of it."""
    before = state(source)
    began = time.monotonic()
    assert grow(folder / "expected") == 0
    whole = time.monotonic() - began
    expected, chance, died, lived, target = state(folder / "expected"), random.Random(3), 0, 0, 0
    while died < count:
        path = folder / f"grown-{target}"
        code = grow(path, chance.uniform(0, whole))
        assert code in (0, -signal.SIGKILL)
        died, lived = died + (code != 0), lived + (code == 0)
        assert lived < 20 + 10 * count, "the moments come too late to kill anything"
        if path.exists():
            assert is_complete(path)
        if chance.random() < 0.5:  # often the next one is killed too, before one may finish
            assert grow(path) == 0
            found = state(path)
            assert {n: d for n, d in found.items() if n.endswith("safetensors")} == {
                n: d for n, d in expected.items() if n.endswith("safetensors")
            }
            assert set(found) == set(expected)
            assert not (folder / f".{path.name}.growing").exists()
            target += 1
    assert state(source) == before


def test_a_killed_growth_is_absent_or_complete_and_the_next_call_finishes_it(grower, source, tmp_path):
    kills(grower, source, tmp_path, 3)


@pytest.mark.slow
def test_a_hundred_kills(grower, source, tmp_path):
    kills(grower, source, tmp_path, 100)


def test_of_two_processes_one_wins_and_the_other_is_told(grower, tmp_path):
    for attempt in range(3):
        codes, errors = grower(tmp_path / f"grown-{attempt}", at_once=2)
        # The later one finds the folder held, or the work done.
        assert codes == [0, 0] or (codes == [0, 1] and "Another process is working" in errors)
        assert is_complete(tmp_path / f"grown-{attempt}")
    assert sorted(os.listdir(tmp_path)) == [f"grown-{attempt}" for attempt in range(3)]
