"""Messages of the library in the words of the command line."""

import inspect

import pytest

from hf_bootstrap.cli import main as cli
from hf_bootstrap.cli.main import app
from hf_bootstrap.cli.wording import OPTIONS, in_options


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Ask nearer, or say extrapolate=True and carry it.", "Ask nearer, or say --extrapolate and carry it."),
        ("The form needs base_tokens=; give it.", "The form needs --base-tokens; give it."),
        ("or give scratch= a law", "or give --scratch a law"),
        ("Name it with columns={'tokens': 'its name'}.", "Name it with --columns tokens='its name'."),
        ("choose with where={'method': 'stack'}.", "choose with --where method=stack."),
        ("with fit(..., n_params_are=...).", "with --n-params-are."),
        ("Did you mean 'bootstrap'? Or pass a Form object.", "Did you mean 'bootstrap'?"),
        ("There is nothing to split. Ask compute_optimal.", "There is nothing to split. Ask compute-optimal."),
    ],
)  # fmt: skip
def test_advice_names_options(python, shell):
    assert in_options(python) == shell


@pytest.mark.parametrize("text", ["left out by where={'D2': ['1', '2']}.", "A=12.3, tokens=5", "resume=False", "a = b"])
def test_what_is_no_advice_stays(text):
    assert in_options(text) == text


def test_every_option_of_the_words_is_one_of_a_command():
    known = {name for command in app.registered_commands for name in inspect.signature(command.callback).parameters}
    assert set(OPTIONS) <= known


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("predict", "{law}", "--tokens", "1e5"), "needs --base-tokens"),
        (("predict", "{law}", "--tokens", "1e5", "--base-tokens", "1e30"), "or say --extrapolate"),
        (("decide", "{law}", "crossover", "--base-tokens", "1M"), "or give --scratch a law"),
        (("fit", "{table}"), "Name it with --columns tokens='its name'"),
        (("fit", "{table}", "--columns", "tokens=D", "--form", "chinchilla"), "choose another form with --form"),
        (("fit", "{table}", "--columns", "tokens=D", "--form", "chinchila"), "Did you mean 'chinchilla'?\n"),
        (("compare", "{table}", "--columns", "tokens=D", "--forms", "chinchilla"), "can support with --forms"),
    ],
)
def test_errors_are_printed_in_those_words(words, told, monkeypatch, capsys, tmp_path):
    from hf_bootstrap import ScalingLaw

    law = ScalingLaw.from_params("bootstrap", A=50.0, alpha1=0.3, alpha2=0.3, alpha3=0.02, E=1.0)
    law.save_pretrained(tmp_path / "law")
    (tmp_path / "table.csv").write_text("D,loss\n1,3.5\n10,3\n100,2.5\n")
    places = {"law": tmp_path / "law", "table": tmp_path / "table.csv"}
    monkeypatch.setattr("sys.argv", ["hf-bootstrap", *(word.format(**places) for word in words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert told in capsys.readouterr().err
