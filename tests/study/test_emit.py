"""The files of other engines: read as they read them, and carried out where a fake engine can."""

import os
import re
import signal
import subprocess
from collections import Counter

import pytest
import yaml

from hf_bootstrap.errors import StudyError
from hf_bootstrap.store import RunFolder
from hf_bootstrap.study.emit import emit_jobs, levels
from hf_bootstrap.study.run import run_study

from .fake_runs import loss_of
from .test_run import alive, ended, lives, wait_until


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
    sizes = [int(size) for size in re.findall(r"--array=0-(\d+)%", script)]
    assert max(sizes) == 9
    assert sum(size + 1 for size in sizes) == 70


def test_what_is_done_is_not_emitted(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    run_study(specs[:1], tmp_path, "tests.study.fake_runs:run_one", preload=(), on_progress=lambda now: None)
    assert specs[0].run_id not in emit_jobs("tiny", specs, tmp_path, "slurm").replace("checkpoint", "")


@pytest.mark.parametrize(
    ("number", "requeued"), [(signal.SIGUSR1, ["requeue 1_0"]), (signal.SIGTERM, [])], ids=["out of time", "cancelled"]
)
def test_a_slurm_job_that_is_out_of_time_is_queued_again_and_a_cancelled_one_is_not(
    tiny_grid, tmp_path, fake_slurm, monkeypatch, number, requeued
):
    monkeypatch.setenv("FAKE_STEP", "0.1")
    study, trunk, calls = tmp_path / "study", tiny_grid.specs()[:1], tmp_path / "calls"
    calls.touch()
    (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$*" >> {calls}\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    script = subprocess.Popen(["bash", "-c", emit_jobs("tiny", trunk, study, "slurm")], stdout=subprocess.DEVNULL)
    wait_until(lambda: list(study.glob("runs/*/checkpoint-*/complete.json")))
    job = int((tmp_path / "slurm-pids" / "1_0").read_text())
    os.kill(job, number)
    script.wait(30)
    assert not lives(job)
    assert not alive(study)  # what accelerate started has ended with it
    assert not ended(study)
    assert calls.read_text().splitlines() == requeued
    # Slurm runs the script of a job that was queued again from its beginning.
    text = (fake_slurm / "1").read_text().partition("\n")[2]
    ids = {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "1"}
    again = subprocess.run(["bash", "-c", text], env={**os.environ, **ids}, check=False, timeout=60)
    assert again.returncode == 0
    assert len(ended(study)) == 1
    (point,) = RunFolder(study / "runs" / trunk[0].run_id).points()
    assert point.loss == loss_of(trunk[0])
    assert calls.read_text().splitlines() == requeued


def test_the_gpus_of_a_slurm_job_are_asked_for(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    assert "--gpus" not in emit_jobs("tiny", specs, tmp_path, "slurm").partition("<<'JOB'")[0]
    assert "--gpus-per-node=a100:2 " in emit_jobs("tiny", specs, tmp_path, "slurm", "a100:2").partition("<<'JOB'")[0]


def test_hugging_face_jobs_get_a_flavor_the_folder_and_this_package(tiny_grid, tmp_path):
    study, specs = tmp_path / "my study", tiny_grid.specs()
    (tmp_path / "hf").write_text('#!/bin/sh\nprintf "%s\\0" "$@" END >> "$(dirname "$0")/calls"\n')
    (tmp_path / "hf").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BUCKET": "me/tiny"}
    environment["INSTALL"] = "hf_bootstrap.whl"
    script = emit_jobs("tiny", specs, study, "hf-jobs", "a100-large")
    count = len(levels(specs, study))
    for level in range(count + 1):
        done = subprocess.run(["bash", "-c", script, "file", str(level)], check=False, env=environment)
        assert done.returncode == (2 if level == count else 0)
    fakes = 'pip() { echo pip "$@"; }; accelerate() { echo accelerate "$@"; }; exec() { "$@"; };'
    calls = [call.split("\0")[:-1] for call in (tmp_path / "calls").read_text().split("END\0")[:-1]]
    assert sorted(call[-1] for call in calls) == sorted(f"{study}/runs/{spec.run_id}" for spec in specs)
    for call in calls:
        assert call[:3] == ["jobs", "run", "--detach"]
        given = dict(zip(call[3:9:2], call[4:9:2], strict=True))
        assert given == {
            "--flavor": "a100-large", "--timeout": "24h", "--volume": f"hf://buckets/me/tiny:{study}"
        }  # fmt: skip
        assert call[9:12] == ["python:3.12", "bash", "-c"]
        assert call[-2] == "hf_bootstrap.whl"
        # The job's own command, tried with a pip and an accelerate that only tell what they get.
        said = subprocess.run(
            ["bash", "-c", fakes + call[12], *call[13:]], check=False, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert said.splitlines() == [
            "pip install --quiet hf_bootstrap.whl",
            f"accelerate launch -m hf_bootstrap.cli run {call[-1]}",
        ]


def test_hugging_face_jobs_without_a_bucket_say_what_to_set(tiny_grid, tmp_path):
    script = emit_jobs("tiny", tiny_grid.specs(), tmp_path, "hf-jobs")
    assert "--flavor a10g-small" in script
    environment = {name: value for name, value in os.environ.items() if name != "BUCKET"}
    done = subprocess.run(["bash", "-c", script], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "set BUCKET=you/name" in done.stderr


def test_a_skypilot_task_asks_for_its_gpu_installs_this_package_and_mounts_the_study(tiny_grid, tmp_path):
    study, specs = tmp_path / "my study", tiny_grid.specs()
    head, *tasks = yaml.safe_load_all(emit_jobs("tiny", specs, study, "skypilot", "H100:8"))
    assert head == {"name": "tiny"}
    assert len(tasks) == len(levels(specs, study))
    for number, task in enumerate(tasks):
        assert task["name"] == f"level-{number}"
        assert task["resources"] == {"accelerators": "H100:8", "use_spot": True}
        # SkyPilot refuses to start with a variable that is null and not given.
        assert task["envs"] == {"BUCKET": None, "INSTALL": None}
        assert task["file_mounts"] == {
            str(study): {"name": "${BUCKET}", "source": str(study), "mode": "MOUNT_CACHED"}
        }  # fmt: skip
        assert task["setup"] == 'pip install "$INSTALL"\n'
        assert subprocess.run(["bash", "-n", "-c", task["run"]], check=False).returncode == 0
    work = "\n".join(task["run"] for task in tasks)
    for spec in specs:
        assert work.count(f"accelerate launch -m hf_bootstrap.cli run '{study}/runs/{spec.run_id}'") == 1


@pytest.mark.parametrize(("form", "accelerator"), [("hf-jobs", "A100:1"), ("skypilot", "A100: 1"), ("slurm", "$(id)")])
def test_an_accelerator_that_the_engine_cannot_know_is_refused(tiny_grid, tmp_path, form, accelerator):
    with pytest.raises(StudyError, match=f"{re.escape(repr(accelerator))} is not .* for {form}"):
        emit_jobs("tiny", tiny_grid.specs(), tmp_path, form, accelerator)
    assert not list(tmp_path.iterdir())


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
