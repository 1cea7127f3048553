"""`fit` and `predict` from a shell."""

import json

import pytest
from typer.testing import CliRunner

from hf_bootstrap.cli.main import app
from hf_bootstrap.errors import PointError, PredictionError, QuantityError
from hf_bootstrap.laws.points import Points

from .grids import demo_design, measured


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "points.csv"
    text = Points.read(measured(demo_design(), noise=0.003)).to_csv()
    path.write_text(text.replace("base_tokens,tokens,loss", "D1,D2,loss_nats", 1))
    return path


COLUMNS = "base_tokens=D1,tokens=D2,loss=loss_nats"


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_fit_saves_a_law_that_predict_reads(table, tmp_path):
    done = run("fit", table, "--columns", COLUMNS, "--out", tmp_path / "law")
    assert done.exit_code == 0, done.output
    assert "alpha3" in done.output
    assert "Too few bases" in done.output
    asked = ("predict", tmp_path / "law", "--base-tokens", "819.2k", "--tokens", "2.6e5")
    assert "nats per token (95% interval" in run(*asked).output
    found = json.loads(run(*asked, "--json").output)
    assert found["base_tokens"] == 819_200
    assert found["low"] < found["loss"] < found["high"]


def test_fit_as_json_gives_parameters_intervals_and_warnings(table):
    done = run("fit", table, "--columns", COLUMNS, "--form", "total_tokens", "--objective", "lsq", "--json")
    record = json.loads(done.output)
    assert set(record["params"]) == {"A", "alpha", "E"}
    assert len(record["intervals"]["alpha"]) == 2
    assert record["warnings"]


def test_where_chooses_rows_by_value_and_by_several(table):
    words = ("fit", table, "--columns", COLUMNS, "--form", "total_tokens", "--json")
    assert json.loads(run(*words, "--where", "D2=131072.0", "--where", "D2=262144.0").output)["n_points"] == 10


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--where", "metod=stack"), PointError),
        (("--columns", "tokens=D9"), PointError),
    ],
)
def test_our_errors_reach_the_place_that_prints_them(table, words, error):
    assert isinstance(run("fit", table, *words).exception, error)


def test_a_word_that_is_not_name_and_value_is_a_usage_error(table):
    done = run("fit", table, "--where", "stack")
    assert done.exit_code == 2


def test_predict_refuses_what_it_cannot_read_or_know(table, tmp_path):
    run("fit", table, "--columns", COLUMNS, "--out", tmp_path / "law")
    asked = ("predict", tmp_path / "law", "--base-tokens", "819200")
    assert isinstance(run(*asked, "--tokens", "3Q").exception, QuantityError)
    assert isinstance(run(*asked, "--tokens", "3T").exception, PredictionError)
    assert run(*asked, "--tokens", "3T", "--extrapolate").exit_code == 0
