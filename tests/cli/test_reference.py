"""The contract of the command line: its commands, their options, exit codes, and what they must never print."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hf_bootstrap.cli import main as cli
from hf_bootstrap.cli.main import app

ROOT = Path(__file__).parents[2]
REFERENCE = runpy.run_path(str(ROOT / "docs/reference/make_cli.py"))


def every_command(command=None, words=()):
    command = command or get_command(app)
    children = getattr(command, "commands", {})
    if not children:
        yield words, command
    for name, child in children.items():
        yield from every_command(child, (*words, name))


EVERY = list(every_command())
each_command = pytest.mark.parametrize(("words", "command"), EVERY, ids=[" ".join(words) for words, _ in EVERY])


def test_the_page_of_the_reference_is_what_the_commands_say():
    made = REFERENCE["page"]()
    assert REFERENCE["PAGE"].read_text() == made, "run python docs/reference/make_cli.py"


@each_command
def test_help_fits_a_screen_and_ends_with_an_example_of_itself(words, command):
    result = CliRunner().invoke(app, [*words, "--help"], terminal_width=100)
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert result.exit_code == 0
    assert len(lines) <= 60
    end = " ".join(" ".join(lines[-3:]).split())
    assert f"Example: hf-bootstrap {' '.join(words)}" in end


@each_command
def test_an_example_uses_only_options_there_are(words, command):
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in command.epilog.split() if word.startswith("--")}
    assert used <= known


@each_command
def test_every_option_says_what_it_is(words, command):
    for parameter in command.params:
        assert parameter.help, f"{words}: {parameter.name}"


@each_command
def test_what_answers_in_words_answers_in_json_too(words, command):
    assert "--json" in {name for parameter in command.params for name in parameter.opts}


LONG = ["demo", "grow", "run", "fit", "compare", "study run", "study emit", "pull", "publish"]


@pytest.mark.parametrize("words", [words.split() for words in LONG], ids=LONG)
def test_what_takes_long_can_be_quiet(words):
    assert "--quiet" in CliRunner().invoke(app, [*words, "--help"], terminal_width=100).output


@pytest.mark.parametrize(
    ("words", "offered"),
    [(["predct"], "'predict'"), (["study", "plann"], "'plan'"), (["predict", "law", "--tokns", "3"], "--tokens")],
)
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(words, offered):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert offered in result.output


def run_command(*words, **env):
    return subprocess.run(
        [sys.executable, "-m", "hf_bootstrap.cli", *words],
        capture_output=True, text=True, check=False, env={**os.environ, **env},
    )  # fmt: skip


def test_a_shell_can_complete_commands():
    asked = {"_HF_BOOTSTRAP_COMPLETE": "complete_bash", "COMP_WORDS": "hf-bootstrap pr", "COMP_CWORD": "1"}
    assert run_command(**asked).stdout.split() == ["predict"]


def test_env_prints_no_secret(monkeypatch):
    secrets = {
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "HF_ENDPOINT": "https://me:password@hub.example",
        "HF_HOME": "/hidden",
    }
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    shown = CliRunner().invoke(app, ["env", "--json"]).output
    facts = json.loads(shown)
    assert facts["token of the Hub"] == "there"
    assert facts["HF_ENDPOINT"] == "set"
    for secret in (*secrets.values(), "password", str(Path.home())):
        assert secret not in shown


@pytest.mark.parametrize("asked", ["", "1"])
def test_an_unforeseen_error_is_a_sentence_unless_a_traceback_is_asked_for(asked, monkeypatch, capsys):
    def fail(**_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setenv("HF_BOOTSTRAP_TRACEBACK", asked)
    with pytest.raises(ZeroDivisionError if asked else SystemExit):
        cli.main()
    if not asked:
        told = capsys.readouterr().err
        assert told.startswith("Error: ZeroDivisionError: division by zero.")
        assert "hf-bootstrap env" in told


def test_quiet_silences_the_bars_of_libraries_below(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    seen = []
    monkeypatch.setattr(
        "hf_bootstrap.hub.pull.pull_folder",
        lambda *args, **kwargs: seen.append(os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")) or tmp_path,
    )
    assert CliRunner().invoke(app, ["pull", "me/law", "--quiet"]).exit_code == 0
    assert seen == ["1"]
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
