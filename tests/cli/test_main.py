"""The command line: help people can read, errors without tracebacks, exit codes."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hf_bootstrap.cli import main as cli
from hf_bootstrap.cli.main import app
from hf_bootstrap.errors import StudyError

COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands)


def run(*arguments):
    return CliRunner().invoke(app, arguments, terminal_width=100)


def test_the_commands_are_those_the_documentation_speaks_of():
    assert COMMANDS == [
        "compare", "decide", "demo", "env", "fit", "grow", "plan", "predict", "publish", "pull", "run", "verify"
    ]  # fmt: skip


def test_version_is_that_of_the_package():
    from hf_bootstrap import __version__

    assert run("--version").output.split() == ["hf-bootstrap", __version__]


def test_env_names_what_a_bug_report_needs():
    facts = json.loads(run("env", "--json").output)
    assert {"python", "torch", "transformers", "hf_bootstrap", "gpu"} <= set(facts)
    assert facts["flash-attn"] is None or isinstance(facts["flash-attn"], str)
    assert "not installed" in run("env").output or facts["flash-attn"]


def test_our_errors_end_a_command_with_a_sentence_and_code_1(monkeypatch, capsys):
    def fail(**_):
        raise StudyError("run x failed. Look at its log.")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "Error: run x failed. Look at its log.\n"


@pytest.mark.parametrize(
    ("told", "shown"),
    [((), "Run the same command again to go on"), (("3 of 70 runs finished. Start again.",), "3 of 70 runs finished")],
)
def test_a_stopped_command_ends_with_code_130_and_says_how_to_go_on(told, shown, monkeypatch, tmp_path):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt(*told)

    monkeypatch.setattr("hf_bootstrap.demo.run_demo", stopped)
    result = run("demo", "--out", str(tmp_path))
    assert result.exit_code == 130
    assert shown in result.output


def test_a_missing_file_is_one_sentence_not_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hf_bootstrap.cli.main", "fit", str(tmp_path / "none.jsonl")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
