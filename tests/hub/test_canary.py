"""The login shows nowhere: not in what a command or function prints, raises or writes, nor in its arguments.

Every command of the program is in `COMMANDS`, so a new one has to be put there; the Hub is one that quotes the login in
all it refuses, as servers and proxies do. That the faults of `test_faults` show none is held there by the client.
"""

import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
import yaml

from hf_bootstrap import ScalingLaw
from hf_bootstrap.cli.main import app

from .conftest import ROOT, Client, environment
from .server import TOKEN

DEMO = ROOT / "docs" / "demo"
QUOTES = {"status": 403, "headers": {"X-Error-Message": f"Bearer {TOKEN} may not"}, "body": TOKEN.encode()}
LIGHT = {
    "compare": [f"{DEMO}/continue.jsonl --forms total_tokens"],
    "decide": ["law tokens-for --loss 3 --base-tokens 0", "me/law tokens-for --loss 3 --base-tokens 0"],
    "fit": [f"{DEMO}/continue.jsonl --form total_tokens --out fitted --json", "me/none"],
    "plan": ["config --base-tokens 1B --tokens 10M --method continue", "me/none --base-tokens 1B --tokens 10M"],
    "predict": ["law --base-tokens 500k --tokens 300k", "me/law --base-tokens 500k --tokens 300k"],
    "publish": [
        "law --repo-id me/law", "law --repo-id me/page --space static", f"{DEMO}/stack.jsonl --repo-id me/points",
        "law --repo-id you/law", "law --repo-id me/law --license 5", "nothing --repo-id me/law",
    ],
    "pull": ["me/law --out down", "me/none", "me/law --revision none --out other", "me/points --kind dataset --out p"],
    "run": ["runs/none"],
    "study design": ["study.yaml --law two --budget-flops 1e14 --to larger.yaml"],
    "study points": ["none --to all.jsonl"],
    "study report": ["none"],
    "study status": ["study.yaml --out study", "study.yaml --out study --json"],
}  # fmt: skip
ASKING = ("decide", "plan", "predict", "publish", "pull")  # those that ask the Hub
HEAVY = {
    "demo": ["--out demo"],  # stopped after a while
    "env": ["", "--json"],
    "grow": ["base grown --depth 2", "me/model target --depth 2", "me/none target --depth 2"],
    "study emit": ["study.yaml --out study --format hf-jobs"],
    "study plan": ["study.yaml --out study"],
    "study run": ["study.yaml --out study --workers 1"],
    "verify": ["base grown", "base none"],
}
# What a study that was run leaves, asked once more.
AFTER = {
    "study report": ["study"],
    "study points": ["study --to all.jsonl"],
    "run": ["{run}"],
    "publish": ["grown --repo-id me/grown", "study --repo-id me/study"],
}
COMMANDS = {name: [*LIGHT.get(name, []), *HEAVY.get(name, []), *AFTER.get(name, [])] for name in {**LIGHT, **HEAVY}}
SPELT = {TOKEN.encode(), base64.b64encode(TOKEN.encode())[:-4]}


def test_every_command_is_among_those_that_are_tried():
    def names(group, before=""):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from names(command, f"{before}{name} ")
            else:
                yield before + name

    assert sorted(names(typer.main.get_command(app))) == sorted(COMMANDS)


def world(folder):
    """A folder with something of each kind, and a login in the file that `hf auth login` writes."""
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "token").write_text(TOKEN)
    ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8).save_pretrained(folder / "law")
    two = {"A": 1.37e4, "alpha1": 0.387, "alpha2": 0.655, "alpha3": 0.0247, "E": 1.71}
    ScalingLaw.from_params("bootstrap", **two, A_scratch=368.0, alpha_scratch=0.433).save_pretrained(folder / "two")
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 2}
    (folder / "config").mkdir()
    (folder / "config" / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, "vocab_size": 512}))
    record = yaml.safe_load((ROOT / "hf_bootstrap" / "study" / "demo.yaml").read_text())
    record["bases"][0]["tokens"] = [5120, 10240]
    record["methods"] = [{"name": "continue", "text": "docs", "tokens": [5120], "scratch": "small"}]
    record["training"] |= {"warmup_steps": 2, "rewarm_steps": 1}
    (folder / "study.yaml").write_text(yaml.safe_dump({**record, "held_out_characters": 4000}))


def shown(folder):
    """The files in which the login is spelt, the one where the Hub's own client keeps it left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / "home" / "token")
    return [path for path in files if any(spelt in path.read_bytes() for spelt in SPELT)]


@pytest.fixture(scope="module")
def logged_in(running_hub, tmp_path_factory):
    """A client whose login is in a file."""
    folder = tmp_path_factory.mktemp("logged-in")
    world(folder)
    client = Client(running_hub, folder, token=None)
    client.run(
        f"os.chdir({str(folder)!r})\nimport sys\nfrom hf_bootstrap.laws import publish\npublish._COMPARING = 0.0"
    )
    yield client
    client.close()


@pytest.mark.parametrize(("name", "quoting"), [*((n, False) for n in LIGHT), *((n, True) for n in ASKING)])
def test_no_command_shows_the_login(logged_in, hub, name, quoting):
    hub.create("me/law")
    if not quoting and name in ("decide", "predict", "pull"):
        logged_in.run("from hf_bootstrap import ScalingLaw\nScalingLaw.from_pretrained('law').push_to_hub('me/law')")
    if quoting:
        hub.fail(".*", times=10**6, **QUOTES)
    ends = []
    for words in LIGHT[name]:
        ends.append(
            logged_in.run(
                "from hf_bootstrap.cli.main import main\n"
                f"sys.argv = ['hf-bootstrap', *{[*name.split(), *words.split()]!r}]\n"
                "try:\n    main()\n    result = 0\nexcept SystemExit as end:\n    result = end.code or 0"
            )
        )
        assert TOKEN not in json.dumps(logged_in.answer)
    assert TOKEN not in logged_in.output.read_text()
    assert shown(logged_in.folder) == []
    if not quoting and name not in ("run", "study points", "study report"):
        assert 0 in ends, f"no call of {name} did its work: {logged_in.output.read_text()[-2000:]}"


VERBS = {
    "push_to_hub": "ScalingLaw.from_pretrained('law').push_to_hub('me/law', private=True, create_pr=True)",
    "from_pretrained": "ScalingLaw.from_pretrained('me/law', revision='main')",
    "publish": "publish.publish('law', 'me/law')",
    "publish_points": f"publish.publish_points({{'a.jsonl': Path({str(DEMO / 'stack.jsonl')!r})}}, 'me/points')",
    "push_files": "push_files({'a.safetensors': b'x', 'README.md': b'x'}, 'me/law')",
    "pull_files": "pull_files('me/law')",
    "pull_folder": "pull_folder('me/law', 'there')",
    "grow_checkpoint": "grow_checkpoint('me/model', 'there', GrowthConfig(depth=2))",
    "bootstrap_from_pretrained": "bootstrap_from_pretrained('me/model', GrowthConfig(depth=2))",
    "read_hub_documents": "documents.read_hub_documents('me/points', split='train')",
}
TOLD = """
import traceback
def told(error):
    seen, parts = set(), []
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        parts += [repr(error), str(error), *map(str, getattr(error, "__notes__", ())), repr(getattr(error, "args", ""))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\\n".join(parts)
"""
HEAVY_VERBS = ("grow_checkpoint", "bootstrap_from_pretrained", "read_hub_documents")


@pytest.mark.parametrize("fault", ["refused", "no JSON", "in trouble"])
@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=pytest.mark.slow if verb in HEAVY_VERBS else ()) for verb in VERBS]
)
def test_no_error_of_a_function_shows_the_login(logged_in, hub, verb, fault):
    """Neither it, nor what it says it comes from, nor the traceback of all of them."""
    about = {"refused": QUOTES, "no JSON": {**QUOTES, "status": 200}, "in trouble": {**QUOTES, "status": 500}}[fault]
    hub.create("me/law")
    hub.fail(".*", times=10**6, **about)
    imports = "from hf_bootstrap import ScalingLaw, publish\n"
    if verb in HEAVY_VERBS:
        imports += "from hf_bootstrap import *\nfrom hf_bootstrap.training import documents\n"
    logged_in.run(
        f"{imports}{TOLD}\ntry:\n    {VERBS[verb]}\n    result = None\n"
        "except Exception as error:\n    result = told(error) + traceback.format_exc()"
    )
    assert logged_in.answer["result"], "it did not fail"
    assert TOKEN not in json.dumps(logged_in.answer)
    assert TOKEN not in logged_in.output.read_text()
    assert shown(logged_in.folder) == []


class Arguments(threading.Thread):
    """Looks at the arguments of every process of this machine, again and again."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found, self.looks, self.over = [], 0, threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if TOKEN.encode() in path.read_bytes():
                        self.found.append(path)
                except OSError:
                    continue

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.join()


@pytest.mark.slow
@pytest.mark.parametrize("login", ["a file", "the environment"])
def test_no_command_shows_the_login_at_work(hub, tmp_path, login):
    """Each a process of its own that does what it is for: runs are trained, models grown."""
    from ..growth.models import tiny

    world(tmp_path)
    for name in ("law", "model"):
        hub.create(f"me/{name}")
    tiny("llama").save_pretrained(tmp_path / "base")
    environ = environment(hub, tmp_path / "home", TOKEN if login == "the environment" else None)
    if login == "the environment":
        (tmp_path / "home" / "token").unlink()
    failed = []
    with Arguments() as arguments:
        for cases in (HEAVY, LIGHT, AFTER) if login == "a file" else (LIGHT,):
            for name, calls in sorted(cases.items(), key=lambda case: case[0] != "publish"):  # it fills the Hub
                for words in calls:
                    run = next(iter((tmp_path / "study" / "runs").glob("*")), "none")
                    split = [*name.split(), *words.format(run=run).split()]
                    code, output = called(split, environ, tmp_path, 25 if name == "demo" else 300)
                    assert TOKEN not in output, split
                    assert "Traceback" not in output, split
                    failed += [f"{' '.join(split)}: {output[-300:]}"] if code else []
        assert arguments.looks > 20
    assert arguments.found == []
    assert shown(tmp_path) == []
    meant = ("none", "you/law", "--license 5", "nothing", "me/model", "demo")
    assert [text for text in failed if not any(word in text.partition(":")[0] for word in meant)] == []


def called(words, environ, folder, seconds):
    """Exit code and output of a command; one that takes longer is stopped as by Ctrl-C."""
    import signal

    process = subprocess.Popen(
        [sys.executable, "-m", "hf_bootstrap.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, cwd=folder, start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=seconds)[0]
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        return 130, process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:  # busy in a library that hears no signals
        os.killpg(process.pid, signal.SIGKILL)
        return 130, process.communicate()[0]
