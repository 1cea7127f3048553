"""`fit`, `compare`, `predict` and `decide` from a shell."""

import json

import pytest
from typer.testing import CliRunner

from hf_bootstrap import ScalingLaw
from hf_bootstrap.cli.main import app
from hf_bootstrap.errors import LawError, PointError, PredictionError, QuantityError
from hf_bootstrap.laws.points import Points

from .grids import demo_design, measured


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "points.csv"
    text = Points.read(measured(demo_design(), noise=0.003)).to_csv()
    path.write_text(text.replace('"base_tokens","tokens","loss"', '"D1","D2","loss_nats"', 1))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A law of the demo's size, fitted with rows from scratch."""
    folder = tmp_path_factory.mktemp("laws") / "law"
    ScalingLaw().fit(measured(demo_design(), noise=0.003)).save_pretrained(folder)
    return folder


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
    assert (record["objective"], record["delta"], record["unit"]) == ("lsq", 1e-3, "nats per token")
    assert record["stderr"]["alpha"] > 0
    assert record["n_scratch"] == 3
    assert record["saturation"] is None


def test_fit_as_json_says_what_alpha3_means(table):
    record = json.loads(run("fit", table, "--columns", COLUMNS, "--json").output)
    assert set(record["saturation"]) == {"finding", "sentence"}
    assert "alpha3" in record["saturation"]["sentence"]


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


def test_predict_refuses_what_it_cannot_read_or_know(folder):
    asked = ("predict", folder, "--base-tokens", "819200")
    assert isinstance(run(*asked, "--tokens", "3Q").exception, QuantityError)
    assert isinstance(run(*asked, "--tokens", "3T").exception, PredictionError)
    assert run(*asked, "--tokens", "3T", "--extrapolate").exit_code == 0


def test_compare_shows_a_table_or_json(table):
    done = run("compare", table, "--columns", COLUMNS, "--forms", "bootstrap, total_tokens")
    assert done.exit_code == 0, done.output
    assert "bootstrap" in done.output
    record = json.loads(run("compare", table, "--columns", COLUMNS, "--forms", "total_tokens", "--json").output)
    assert [score["form"] for score in record["scores"]] == ["total_tokens"]
    assert isinstance(run("compare", table, "--columns", COLUMNS, "--forms", "bootstap").exception, LawError)


def test_compare_takes_a_table_of_one_stage(tmp_path):
    """As Chinchilla's: N, D and losses, no base."""
    law = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    lines = ["N,D,L"]
    for place, (n, d) in enumerate((n, d) for n in (1e7, 5e7, 2e8, 1e9) for d in (1e9, 3e9, 1e10, 3e10)):
        lines.append(f"{n},{d},{law.predict(n_params=n, tokens=d).value * (1 + 1e-3 * (-1) ** place)}")
    (tmp_path / "one.csv").write_text("\n".join(lines))
    words = ("compare", tmp_path / "one.csv", "--columns", "n_params=N,tokens=D,loss=L")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "chinchilla" in done.output
    assert "largest N" in done.output
    asked = json.loads(run(*words, "--forms", "kaplan,bootstrap", "--json").output)
    assert asked["scores"][0]["largest_n_params_out"] > 0
    assert any("bootstrap is not compared: it reads base_tokens" in note for note in asked["notes"])


QUESTIONS = {
    "crossover": ("--base-tokens", "1M", "--tokens", "300k"),
    "best-split": ("--flops", "1.2e12", "--n-params-base", "100k", "--n-params", "200k"),
    "saturation": (),
    "tokens-for": ("--loss", "3.0", "--base-tokens", "1M"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_decide_answers_as_python_does(folder, question):
    law = ScalingLaw.from_pretrained(folder)
    truth = {
        "crossover": lambda: law.crossover(base_tokens=1e6, tokens=3e5),
        "best-split": lambda: law.best_split(flops=1.2e12, n_params_base=1e5, n_params=2e5),
        "saturation": law.saturation,
        "tokens-for": lambda: law.tokens_for(loss=3.0, base_tokens=1e6),
    }[question]()
    record = json.loads(run("decide", folder, question, *QUESTIONS[question], "--json").output)
    assert record["question"] == question
    assert (record["value"], record["low"], record["high"]) == (truth.value, truth.low, truth.high)
    assert record["notes"] == list(truth.notes)
    text = run("decide", folder, question, *QUESTIONS[question]).output
    assert text.startswith(str(truth).split(". ")[0].rstrip("."))  # then its unit
    assert all(note in text for note in truth.notes)


def test_decide_asks_a_law_of_size_and_another_law(tmp_path, folder):
    ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658).save_pretrained(
        tmp_path / "one"
    )
    found = json.loads(run("decide", tmp_path / "one", "compute-optimal", "--flops", "5.76e23", "--json").output)
    assert found["value"] * found["also"]["tokens"][0] * 6 == pytest.approx(5.76e23)
    ScalingLaw.from_params("total_tokens", A=1e9, alpha=0.1, E=1.71).save_pretrained(tmp_path / "two")
    words = ("decide", folder, "crossover", "--scratch", tmp_path / "two", "--base-tokens", "1M")
    assert json.loads(run(*words, "--json").output)["value"] == "always"
    assert run(*words).output.startswith("always")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("crossover",), "needs --base-tokens"),
        (("saturation", "--flops", "1e20"), "has no use for --flops"),
        (("tokens-for", "--base-tokens", "1M"), "needs --loss"),
        (("guess",), "guess"),
    ],
)
def test_decide_refuses_a_question_it_was_not_asked_properly(folder, words, told):
    done = run("decide", folder, *words)
    assert done.exit_code == 2
    assert told in done.output


def test_compare_is_told_what_n_params_counts(table):
    words = ("compare", table, "--columns", COLUMNS, "--forms", "total_tokens", "--json")
    assert json.loads(run(*words, "--n-params-are", "total").output) == json.loads(run(*words).output)


def test_a_column_named_twice_is_a_usage_error(table):
    assert run("fit", table, "--columns", "tokens=D2,tokens=D1").exit_code == 2


@pytest.mark.parametrize("verb", ["fit", "compare", "predict", "decide"])
def test_help_is_a_page_with_an_example_at_its_end(verb):
    done = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    assert len(done.output.splitlines()) <= 60
    assert lines[-1].startswith(f"Example: hf-bootstrap {verb} ")
    assert done.output.count("Example:") == 1


def test_columns_that_some_forms_read_can_be_given(tmp_path):
    law = ScalingLaw.from_params(
        "data_constrained", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658, R_D=15.0, R_N=5.0
    )
    law.save_pretrained(tmp_path)
    asked = ("predict", tmp_path, "--tokens", "4B", "--n-params", "100M", "--unique-tokens", "1B", "--json")
    assert json.loads(run(*asked).output)["loss"] == law.predict(tokens=4e9, n_params=1e8, unique_tokens=1e9).value
    done = run("decide", tmp_path, "compute-optimal", "--flops", "1e21", "--unique-tokens", "1e9", "--json")
    assert json.loads(done.output)["value"] == law.compute_optimal(flops=1e21, unique_tokens=1e9).value
    assert isinstance(run(*asked, "--mixture-ratio", "0.5").exception, PredictionError)
