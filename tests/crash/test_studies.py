"""SIGKILL of a study, of its runs, or of both, at random moments: nothing is done twice or lost, nothing lives on."""

import contextlib
import os
import random
import signal
import time

import pytest

from hf_bootstrap.study.leases import Leases
from tests.study import fake_runs
from tests.study.conftest import make_tiny_grid
from tests.study.test_run import alive, begun, ended, run, start_study, wait_until


def kill_at_random(folder, moments, kills):
    """Start the study and kill a part of it, `kills` times; what it kills in turn: itself, its runs, both."""
    for number in range(kills):
        process = start_study(folder)
        seen = len(begun(folder))
        wait_until(lambda p=process, n=seen: len(begun(folder)) > n or p.poll() is not None)
        time.sleep(moments.uniform(0, 0.2))
        runs, which = alive(folder), ("study", "runs", "both")[number % 3]
        if which != "runs":
            process.kill()
        for pid in runs if which != "study" else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if which == "runs":
            # The study goes on without them; it is stopped a moment later.
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
        process.communicate()
        wait_until(lambda: not alive(folder), seconds=10.0)


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_study_ends_as_an_undisturbed_one(tmp_path, kills):
    specs = make_tiny_grid().specs()
    moments = random.Random(kills)
    disturbed = 0
    while disturbed < kills:
        # The work is done after some kills, so a long test takes several studies.
        folder = tmp_path / f"study-{disturbed}"
        folder.mkdir()
        part = min(6, kills - disturbed)
        kill_at_random(folder, moments, part)
        disturbed += part
        points = run(specs, folder)
        assert not [run_id for word, run_id, *_ in fake_runs.read_journal(folder) if word == "again"]
        # A run killed between its last point and its done.json ends again; its point is counted once.
        assert set(ended(folder)) == {spec.run_id for spec in specs}
        assert [point.loss for point in points] == [fake_runs.loss_of(spec) for spec in specs]
        assert [point.run_id for point in points] == [spec.run_id for spec in specs]
        # A lease may be left by a kill; it holds nothing.
        leases = Leases(folder)
        assert not [spec.run_id for spec in specs if leases.holder(spec.run_id)]
        assert not alive(folder)
