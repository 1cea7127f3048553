"""Files that survive a crash: what a reader may see at any moment, and what a kill, a full disk or a person does."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_bootstrap.errors import CorruptFileError, PointError, RecordError, StoreError
from hf_bootstrap.records import RunSpec, ScalingPoint
from hf_bootstrap.sealing import seal
from hf_bootstrap.store import (
    COMPLETE,
    RunFolder,
    append_point,
    lock,
    read_json,
    read_points,
    write_atomic,
    write_json,
)

from .strategies import points as any_point

SPEC = RunSpec(
    method="continue",
    domain="code",
    seed=0,
    data="text/code.tokens",
    eval_sets={"code": "text/code.held-out"},
    tokens=5120,
    peak_lr=4e-3,
    batch_size=4,
    sequence_length=128,
    start="run-1/checkpoint-3",
)


def point(tokens, run_id="run-1", loss=3.25, **fields):
    return ScalingPoint(run_id=run_id, tokens=tokens, loss=loss, **fields)


def tokens_in(path):
    return [p.tokens for p in read_points(path).points]


# --- whole files ----------------------------------------------------------------------------------------------


@given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path, content):
    path = tmp_path / "новый folder" / "a b.json"
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, "x"), lambda path: append_point(path, point(1))])
def test_every_folder_that_was_made_is_known_to_the_disk_before_the_file_is_promised(tmp_path, monkeypatch, write):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), real(file)))
    write(tmp_path / "runs" / "run-1" / "points.jsonl")
    folders = [name for name in synced if os.path.isdir(name)]
    assert folders == [str(tmp_path / made) for made in (".", "runs", "runs/run-1")]
    files = [name for name in synced if not os.path.isdir(name)]
    assert len(files) == 1


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_file_has_the_rights_the_user_chose(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "new", "x")
        append_point(tmp_path / "points.jsonl", point(1))
    finally:
        os.umask(before)
    for name in ("new", "points.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_long_file_name_can_be_written(tmp_path):
    write_atomic(tmp_path / ("ж" * 127), "x")
    assert (tmp_path / ("ж" * 127)).read_text() == "x"


@contextlib.contextmanager
def disk_of(size):
    """Files of this process may not grow past `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1, 999])
def test_a_full_disk_leaves_the_old_file_and_says_what_was_needed(tmp_path, size):
    path = tmp_path / "run.json"
    write_atomic(path, "old")
    with disk_of(size), pytest.raises(StoreError, match=r"run\.json cannot be written \(1,000 bytes\)"):
        write_atomic(path, b"x" * 1000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_file_where_a_folder_should_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "run.json", "x")
    with pytest.raises(StoreError, match="cannot take another point"):
        append_point(tmp_path / "file" / "points.jsonl", point(1))
    with pytest.raises(StoreError, match="cannot be worked in"), lock(tmp_path / "file"):
        pass


@pytest.mark.parametrize("read", [read_json, read_points])
def test_a_missing_file_is_a_clear_error(tmp_path, read):
    with pytest.raises(StoreError, match="No such file"):
        read(tmp_path / "none")
    with pytest.raises(StoreError, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b"\0",
    ],
)
def test_a_file_that_is_not_one_json_object_is_corrupt(tmp_path, content):
    (tmp_path / "law.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"law\.json"):
        read_json(tmp_path / "law.json")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "law.json", {"a": 1})
    with pytest.raises(RecordError):
        write_json(tmp_path / "law.json", {"a": float("nan")})
    assert read_json(tmp_path / "law.json") == {"a": 1}


# --- points files ---------------------------------------------------------------------------------------------


@given(st.lists(any_point, max_size=5, unique_by=lambda p: (p.run_id, p.tokens, p.phase)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_points_are_read_in_the_order_they_were_appended(tmp_path, wanted):
    path = tmp_path / "points.jsonl"
    path.write_bytes(b"")
    for one in wanted:
        append_point(path, one)
    read = read_points(path)
    assert (read.points, read.problems, read.harmless) == (wanted, [], frozenset())


def test_a_line_cut_anywhere_spoils_only_itself(tmp_path):
    lines = [(seal(point(n, eval={"a": {"sum": 1.0, "count": 2}}).to_dict()) + "\n").encode() for n in (1, 2)]
    for cut in [*range(1, 40), *range(40, len(lines[1]) - 20, 7), *range(len(lines[1]) - 20, len(lines[1]))]:
        path = tmp_path / "points.jsonl"
        path.write_bytes(lines[0] + lines[1][:cut])
        is_whole = cut == len(lines[1]) - 1
        assert tokens_in(path) == ([1, 2] if is_whole else [1])
        append_point(path, point(3))
        read = read_points(path)
        assert [p.tokens for p in read.points] == ([1, 2, 3] if is_whole else [1, 3])
        assert [number for number, _ in read.problems] == ([] if is_whole else [2])
        assert read.harmless == frozenset(number for number, _ in read.problems)


def test_a_tail_torn_again_while_it_is_closed_still_spoils_nothing(tmp_path):
    path = tmp_path / "points.jsonl"
    append_point(path, point(1))
    for tail in (b'{"loss":', b"\x18", b'\x18\n{"loss":3', b"\x18\n"):
        with path.open("ab") as file:
            file.write(tail)
    append_point(path, point(2))
    read = read_points(path)
    assert [p.tokens for p in read.points] == [1, 2]
    assert read.harmless == {number for number, _ in read.problems}


@pytest.mark.parametrize("room", [0, 1, 100, 4000])
def test_a_full_disk_keeps_every_earlier_point_and_the_next_append_goes_on(tmp_path, room):
    path = tmp_path / "points.jsonl"
    append_point(path, point(1))
    with disk_of(path.stat().st_size + room), pytest.raises(StoreError, match="Earlier points are safe"):
        append_point(path, point(2, attention_reason="x" * 5000))
    assert tokens_in(path) == [1]
    append_point(path, point(3))
    assert tokens_in(path) == [1, 3]


def test_damage_is_reported_with_its_line_and_is_not_taken_for_a_crash(tmp_path):
    path = tmp_path / "points.jsonl"
    for n in (1, 2, 3):
        append_point(path, point(n))
    path.write_bytes(path.read_bytes().replace(b'"tokens":2', b'"tokens":7') + b"\r\n\n  \n[]\n\xff\n")
    read = read_points(path)
    assert [p.tokens for p in read.points] == [1, 3]
    assert [(number, why.split(" ")[2]) for number, why in read.problems] == [(2, "says"), (7, "holds"), (8, "is")]
    assert read.harmless == frozenset()


def test_lines_ended_the_windows_way_are_read(tmp_path):
    (tmp_path / "points.jsonl").write_bytes(seal(point(1).to_dict()).encode() + b"\r\n")
    assert tokens_in(tmp_path / "points.jsonl") == [1]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_end_is_refused_in_little_memory(tmp_path, end):
    path = tmp_path / "points.jsonl"
    append_point(path, point(1))
    with path.open("ab") as file:
        file.write(b"x" * 50_000_000 + end)
    if end:
        append_point(path, point(2))
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = read_points(path)
    assert [p.tokens for p in read.points] == ([1, 2] if end else [1])
    assert [number for number, _ in read.problems] == [2]
    assert time.perf_counter() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_a_point_longer_than_a_line_is_not_written(tmp_path):
    with pytest.raises(PointError, match="1,048,576"):
        append_point(tmp_path / "points.jsonl", point(1, attention_reason="x" * 2**20))
    assert not (tmp_path / "points.jsonl").exists()


def test_a_point_measured_again_after_a_resume_counts_once(tmp_path):
    path = tmp_path / "points.jsonl"
    append_point(path, point(1, tokens_per_second=100.0))
    append_point(path, point(1, tokens_per_second=90.0, loss=3.25 * (1 + 1e-7)))
    append_point(path, point(1, phase="stable"))
    read = read_points(path)
    assert [(p.tokens, p.phase, p.tokens_per_second) for p in read.points] == [(1, "end", 100.0), (1, "stable", None)]
    assert read.harmless == {2}
    assert "line 1" in read.problems[0][1]


def test_two_runs_under_one_name_are_not_taken_for_a_resume(tmp_path):
    path = tmp_path / "points.jsonl"
    append_point(path, point(1, loss=3.2))
    append_point(path, point(1, loss=3.3))
    read = read_points(path)
    assert [p.loss for p in read.points] == [3.2]
    assert "two ids" in read.problems[0][1]
    assert read.harmless == frozenset()


# --- a folder for one process ---------------------------------------------------------------------------------

HOLDER = """
import sys, time
from hf_bootstrap.store import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "held\n"
            with pytest.raises(StoreError, match="Another process is working"), lock(tmp_path):
                pass
        finally:
            child.send_signal(signal.SIGKILL)
    with lock(tmp_path):
        pass


def test_an_error_inside_a_lock_is_not_taken_for_a_lock_that_is_held(tmp_path):
    with pytest.raises(BlockingIOError), lock(tmp_path):
        raise BlockingIOError
    with lock(tmp_path / "new" / "folder"):
        pass


# --- run folders ----------------------------------------------------------------------------------------------


def test_a_run_folder_is_made_once_and_found_again(tmp_path):
    folder = RunFolder.create(tmp_path, SPEC)
    assert folder.path == tmp_path / "runs" / SPEC.run_id
    assert folder.spec() == SPEC
    assert RunFolder.create(tmp_path, SPEC).path == folder.path
    assert os.listdir(folder.path) == ["run.json"]


def test_what_files_exist_is_the_state(tmp_path):
    folder = RunFolder.create(tmp_path, SPEC)
    assert (folder.points(), folder.checkpoints(), folder.is_done()) == ([], [], False)
    append_point(folder.points_file, point(1))
    for name in (
        "checkpoint-10",
        "checkpoint-9",
        "checkpoint-11",
        "checkpoint-x",
        "checkpoint-12.tmp",
        "xcheckpoint-1",
    ):
        (folder.path / name).mkdir()
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-x", "checkpoint-12.tmp", "xcheckpoint-1"):
        write_json(folder.path / name / COMPLETE, {})
    (folder.path / "checkpoint-13").write_text("a file")
    folder.finish({"tokens": 5120})
    assert [p.tokens for p in folder.points()] == [1]
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-9", "checkpoint-10"]
    assert folder.is_done()


def test_a_run_changed_by_hand_is_noticed(tmp_path):
    folder = RunFolder.create(tmp_path, SPEC)
    path = folder.path / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    for read in (folder.spec, lambda: RunFolder.create(tmp_path, SPEC)):
        with pytest.raises(CorruptFileError, match=f"its folder is named {SPEC.run_id}"):
            read()


@pytest.mark.parametrize(
    "change",
    [{"data": "../x"}, {"data": "/etc/passwd"}, {"start": "../x/y"}, {"tokens": "5120"}, {"extra": 1}, {"schema": 9}],
)
def test_a_run_json_that_is_no_run_is_corrupt_and_names_the_file(tmp_path, change):
    folder = RunFolder.create(tmp_path, SPEC)
    (folder.path / "run.json").write_text(json.dumps({**SPEC.to_dict(), **change}))
    with pytest.raises(CorruptFileError, match=r"run\.json is not a run"):
        folder.spec()


def test_a_run_folder_knows_its_study_from_inside(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path, SPEC)
    monkeypatch.chdir(folder.path)
    assert RunFolder(".").study == tmp_path
    assert RunFolder(".").spec() == SPEC
    monkeypatch.chdir(folder.path.parent)
    assert RunFolder(SPEC.run_id).study == tmp_path


def test_a_run_that_was_cut_short_goes_on_and_one_that_was_damaged_stops(tmp_path):
    folder = RunFolder.create(tmp_path, SPEC)
    append_point(folder.points_file, point(1))
    with folder.points_file.open("ab") as file:
        file.write(b'{"loss":3.1,"tok')
    assert [p.tokens for p in folder.points()] == [1]
    append_point(folder.points_file, point(2))
    append_point(folder.points_file, point(1))
    assert [p.tokens for p in folder.points()] == [1, 2]
    text = folder.points_file.read_text()
    folder.points_file.write_text(text.replace("3.25", "3.26", 1))
    with pytest.raises(CorruptFileError, match="line 1"):
        folder.points()


def test_a_study_may_lie_in_a_folder_of_any_name(tmp_path):
    odd = tmp_path / "étude № 1\nwith\ttabs"
    folder = RunFolder.create(odd, SPEC)
    append_point(folder.points_file, point(1))
    assert len(RunFolder(str(folder.path)).points()) == 1
    assert Path(folder.study) == odd
