import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hf_bootstrap.errors import StoreError, StudyError
from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import COMPLETE, RunFolder, read_points
from hf_bootstrap.study.progress import Progress, _TenthByTenth
from hf_bootstrap.study.queue import Queue
from hf_bootstrap.study.run import export_points, run_study

from . import fake_runs
from .conftest import make_tiny_grid

# A shell lets its background jobs ignore SIGINT, and with them the tests that run there.
STUDY = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.study.conftest import make_tiny_grid
from hf_bootstrap.study.run import run_study
if __name__ == "__main__":
    run_study(make_tiny_grid().specs(), sys.argv[1], "tests.study.fake_runs:run_one", preload=())
"""


def run(specs, folder, function="run_one", **options):
    return run_study(
        specs, folder, f"tests.study.fake_runs:{function}", preload=(), on_progress=lambda now: None, **options
    )


def start_study(folder: Path) -> subprocess.Popen:
    """A study as a process of its own, which can be killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "FAKE_STEP": "0.02"}
    return subprocess.Popen(
        [sys.executable, "-c", STUDY, str(folder)], env=environment, stderr=subprocess.PIPE, text=True
    )


def begun(study: Path) -> list[str]:
    return [run_id for word, run_id, *_ in fake_runs.read_journal(study) if word == "begin"]


def ended(study: Path) -> list[str]:
    return [run_id for word, run_id, *_ in fake_runs.read_journal(study) if word == "end"]


def alive(study: Path) -> list[int]:
    """Processes of any run of the study that still live."""
    pids = {int(pid) for _, _, pid, _ in fake_runs.read_journal(study)}
    return [pid for pid in pids if lives(pid)]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # dead, and waiting for whoever adopted it to notice


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_every_run_is_done_once_after_its_start_and_gives_its_point(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    points = run(specs, tmp_path)
    assert [point.run_id for point in points] == [spec.run_id for spec in specs]
    assert [point.loss for point in points] == [fake_runs.loss_of(spec) for spec in specs]
    assert sorted(ended(tmp_path)) == sorted(spec.run_id for spec in specs)


def test_a_second_call_runs_nothing_and_returns_the_same_points(tiny_grid, tmp_path):
    points = run(tiny_grid.specs(), tmp_path)
    assert run(tiny_grid.specs(), tmp_path) == points
    assert len(ended(tmp_path)) == len(points)


def test_a_grown_grid_runs_only_what_is_new(tiny_grid, tmp_path):
    run(tiny_grid.specs(), tmp_path)
    (method,) = tiny_grid.methods
    grown = replace(tiny_grid, methods=(method, replace(method, name="stack", growth={"depth": 2}))).specs()
    run(grown, tmp_path)
    assert sorted(ended(tmp_path)) == sorted(spec.run_id for spec in grown)


def test_the_longest_line_of_work_starts_first(demo_grid, tmp_path):
    specs = demo_grid.specs()
    queue = Queue(specs[::-1], tmp_path)
    trunk = specs[0]
    assert queue.take() == trunk.run_id
    from_scratch = [queue.take() for _ in range(3)]
    assert {queue.specs[run_id].domain for run_id in from_scratch} == {"docs", "code"}
    assert queue.take() is None
    for step in (205, 512):
        checkpoint = tmp_path / "runs" / trunk.run_id / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
    (checkpoint / COMPLETE).touch()  # the second is whole, the first was being written
    assert queue.specs[queue.take()].start == f"{trunk.run_id}/checkpoint-512"
    assert queue.take() is None


def test_only_bases_and_the_ends_of_stable_runs_keep_their_checkpoints(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    run(specs, tmp_path)
    bases = {spec.start for spec in specs if spec.start and not spec.resume}
    ends = {f"{s.run_id}/checkpoint-{s.tokens // s.batch_tokens}" for s in specs if not s.decay_tokens}
    left = {f"{p.parent.name}/{p.name}" for p in tmp_path.glob("runs/*/checkpoint-*")}
    assert left == bases | ends
    assert (len(bases), len(ends)) == (2, 4)


def test_output_goes_to_the_log_of_the_run_and_each_has_one_thread(tiny_grid, tmp_path, capfd):
    (trunk, *_) = tiny_grid.specs()
    before = os.environ.get("OMP_NUM_THREADS")
    run([trunk], tmp_path, "say_threads")
    log = (tmp_path / "runs" / trunk.run_id / "log.txt").read_text()
    assert "threads 1" in log
    assert f"training {trunk.run_id}" in log
    assert capfd.readouterr().out == ""
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_a_run_that_fails_once_is_tried_again(tiny_grid, tmp_path):
    points = run(tiny_grid.specs(), tmp_path, "fail_once")
    assert len(points) == len(tiny_grid.specs())
    log = (tmp_path / "runs" / points[0].run_id / "log.txt").read_text()
    assert "RuntimeError: the first try fails" in log


def test_a_run_that_fails_to_the_end_is_named_with_its_log_and_the_rest_goes_on(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    with pytest.raises(StudyError) as caught:
        run(specs, tmp_path, "fail_from_scratch_on_code", retries=2)
    failed = [run_id for run_id in begun(tmp_path) if run_id not in ended(tmp_path)]
    assert len(failed) == 3
    assert len(set(failed)) == 1
    assert "1 of 12 runs failed 3 times" in str(caught.value)
    assert "2 more start from them" in str(caught.value)
    assert f"run {failed[0]} ended with exit code 1" in str(caught.value)
    assert "RuntimeError: no text was found" in str(caught.value)
    assert not alive(tmp_path)
    assert len(ended(tmp_path)) == len(specs) - 3
    # The cause mended, the study goes on from there.
    assert len(run(specs, tmp_path)) == len(specs)
    assert len(ended(tmp_path)) == len(specs)


def test_a_full_disk_and_a_run_that_diverges_are_named_and_the_rest_goes_on(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    with pytest.raises(StudyError) as caught:
        run(specs, tmp_path, "fill_the_disk_or_diverge", retries=0)
    full, diverged = (
        spec.run_id
        for of_base in (0, 10_240)
        for spec in specs
        if spec.domain == "code" and spec.base_tokens == of_base and not spec.resume
    )
    told = str(caught.value)
    assert "2 of 12 runs failed once or have lost their start; 4 more start from them" in told
    assert re.search(rf"run {full} ended with exit code 1 .*\n(    .*\n)*    OSError: .*No space left on device", told)
    assert re.search(
        rf"run {diverged} ended with exit code 1 .*\n(    .*\n)*    .*TrainingError: the run diverged", told
    )
    assert len(ended(tmp_path)) == len(specs) - 6
    # Room made and the rate lowered, the study goes on from there.
    assert len(run(specs, tmp_path)) == len(specs)
    assert len(ended(tmp_path)) == len(specs)


def test_a_run_that_ends_without_done_json_has_failed(tiny_grid, tmp_path):
    with pytest.raises(StudyError, match=r"left no done\.json[\s\S]*all is well"):
        run(tiny_grid.specs()[:1], tmp_path, "forget_to_finish")


def test_two_studies_in_one_folder_share_the_work_and_do_no_run_twice(tmp_path):
    specs = make_tiny_grid().specs()
    two = [start_study(tmp_path), start_study(tmp_path)]
    errors = [process.communicate(timeout=60)[1] for process in two]
    assert [process.returncode for process in two] == [0, 0], errors
    assert sorted(begun(tmp_path)) == sorted(ended(tmp_path)) == sorted(spec.run_id for spec in specs)
    journal = fake_runs.read_journal(tmp_path)
    parents = {run_id: parent for word, run_id, _, parent in journal if word == "begin"}
    assert len(set(parents.values())) == 2  # both took part
    assert not list(tmp_path.glob("runs/*/lease.json"))


def test_what_a_killed_study_held_is_taken_over_by_the_one_beside_it(tmp_path):
    specs = make_tiny_grid().specs()
    one, two = start_study(tmp_path), start_study(tmp_path)
    wait_until(lambda: len(ended(tmp_path)) >= 2)
    one.kill()
    one.communicate()
    two.communicate(timeout=60)
    assert two.returncode == 0
    assert set(ended(tmp_path)) == {spec.run_id for spec in specs}


def test_a_base_that_was_deleted_is_named_and_the_rest_goes_on(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    trunk_and_bases = specs[:3]
    run(trunk_and_bases, tmp_path)
    (next((tmp_path / "runs" / specs[1].run_id).glob("checkpoint-*")) / COMPLETE).unlink()
    with pytest.raises(StudyError, match=f"(?s)1 of 12 runs.*2 more start.*Delete .*{specs[1].run_id}"):
        run(specs, tmp_path)
    assert len(ended(tmp_path)) == len(specs) - 3


def test_runs_that_start_from_each_other_are_refused(tiny_grid, tmp_path, monkeypatch):
    one, two = tiny_grid.specs()[:2]
    monkeypatch.setattr(RunSpec, "run_id", property(lambda spec: f"run{spec.tokens}"))
    ring = [
        replace(one, model=None, start=f"run{two.tokens}/checkpoint-1"),
        replace(two, start=f"run{one.tokens}/checkpoint-1"),
    ]
    with pytest.raises(StudyError, match="circle"):
        Queue(ring, tmp_path)


@pytest.mark.parametrize("name", ["tests.study.fake_runs", "no_such_module:run_one", ""])
def test_a_function_that_does_not_exist_is_refused_before_anything_starts(tiny_grid, tmp_path, name):
    with pytest.raises(StudyError, match=r"package\.module:function"):
        run_study(tiny_grid.specs(), tmp_path, name, preload=())


def test_points_are_exported_with_the_same_model_from_scratch_beside_them(tiny_grid, tmp_path):
    points = run(tiny_grid.specs(), tmp_path)
    files = {name: read_points(tmp_path / "points" / f"{name}.jsonl") for name in ("continue", "scratch")}
    assert not any(file.problems for file in files.values())
    rows = files["continue"].points
    assert {(p.method, p.domain) for p in rows} == {("continue", "code"), ("scratch", "code")}
    assert {(p.method, p.domain) for p in files["scratch"].points} == {("scratch", "docs")}
    assert sorted(p.run_id for file in files.values() for p in file.points) == sorted(p.run_id for p in points)


def test_a_larger_model_from_scratch_stands_beside_the_grown_ones_only(tmp_path):
    from hf_bootstrap.records import ScalingPoint

    def point(method, size, domain="docs"):
        name = f"{method}-{size}-{domain}"
        return ScalingPoint(run_id=name, method=method, tokens=10, loss=1.0, domain=domain, n_params_non_embedding=size)

    rows = [point("scratch", 1), point("scratch", 2), point("stack", 2), point("continue", 1, "code")]
    export_points(rows, tmp_path)
    found = {p.stem: [row.run_id for row in read_points(p).points] for p in (tmp_path / "points").iterdir()}
    assert found == {
        "stack": ["stack-2-docs", "scratch-2-docs"],
        "continue": ["continue-1-code"],
        "scratch": ["scratch-1-docs"],
    }


def test_killed_at_random_moments_the_study_completes_with_no_run_done_twice_and_no_orphan(tmp_path):

    specs = make_tiny_grid().specs()
    moments = random.Random(0)
    for _ in range(6):
        before, process = len(begun(tmp_path)), start_study(tmp_path)
        wait_until(lambda n=before, p=process: len(begun(tmp_path)) > n or p.poll() is not None)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        wait_until(lambda: not alive(tmp_path), seconds=5.0)
    points = run(specs, tmp_path)
    assert len(begun(tmp_path)) > len(specs)  # some kills came in the middle of a run
    assert not [run_id for word, run_id, *_ in fake_runs.read_journal(tmp_path) if word == "again"]
    assert set(begun(tmp_path)) == {spec.run_id for spec in specs}
    assert [point.loss for point in points] == [fake_runs.loss_of(spec) for spec in specs]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_runs_and_says_how_to_go_on(tmp_path, number):
    process = start_study(tmp_path)
    wait_until(lambda: ended(tmp_path))
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "runs finished" in errors
    assert "Start the study again" in errors
    # A run that was being started when the signal came dies with its parent, a moment later.
    wait_until(lambda: not alive(tmp_path), seconds=5.0)
    assert not list(tmp_path.glob("runs/*/lease.json"))


def test_an_undisturbed_study_tells_its_progress_to_the_end(tiny_grid, tmp_path):
    seen = []
    run_study(tiny_grid.specs(), tmp_path, "tests.study.fake_runs:run_one", preload=(), on_progress=seen.append)
    shares = [now.share for now in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert (seen[-1].runs_done, seen[-1].runs) == (len(tiny_grid.specs()),) * 2
    assert max(len(now.running) for now in seen) == 2


def test_without_a_terminal_progress_is_a_line_per_tenth():
    lines = []
    show = _TenthByTenth(lines.append)
    for count in range(101):
        show(Progress(runs_done=count // 10, runs=10, share=count / 100, seconds_left=100.0 - count))
    assert len(lines) == 10
    assert lines[3] == "40%, 4 of 10 runs, 1 min 00 s left"


def test_a_run_folder_of_another_spec_is_not_taken_over(tiny_grid, tmp_path):
    one, two = tiny_grid.specs()[:2]
    folder = RunFolder.create(tmp_path, one)
    folder.path.rename(tmp_path / "runs" / two.run_id)
    with pytest.raises(StoreError, match="named by its content"):
        run([two], tmp_path)


def test_ctrl_c_while_the_server_loads_leaves_it_alone(tmp_path):
    (tmp_path / "slow_to_load.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(1.5)\n")
    script = (
        "import signal, time\n"
        "from hf_bootstrap.study.launch import Window\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with Window('slow_to_load:nothing', workers=1, preload=()):\n"
        "    time.sleep(3)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert process.stdout.readline() == "loading\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == ""
