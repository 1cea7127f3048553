"""A job of a cluster that is preempted while it really trains, by way of `accelerate launch`."""

import os
import sys
from pathlib import Path

import pytest

from hf_bootstrap.study.cluster import JobWindow
from hf_bootstrap.study.emit import job_command
from hf_bootstrap.study.run import run_study
from tests.study.test_cluster import Preempt

from .test_training import make_run, measured, write_text

ROOT = Path(__file__).parents[2]


def carry_out(folder, on_progress):
    options = {"timeout_min": 5}
    window = JobWindow(folder.study, job_command("DIR")[:-1], workers=1, executor="local", options=options)
    run_study([folder.spec()], folder.study, "", window=window, retries=0, on_progress=on_progress)


@pytest.mark.slow  # four starts of torch
def test_a_preempted_job_ends_with_the_points_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    write_text(tmp_path)
    undisturbed, preempted = (make_run(tmp_path / name, tmp_path, steps=160) for name in ("undisturbed", "preempted"))
    carry_out(undisturbed, lambda now: None)
    preempt = Preempt(preempted.study)
    carry_out(preempted, preempt)
    assert preempt.sent
    assert measured(preempted) == measured(undisturbed)
    log = (preempted.path / "log.txt").read_text()
    assert log.count("Terminated. Run the same command again") == 1
