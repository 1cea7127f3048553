"""Points and files under SIGKILL and under several writers: nothing acknowledged is lost, nothing is half."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import append_point, read_points, write_atomic

WRITER = """
import sys
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import append_point
path, start = sys.argv[1], int(sys.argv[2])
for n in range(start, start + 1_000_000):
    append_point(path, ScalingPoint(run_id="run-1", tokens=n, loss=3.25, attention_reason="x" * (n % 7 * 20_000)))
    print(n, flush=True)  # the acknowledgement
"""


@contextlib.contextmanager
def started(code, *arguments):
    """A process that runs `code`, killed at the end whatever happens; its standard output is text."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.send_signal(signal.SIGKILL)


def kill_a_writer(path, start, after):
    """Start a writer, kill it, and return the points it had acknowledged."""
    with started(WRITER, str(path), str(start)) as child:
        first = child.stdout.readline()
        time.sleep(after)
        child.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in [first, *child.stdout] if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    return acknowledged


def kills(path, count):
    """Kill a writer `count` times; every acknowledged point is there, at most one torn line for each kill."""
    chance = random.Random(7)
    acknowledged = []
    for attempt in range(count):
        acknowledged += kill_a_writer(path, 10**6 * attempt, chance.uniform(0, 0.05))
        read = read_points(path)
        assert {*acknowledged} <= {p.tokens for p in read.points}
        assert len(read.points) <= len(acknowledged) + attempt + 1
        assert len(read.problems) <= attempt + 1
        assert read.harmless == {number for number, _ in read.problems}
    assert len(acknowledged) >= count


def test_a_kill_loses_no_acknowledged_point(tmp_path):
    kills(tmp_path / "points.jsonl", 5)


@pytest.mark.slow
def test_two_hundred_kills_lose_no_acknowledged_point(tmp_path):
    for group in range(10):
        kills(tmp_path / f"points-{group}.jsonl", 20)


def append_many(path, writer, count):
    for n in range(count):
        append_point(
            path, ScalingPoint(run_id=f"run-{writer}", tokens=n, loss=3.25, attention_reason="x" * (n % 5 * 3000))
        )


def crowd(path, writers, count):
    """Several processes append to one file; nothing is lost, nothing torn, each writer's order kept."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_many, args=(path, writer, count)) for writer in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * writers
    read = read_points(path)
    assert read.problems == []
    for writer in range(writers):
        assert [p.tokens for p in read.points if p.run_id == f"run-{writer}"] == list(range(count))


def test_four_writers_of_one_file_lose_nothing(tmp_path):
    crowd(tmp_path / "points.jsonl", 4, 100)


@pytest.mark.slow
def test_eight_writers_of_one_file_lose_nothing(tmp_path):
    crowd(tmp_path / "points.jsonl", 8, 5000)


def test_a_writer_killed_beside_others_costs_them_nothing(tmp_path):
    path = tmp_path / "points.jsonl"
    other = multiprocessing.get_context("spawn").Process(target=append_many, args=(path, "other", 300))
    other.start()
    acknowledged = [n for attempt in range(5) for n in kill_a_writer(path, 10**6 * attempt, 0.02)]
    other.join()
    read = read_points(path)
    assert [p.tokens for p in read.points if p.run_id == "run-other"] == list(range(300))
    assert {*acknowledged} <= {p.tokens for p in read.points if p.run_id == "run-1"}


REWRITER = """
import sys
from hf_bootstrap.store import write_atomic
print("ready", flush=True)
for n in range(1_000_000):
    write_atomic(sys.argv[1], str(n % 10) * 300_000)
"""


@pytest.mark.parametrize("kill", range(5))
def test_a_killed_rewrite_leaves_one_whole_version(tmp_path, kill):
    path = tmp_path / "law.json"
    write_atomic(path, "0" * 300_000)
    with started(REWRITER, str(path)) as child:
        child.stdout.readline()
        for _ in range(20):  # a reader beside the writer
            content = path.read_bytes()
            assert len(content) == 300_000
            assert len(set(content)) == 1
        time.sleep(0.01 * kill)
    content = path.read_bytes()
    assert len(content) == 300_000
    assert len(set(content)) == 1
    # What the kill left behind is hidden and takes part in nothing.
    assert all(name == "law.json" or name.startswith(".") for name in os.listdir(tmp_path))
