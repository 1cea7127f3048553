"""A study goes on from points alone: of runs done elsewhere, only those are done again that a missing one needs."""

import json
from dataclasses import replace

import pytest

from hf_bootstrap.errors import StudyError
from hf_bootstrap.store import read_points
from hf_bootstrap.study.adopt import adopt_runs
from hf_bootstrap.study.points import gather_points, write_points
from hf_bootstrap.study.runs import known_runs

from .conftest import CODE, make_tiny_grid
from .fake_runs import read_journal
from .test_run import begun, run


@pytest.fixture
def elsewhere(tiny_grid, tmp_path):
    """A study that was done on another machine, and the file of its points."""
    specs = tiny_grid.specs()
    run(specs, tmp_path / "elsewhere")
    write_points(gather_points(tmp_path / "elsewhere"), tmp_path / "points.jsonl")
    return specs, tmp_path / "points.jsonl"


def test_with_all_points_nothing_is_trained_and_the_points_are_the_same(elsewhere, tmp_path):
    specs, points = elsewhere
    taken = adopt_runs(specs, tmp_path / "here", points)
    assert taken == [spec.run_id for spec in specs]
    run(specs, tmp_path / "here")
    assert read_journal(tmp_path / "here") == []
    assert gather_points(tmp_path / "here") == gather_points(tmp_path / "elsewhere")
    done = json.loads((tmp_path / "here" / "runs" / specs[0].run_id / "done.json").read_text())
    assert len(done["taken_from"]) == 64
    assert adopt_runs(specs, tmp_path / "here", points) == []
    assert {spec.run_id for spec in make_tiny_grid().specs(known_runs(tmp_path / "here"))} == set(taken)


@pytest.mark.parametrize(
    "missing", [run if run in (0, 5, 10) else pytest.param(run, marks=pytest.mark.slow) for run in range(11)]
)
def test_a_missing_run_is_trained_with_what_it_starts_from_and_nothing_else(elsewhere, tmp_path, missing):
    specs, points = elsewhere
    lost = specs[missing]
    lines = [line for line in points.read_text().splitlines() if json.loads(line)["run_id"] != lost.run_id]
    points.write_text("\n".join(lines) + "\n")
    adopt_runs(specs, tmp_path / "here", points)
    run(specs, tmp_path / "here")
    needed, start = {lost.run_id}, lost.start
    while start:
        writer = next(spec for spec in specs if spec.run_id == start.partition("/")[0])
        needed.add(writer.run_id)
        start = writer.start
    assert set(begun(tmp_path / "here")) == needed
    assert gather_points(tmp_path / "here") == gather_points(tmp_path / "elsewhere")


def test_a_trunk_that_is_a_base_itself_is_trained_again(tmp_path):
    grid = make_tiny_grid()
    method = replace(grid.methods[0], name="undecayed", corpus=CODE, base_decayed=False)
    specs = replace(grid, methods=(method,)).specs()
    run(specs, tmp_path / "elsewhere")
    write_points(gather_points(tmp_path / "elsewhere"), tmp_path / "points.jsonl")
    left = {spec.run_id for spec in specs} - set(adopt_runs(specs, tmp_path / "here", tmp_path / "points.jsonl"))
    assert left == {specs[0].run_id}
    again = replace(grid, methods=(method,)).specs(known_runs(tmp_path / "here"))
    run(again, tmp_path / "here")
    assert begun(tmp_path / "here") == [specs[0].run_id]


def test_a_run_that_was_not_measured_to_its_end_is_trained(elsewhere, tmp_path):
    specs, points = elsewhere
    halves = [replace(point, tokens=point.tokens // 2, phase="stable") for point in read_points(points).points]
    write_points(halves, points)
    assert adopt_runs(specs, tmp_path / "here", points) == []


def test_a_damaged_file_is_refused_before_anything_is_written(elsewhere, tmp_path):
    specs, points = elsewhere
    points.write_text(points.read_text().replace('"seed":0', '"seed":1', 1))
    with pytest.raises(StudyError, match=r"line 1: .* Restore the file"):
        adopt_runs(specs, tmp_path / "here", points)
    assert not (tmp_path / "here").exists()
