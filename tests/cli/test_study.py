"""`hf-bootstrap study`: what its commands print and write; no run is trained here."""

import json

import pytest
from typer.testing import CliRunner

from hf_bootstrap.cli.main import app
from hf_bootstrap.demo import demo_study
from hf_bootstrap.errors import StudyError
from hf_bootstrap.store import read_points
from hf_bootstrap.study.conduct import planned_runs
from tests.study.conftest import DEMO_FACTS, demo_study_record
from tests.study.test_run import run as carry_out

PARTS = ("plan", "design", "run", "status", "report", "points", "emit")


def ask(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)], terminal_width=100)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(demo_study_record()))  # JSON is YAML
    return path


@pytest.mark.parametrize("part", PARTS)
def test_help_fits_a_screen_and_ends_with_an_example(part):
    lines = ask(part, "--help").output.rstrip().splitlines()
    assert len(lines) <= 60
    assert any(f"Example: hf-bootstrap study {part}" in line for line in lines)


def test_a_plan_is_a_page_or_json(file, tmp_path):
    page = ask("plan", file, "--out", tmp_path, "--tokens-per-second", "30k", "--workers", "2")
    assert page.exit_code == 0, page.output
    assert "70 runs, 0 done" in page.output
    assert "at 30k tokens/s" in page.output
    record = json.loads(ask("plan", file, "--out", tmp_path, "--only", "stack", "--json").output)
    assert set(record["methods"]) == {"scratch", "stack"}
    assert record["weaknesses"][0]["cure"].startswith("Add D2")


def test_a_file_that_is_wrong_is_refused_with_its_place(file):
    file.write_text("nam: x")
    with pytest.raises(StudyError, match=r"study\.yaml: the study has no key 'nam'\. Did you mean 'name'"):
        CliRunner().invoke(app, ["study", "plan", str(file)], catch_exceptions=False)


def test_status_and_points_of_what_is_done(file, tmp_path):
    (tmp_path / "text.json").write_text(json.dumps(DEMO_FACTS))
    _, is_final = planned_runs(demo_study(), tmp_path)
    assert is_final
    record = json.loads(ask("status", file, "--out", tmp_path, "--json").output)
    assert record["counts"] == {"waiting": 70}
    assert record["is_final"]
    table = ask("status", file, "--out", tmp_path).output
    assert "expand-split" in table


def test_points_of_a_study_are_written(tiny_study, tmp_path):
    out = ask("points", tiny_study, "--to", tmp_path / "all.jsonl")
    assert out.exit_code == 0, out.output
    assert "points of 1 runs" in out.output
    assert len(read_points(tmp_path / "all.jsonl").points) == 1


@pytest.mark.parametrize("part", ["report", "points"])
def test_a_folder_that_is_none_of_a_study_is_refused_and_not_made(part, tmp_path):
    with pytest.raises(StudyError, match=r"no points yet: no run of the study in .*nothere is done\. Check the path"):
        CliRunner().invoke(app, ["study", part, str(tmp_path / "nothere")], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_for_another_engine_is_printed_or_told_as_json(file, tmp_path, monkeypatch):
    specs = planned_runs(demo_study(), None)[0]
    monkeypatch.setattr("hf_bootstrap.study.conduct.make_ready", lambda *args, **kwargs: specs)
    words = ("emit", file, "--out", tmp_path / "out", "--format", "skypilot")
    printed = ask(*words).output
    assert printed.count("accelerate launch") >= 1
    told = json.loads(ask(*words, "--json").output)
    assert told == {"format": "skypilot", "folder": str(tmp_path / "out"), "file": printed}


@pytest.fixture
def tiny_study(tmp_path):
    from tests.study.conftest import make_tiny_grid

    folder = tmp_path / "tiny"
    carry_out(make_tiny_grid().specs()[:1], folder)
    return folder
