"""Runs as jobs: submitit's local executor, a `sbatch` of our own, and the files of other engines."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hf_bootstrap.errors import StudyError
from hf_bootstrap.store import RunFolder
from hf_bootstrap.study.cluster import JobWindow, RunJob
from hf_bootstrap.study.emit import emit_jobs, levels
from hf_bootstrap.study.run import run_study

from .fake_runs import fake_run_command, loss_of, read_journal
from .test_run import alive, begun, ended

ROOT = Path(__file__).parents[2]
# As Slurm's: keeps the script, runs every task of the array at once, and prints a job number.
SBATCH = """#!{python}
import os, re, subprocess, sys
given = sys.argv[-1]
script = open(given).read() if os.path.isfile(given) else sys.stdin.read()
here = os.environ["FAKE_SLURM"]
number = str(len(os.listdir(here)) + 1)
open(os.path.join(here, number), "w").write(" ".join(sys.argv[1:]) + "\\n" + script)
array = re.search(r"--array=(\\d+)-(\\d+)", " ".join(sys.argv) + script)
job = {{**os.environ, "SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}}
for task in range(int(array[1]), int(array[2]) + 1) if array else [None]:
    ids = {{}} if task is None else {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}}
    quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    started = subprocess.Popen(["bash", "-c", script], env={{**job, **ids}}, **quiet)
    # submitit names its files after the number it is about to read, so its jobs begin later.
    started.wait() if given.startswith("-") else None
print(number + ";cluster" if "--parsable" in sys.argv else "Submitted batch job " + number)
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'\n"


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """A PATH with a `sbatch` that works at once and an `accelerate` whose runs are fake."""
    place = tmp_path / "bin"
    place.mkdir()
    (tmp_path / "slurm").mkdir()
    (place / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (place / "srun").write_text(SRUN)
    (place / "sacct").write_text(SACCT)
    command = " ".join(fake_run_command())
    (place / "accelerate").write_text(
        f'#!/bin/bash\ntest "$*" = "launch -m hf_bootstrap.cli run $5" && {command} "$5"\n'
    )
    for file in place.iterdir():
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_STEP", "0")
    return tmp_path / "slurm"


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


def test_an_unknown_executor_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no executor 'slum'"):
        JobWindow(tmp_path, ["true"], 1, "slum")


def test_every_run_is_in_a_later_level_than_the_one_it_starts_from(demo_grid, tmp_path):
    specs = demo_grid.specs()
    found = levels(specs, tmp_path)
    level = {run_id: number for number, layer in enumerate(found) for run_id in layer}
    assert len(level) == 70
    # The trunk and three models from scratch; what branches off them; second stages; their marks.
    assert [len(layer) for layer in found] == [4, 4 + 4 + 3 + 3, 12, 40]
    for spec in specs:
        if spec.start:
            assert level[spec.start.partition("/")[0]] < level[spec.run_id]


def test_the_slurm_script_carries_out_the_whole_study_in_order(tiny_grid, tmp_path, fake_slurm):
    study, specs = tmp_path / "my study", tiny_grid.specs()
    script = emit_jobs("tiny", specs, study, "slurm")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Counter(ended(study)) == Counter(spec.run_id for spec in specs)
    calls = [file.read_text().splitlines()[0] for file in sorted(fake_slurm.iterdir())]
    assert "--dependency" not in calls[0]
    assert all(f"--dependency=afterany:{number}" in call for number, call in enumerate(calls[1:], start=1))
    assert all("--requeue" in call and "%16" in call for call in calls)
    with pytest.raises(StudyError, match="All 12 runs of the study are done"):
        emit_jobs("tiny", specs, study, "slurm")


def test_a_level_larger_than_slurm_takes_is_several_arrays(demo_grid, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_bootstrap.study.emit._ARRAY", 10)
    script = emit_jobs("demo", demo_grid.specs(), tmp_path, "slurm")
    sizes = [int(size) for size in __import__("re").findall(r"--array=0-(\d+)%", script)]
    assert max(sizes) == 9
    assert sum(size + 1 for size in sizes) == 70


def test_what_is_done_is_not_emitted(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    run_study(specs[:1], tmp_path, "tests.study.fake_runs:run_one", preload=(), on_progress=lambda now: None)
    assert specs[0].run_id not in emit_jobs("tiny", specs, tmp_path, "slurm").replace("checkpoint", "")


def test_the_other_formats_name_every_run_once(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    jobs = emit_jobs("tiny", specs, tmp_path, "hf-jobs")
    assert subprocess.run(["bash", "-n", "-c", jobs], check=False).returncode == 0
    tasks = list(yaml.safe_load_all(emit_jobs("tiny", specs, tmp_path, "skypilot")))
    assert tasks[0] == {"name": "tiny"}
    work = "\n".join(task["run"] for task in tasks[1:])
    for spec in specs:
        line = f"accelerate launch -m hf_bootstrap.cli run {tmp_path}/runs/{spec.run_id}"
        assert jobs.count(line) == work.count(line) == 1


def test_a_run_that_fails_on_skypilot_leaves_the_rest_of_its_level_and_fails_the_task(tiny_grid, tmp_path):
    _, level, *_ = yaml.safe_load_all(emit_jobs("tiny", tiny_grid.specs(), tmp_path, "skypilot"))
    assert level["run"].count("accelerate launch") == 2
    (tmp_path / "accelerate").write_text(
        '#!/bin/sh\necho "$5" >> "$(dirname "$0")/tried"\ncase "$5" in *docs*) exit 3; esac\n'
    )
    (tmp_path / "accelerate").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", level["run"]], check=False, env=environment).returncode == 1
    assert len((tmp_path / "tried").read_text().splitlines()) == 2


def test_an_unknown_format_is_refused(tiny_grid, tmp_path):
    with pytest.raises(StudyError, match="Did you mean 'slurm'"):
        emit_jobs("tiny", tiny_grid.specs(), tmp_path, "slrum")
