import json
import os
import time
from dataclasses import replace

import pytest

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import StudyError
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import RunFolder, read_points, write_json
from hf_bootstrap.study import leases
from hf_bootstrap.study.leases import LEASE, Leases
from hf_bootstrap.study.mixtures import mixed_releases, mixed_text
from hf_bootstrap.study.points import best_rates, gather_points, study_points, write_points
from hf_bootstrap.study.runs import note_runs
from hf_bootstrap.study.status import read_status

from .test_run import run


def point(run_id, lr, loss, seed=0, tokens=100, **more):
    return ScalingPoint(
        run_id=run_id, peak_lr=lr, loss=loss, seed=seed, tokens=tokens, base_tokens=10, method="continue", **more
    )


def test_the_best_rate_is_that_of_all_seeds_together():
    rows = [
        point("a", 1e-3, 2.0, seed=0),
        point("b", 1e-3, 2.4, seed=1),
        point("c", 2e-3, 2.1, seed=0),
        point("d", 2e-3, 2.2, seed=1),
        point("e", 4e-3, 1.0, seed=0),  # one seed alone is no rate for the cell
    ]
    kept, left = best_rates(rows)
    assert [p.run_id for p in kept] == ["c", "d"]
    assert [p.run_id for p in left] == ["a", "b", "e"]


def test_cells_choose_for_themselves_and_points_on_the_way_follow_their_stage():
    rows = [
        point("a", 1e-3, 2.0, tokens=100),
        point("b", 2e-3, 2.1, tokens=100),
        point("c", 1e-3, 1.9, tokens=200),
        point("d", 2e-3, 1.8, tokens=200),
        point("s", 1e-3, 5.0, tokens=0, phase="stable"),
        point("t", 4e-3, 5.0, tokens=0, phase="stable"),
    ]
    assert [p.run_id for p in best_rates(rows)[0]] == ["a", "d", "s"]


def test_with_one_rate_nothing_is_left_out(demo_points):
    assert best_rates(demo_points) == (demo_points, [])


def test_points_are_gathered_and_written_as_lines_and_as_parquet_that_a_law_reads(demo_points, tmp_path):
    write_points(demo_points, tmp_path / "all.jsonl")
    write_points(demo_points, tmp_path / "all.parquet")
    assert read_points(tmp_path / "all.jsonl").points == demo_points
    laws = [
        ScalingLaw("bootstrap").fit(tmp_path / f"all.{end}", where={"method": "stack"}) for end in ("jsonl", "parquet")
    ]
    assert laws[0].params_ == pytest.approx(laws[1].params_)


@pytest.mark.parametrize(("name", "message"), [("x.csv", "jsonl or .parquet"), ("x", "ends in ''")])
def test_another_ending_is_refused(demo_points, tmp_path, name, message):
    with pytest.raises(StudyError, match=message):
        write_points(demo_points, tmp_path / name)


def test_no_points_are_no_file(tmp_path):
    with pytest.raises(StudyError, match="no points yet"):
        write_points(gather_points(tmp_path), tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_points_of_runs_that_are_none_of_the_study_any_more_are_left_out_and_named(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    run(specs[:2], tmp_path)
    assert study_points(tmp_path) == (gather_points(tmp_path), [])  # prepared by no study file
    note_runs(tmp_path, "tiny", specs[:1])
    found, (left_out,) = study_points(tmp_path)
    assert {point.run_id for point in found} == {specs[0].run_id}
    assert left_out.startswith("Left out: 1 done runs")
    assert specs[1].run_id in left_out
    note_runs(tmp_path, "tiny", specs)
    _, (missing,) = study_points(tmp_path)
    assert f"Not complete: {len(specs) - 2} of the study's {len(specs)} runs are not done" in missing
    note_runs(tmp_path, "tiny", specs[5:])
    with pytest.raises(StudyError, match=r"no points yet: .* 2 of an older file or text are"):
        study_points(tmp_path)


def test_texts_that_are_mixed_are_named_and_what_a_study_varies_is_not():
    hashes = {"data": "d" * 64, "eval_set": "e" * 64, "eval_set/code": "c" * 64, "tokenizer": "t" * 64}
    here = point("a", 1e-3, 2.0, domain="docs", hashes=hashes, versions={"torch": "1", "python": "3"})
    by_design = [
        replace(here, seed=1, hashes={**hashes, "data": "x"}),
        replace(here, replay_ratio=0.1, hashes={**hashes, "data": "y"}),
        replace(here, domain="code", hashes={**hashes, "eval_set": "c" * 64, "data": "z", "eval_set/code": "c" * 64}),
    ]
    assert mixed_text([here, *by_design]) == []
    for name, words in {
        "data": "the training text of docs, seed 0",
        "eval_set": "the held-out text of docs",
        "eval_set/code": "the held-out text of code",
        "tokenizer": "the tokenizer",
    }.items():
        other = replace(here, hashes={**hashes, name: "0" * 64})
        assert mixed_text([here, other]) == [f"Mixed: {words} is 000000000000 and {hashes[name][:12]}."]
    assert mixed_releases([here, replace(here, versions={"torch": "2", "python": "3"})]) == {"torch": ("1", "2")}


def test_the_status_is_what_the_files_say(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    run(specs[:3], tmp_path)
    RunFolder.create(tmp_path, specs[3])
    (tmp_path / "runs" / specs[3].run_id / "log.txt").write_text("one\nthe last words\n")
    RunFolder.create(tmp_path, specs[4])
    other = Leases(tmp_path)
    assert other.take(specs[4].run_id)
    RunFolder.create(tmp_path, specs[5])  # as `study emit` leaves it: nobody took it yet
    found = read_status(specs, tmp_path)
    assert found.counts == {"done": 3, "stopped": 1, "running": 1, "waiting": 7}
    assert [r.state for r in found.runs[:6]] == ["done", "done", "done", "stopped", "running", "waiting"]
    assert found.runs[0].loss == pytest.approx(gather_points(tmp_path, {specs[0].run_id})[0].loss)
    assert "the last words" in found.runs[3].log_end
    assert f"process {os.getpid()}" in found.runs[4].holder
    assert json.loads(json.dumps(found.to_dict()))["counts"]["waiting"] == 7
    assert found.strangers == ()


def test_runs_of_an_older_file_and_mixed_releases_are_named(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    run(specs[:2], tmp_path)
    file = tmp_path / "runs" / specs[1].run_id / "points.jsonl"
    (one,) = read_points(file).points
    for spec, release in ((specs[0], "2.12"), (specs[1], "2.13")):
        write_points(
            [replace(one, run_id=spec.run_id, versions={"torch": release})],
            tmp_path / "runs" / spec.run_id / "points.jsonl",
        )
    assert read_status(specs, tmp_path).versions == {"torch": ("2.12", "2.13")}
    other = replace(tiny_grid, peak_lr=1e-3).specs()
    found = read_status(other, tmp_path)
    assert set(found.strangers) == {spec.run_id for spec in specs[:2]}
    assert found.counts == {"waiting": 12}


class TestLeases:
    def test_one_holds_what_another_may_not_take_until_it_is_released(self, tmp_path):
        one, two = Leases(tmp_path), Leases(tmp_path)
        assert one.take("run")
        assert not two.take("run")
        assert two.holder("run") is not None
        assert one.holder("run") is None
        one.release(["run"])
        assert two.take("run")

    def test_a_run_that_is_done_is_not_taken(self, tmp_path):
        write_json(tmp_path / "runs" / "run" / "done.json", {})
        assert not Leases(tmp_path).take("run")

    @pytest.mark.parametrize(
        ("change", "is_free"),
        [
            ({"pid": 2**22 + 1}, True),  # no such process here
            ({"born": "1"}, True),  # another process has its number now
            ({"host": "elsewhere/1"}, False),
            ({"host": "elsewhere/1", "until": 0.0}, True),
            ({"until": 0.0}, False),  # it lives: its own clock does not matter
        ],
    )
    def test_a_lease_ends_with_its_holder_here_and_with_its_time_elsewhere(self, tmp_path, change, is_free):
        Leases(tmp_path).take("run")
        path = tmp_path / "runs" / "run" / LEASE
        write_json(path, {**json.loads(path.read_text()), **change})
        assert Leases(tmp_path).take("run") is is_free

    def test_what_is_held_is_renewed_and_what_another_took_is_told(self, tmp_path, monkeypatch):
        clock = time.monotonic()
        monkeypatch.setattr(leases.time, "monotonic", lambda: clock)
        one = Leases(tmp_path, seconds=30.0)
        one.take("mine")
        one.take("lost")
        path = tmp_path / "runs" / "lost" / LEASE
        write_json(path, {**json.loads(path.read_text()), "key": "another"})
        before = json.loads((tmp_path / "runs" / "mine" / LEASE).read_text())["until"]
        assert one.renew() == set()  # too early
        clock += 15.0
        assert one.renew() == {"lost"}
        assert one.held == {"mine"}
        assert json.loads((tmp_path / "runs" / "mine" / LEASE).read_text())["until"] > before
        one.release(["lost"])
        assert path.exists()

    def test_a_lease_that_is_no_lease_holds_nothing(self, tmp_path):
        (tmp_path / "runs" / "run").mkdir(parents=True)
        (tmp_path / "runs" / "run" / LEASE).write_text("{")
        assert Leases(tmp_path).take("run")
