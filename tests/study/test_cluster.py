"""Runs as jobs: submitit's local executor, and its Slurm arrays with a `sbatch` of our own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hf_bootstrap.errors import StudyError
from hf_bootstrap.store import RunFolder
from hf_bootstrap.study.cluster import JobWindow, RunJob
from hf_bootstrap.study.run import run_study
from hf_bootstrap.study.status import read_status

from .conftest import make_tiny_grid
from .fake_runs import fake_run_command, loss_of
from .fake_slurm import ROOT
from .test_run import alive, begun, ended, lives, wait_until


def test_a_study_runs_as_jobs_of_submitit(tiny_grid, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    specs = tiny_grid.specs()[:5]
    window = JobWindow(tmp_path, fake_run_command(), workers=2, executor="local", options={"timeout_min": 5})
    points = run_study(specs, tmp_path, "", window=window, on_progress=lambda now: None)
    assert [point.loss for point in points] == [loss_of(spec) for spec in specs]
    assert sorted(begun(tmp_path)) == sorted(ended(tmp_path)) == sorted(spec.run_id for spec in specs)


def test_a_study_runs_as_slurm_arrays_of_submitit(tiny_grid, tmp_path, fake_slurm):
    study, specs = tmp_path / "study", tiny_grid.specs()[:6]
    window = JobWindow(study, fake_run_command(), workers=4, executor="slurm", options={"slurm_partition": "gpu"})
    points = run_study(specs, study, "", window=window, on_progress=lambda now: None)
    assert [point.loss for point in points] == [loss_of(spec) for spec in specs]
    assert Counter(ended(study)) == Counter(spec.run_id for spec in specs)
    scripts = [file.read_text() for file in fake_slurm.iterdir()]
    assert len(scripts) < len(specs)  # several runs went in one array
    assert any("#SBATCH --array=0-" in script for script in scripts)
    assert all("--partition=gpu" in script for script in scripts)


def test_never_more_jobs_than_asked_for(tiny_grid, tmp_path):
    window = JobWindow(tmp_path, ["true"], workers=2, executor="local")
    folders = [RunFolder.create(tmp_path, spec) for spec in tiny_grid.specs()[:2]]
    window.start(folders[0])
    assert not window.is_full
    window.start(folders[1])
    assert window.is_full


def test_a_job_that_fails_is_named_with_the_end_of_its_log(tiny_grid, tmp_path):
    specs = tiny_grid.specs()[:1]
    command = ["bash", "-c", "echo no GPU was found; exit 3"]
    window = JobWindow(tmp_path, command, workers=1, executor="local", options={"timeout_min": 5})
    with pytest.raises(StudyError, match=r"(?s)failed once.*was job \d+.*no GPU was found"):
        run_study(specs, tmp_path, "", window=window, retries=0, on_progress=lambda now: None)


def test_a_second_job_for_a_run_finds_it_done(tiny_grid, tmp_path):
    folder = RunFolder.create(tmp_path, tiny_grid.specs()[0])
    job = RunJob(folder.path, [*fake_run_command(), str(folder.path)])
    job()
    job()
    assert len(begun(tmp_path)) == 1


def test_a_preempted_job_asks_for_the_same_again(tiny_grid, tmp_path):
    folder = RunFolder.create(tmp_path, tiny_grid.specs()[0])
    job = RunJob(folder.path, ["true"])
    again = job.checkpoint()
    assert again.function is job


def processes_of(*words):
    """Processes whose command line holds all the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if all(word in path.read_text() for word in words):
                found.append(int(path.parent.name))
    return found


class Preempt:
    """Sends a job the signal that submitit's jobs get before they are ended, once, when its run has a checkpoint."""

    def __init__(self, study):
        self.study, self.sent, self.deadline = study, False, time.monotonic() + 90

    def __call__(self, now):
        assert time.monotonic() < self.deadline, "the study takes too long"
        if not self.sent and list(self.study.glob("runs/*/checkpoint-*/complete.json")):
            (job,) = processes_of("submitit.core._submit", str(self.study))
            os.kill(job, signal.SIGUSR2)
            self.sent = True


def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(tiny_grid, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_STEP", "0.1")
    trunk = tiny_grid.specs()[:1]
    # As `accelerate launch` does, it starts the run and passes no signal on.
    launcher = [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"]
    window = JobWindow(
        tmp_path, [*launcher, *fake_run_command()], workers=1, executor="local", options={"timeout_min": 1}
    )
    preempt = Preempt(tmp_path)
    points = run_study(trunk, tmp_path, "", window=window, retries=0, on_progress=preempt)
    assert [point.loss for point in points] == [loss_of(trunk[0])]
    assert len(begun(tmp_path)) == 2  # the second time from the checkpoint
    assert len(ended(tmp_path)) == 1
    assert not alive(tmp_path)
    (log,) = (tmp_path / "jobs").glob("*_log.out")  # of one job
    assert "Requeued job" in log.read_text()


STUDY_OF_JOBS = """
import sys
from tests.study.test_cluster import carry_out
if __name__ == "__main__":
    carry_out(*sys.argv[1:])
"""


def few_runs():
    """Two from scratch, and one that starts from the first of them."""
    specs = make_tiny_grid().specs()
    return [*(spec for spec in specs if spec.model), specs[1]]


def carry_out(study, executor):
    """A study of fake runs, as jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it
    window = JobWindow(study, fake_run_command(), workers=4, executor=executor)
    return run_study(few_runs(), study, "", window=window, on_progress=lambda now: None)


def interrupt_at_work(study, executor, number):
    """Start the study as a process of its own, interrupt it while jobs work, and give what it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUDY_OF_JOBS, str(study), executor], stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: begun(study))
    process.send_signal(number)
    # Its jobs hold the other end of the pipe, so the end of it is not waited for.
    assert process.wait(30) != 0
    said = ""
    for line in process.stderr:
        said += line
        if "To end" in said:
            break
    process.stderr.close()
    return said


@pytest.mark.parametrize(
    ("executor", "number"), [("slurm", signal.SIGINT), ("local", signal.SIGTERM)], ids=["slurm", "local"]
)
def test_a_study_that_was_interrupted_says_which_jobs_live_on_and_waits_for_them_when_it_goes_on(
    tmp_path, fake_slurm, monkeypatch, executor, number
):
    monkeypatch.setenv("FAKE_STEP", "0.1")
    said = interrupt_at_work(tmp_path, executor, number)
    assert "0 of 3 runs finished" in said
    assert "live on in the cluster" in said
    cancel, ids = re.search(r"To end them: (scancel|kill -INT) ([\d_ ]+)", said).groups()
    assert cancel == {"slurm": "scancel", "local": "kill -INT"}[executor]
    notes = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/job.json")]
    assert sorted(ids.split()) == sorted(note["job_id"] for note in notes)
    assert len(notes) == 2
    assert alive(tmp_path)
    assert not list(tmp_path.glob("runs/*/lease.json"))
    at_work = {run.holder for run in read_status(few_runs(), tmp_path).runs if run.state == "running"}
    assert at_work
    assert at_work <= {f"job {note['job_id']}" for note in notes}
    points = carry_out(tmp_path, executor)
    assert [point.loss for point in points] == [loss_of(spec) for spec in few_runs()]
    assert set(Counter(begun(tmp_path)).values()) == {1}
    assert not list(tmp_path.glob("runs/*/job.json"))
    assert len(list((tmp_path / "jobs").glob("*_submitted.pkl"))) == 3  # no second job for any run


def test_a_job_that_died_while_nobody_looked_is_submitted_again(tiny_grid, tmp_path, fake_slurm):
    (spec,) = specs = tiny_grid.specs()[:1]
    note = RunFolder.create(tmp_path, spec).path / "job.json"
    note.write_text('{"executor": "slurm", "job_id": "77_3"}')
    window = JobWindow(tmp_path, fake_run_command(), workers=1)
    assert len(run_study(specs, tmp_path, "", window=window, on_progress=lambda now: None)) == 1
    assert not note.exists()


def test_a_cluster_that_does_not_answer_gets_no_second_job(tiny_grid, tmp_path, fake_slurm):
    note = RunFolder.create(tmp_path, tiny_grid.specs()[0]).path / "job.json"
    note.write_text('{"executor": "slurm", "job_id": "77"}')
    (fake_slurm.parent / "bin" / "squeue").write_text(
        "#!/bin/sh\necho Unable to contact slurm controller >&2; exit 1\n"
    )
    window = JobWindow(tmp_path, fake_run_command(), workers=1)
    with pytest.raises(StudyError, match=r"Job 77 .*Unable to contact slurm controller.*delete .*job\.json"):
        run_study(tiny_grid.specs()[:1], tmp_path, "", window=window, on_progress=lambda now: None)
    assert not list(fake_slurm.iterdir())


def test_an_unknown_executor_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no executor 'slum'"):
        JobWindow(tmp_path, ["true"], 1, "slum")


def test_what_a_command_left_running_when_it_died_ends_with_its_job(tiny_grid, tmp_path):
    run = RunFolder.create(tmp_path, tiny_grid.specs()[0])
    left = run.path / "left.pid"
    with pytest.raises(StudyError, match="exit code 143"):
        RunJob(run.path, ["bash", "-c", f"sleep 60 & echo $! > {left}; exit 143"])()
    wait_until(lambda: not lives(int(left.read_text())))
