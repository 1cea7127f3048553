"""The commands: laws, models, points and studies go up with their cards, and no command ever shows the login."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_bootstrap import GrowthConfig, ScalingLaw, grow_checkpoint
from hf_bootstrap.errors import HubError
from hf_bootstrap.growth.card import growth_card
from hf_bootstrap.publish import kind_of_thing

from ..growth.models import tiny
from .conftest import ROOT, environment
from .server import TOKEN

DEMO = ROOT / "docs" / "demo"


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    folder = tmp_path_factory.mktemp("law") / "law"
    ScalingLaw(resamples=20).fit(DEMO / "continue.jsonl").save_pretrained(folder)
    return folder


def answer(client, *words):
    """What a command prints with --json."""
    return json.loads(
        client.run(
            "import contextlib, io, sys\nfrom hf_bootstrap.cli.main import main\n"
            f"sys.argv = ['hf-bootstrap', *{[str(word) for word in words]!r}, '--json']\n"
            "with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):\n    main()\n"
            "result = told.getvalue()"
        )
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown")
    tiny("llama").save_pretrained(folder / "base")
    grow_checkpoint(folder / "base", folder / "grown", GrowthConfig(depth=2))
    return folder / "grown"


def command(client, *words):
    """A command in the client's process, as `main` runs it: its exit code."""
    return client.run(
        "import sys\nfrom hf_bootstrap.cli.main import main\n"
        f"sys.argv = ['hf-bootstrap', *{[str(word) for word in words]!r}]\n"
        "try:\n    main()\n    result = 0\nexcept SystemExit as end:\n    result = end.code or 0"
    )


def test_a_law_goes_up_and_down_by_command(client, hub, law, tmp_path):
    words = ("publish", law, "--repo-id", "me/law", "--license", "mit", "--datasets", "me/points", "--private")
    words += ("--no-compare", "--base-model", "me/base")
    assert command(client, *words) == 0
    repo = hub.repo("me/law")
    assert repo.private
    assert {"law.json", "planner.html", "README.md", "points.jsonl"} <= set(repo.head())
    data = ModelCard(repo.head()["README.md"].content.decode()).data
    assert (data.base_model, data.datasets, data.license) == ("me/base", ["me/points"], "mit")
    assert command(client, *words) == 0
    assert len(repo.history()) == 2
    assert command(client, "pull", "me/law", "--out", tmp_path / "down") == 0
    assert (tmp_path / "down" / "law.json").read_bytes() == (law / "law.json").read_bytes()
    assert (tmp_path / "down" / "points.jsonl").read_bytes() == (law / "points.jsonl").read_bytes()


def test_what_a_push_and_a_pull_did_is_had_as_json(client, hub, law, tmp_path):
    words = ("publish", law, "--repo-id", "me/told", "--no-compare")
    first, again = answer(client, *words), answer(client, *words)
    assert first["changed"]
    assert not again["changed"]
    assert first["commit"] == again["commit"]
    assert first["commit"] in first["url"]
    assert answer(client, "pull", "me/told", "--out", tmp_path / "down") == {"folder": str(tmp_path / "down")}


def test_a_planner_goes_up_as_a_static_space(client, hub, law):
    assert command(client, "publish", law, "--repo-id", "me/planner", "--space", "static") == 0
    repo = hub.repo("me/planner", "space")
    assert repo.sdk == "static"
    metadata = yaml.safe_load(repo.head()["README.md"].content.decode().split("---\n")[1])
    assert (metadata["sdk"], metadata["app_file"]) == ("static", "index.html")
    assert repo.head()["index.html"].content == ScalingLaw.from_pretrained(law).to_html().encode()


def test_a_law_on_the_hub_answers_by_command(client, hub, law):
    """`predict`, `decide` and a model's forecast take user/name where they take a folder."""
    assert command(client, "publish", law, "--repo-id", "me/law", "--no-compare") == 0
    asked = ("--base-tokens", "500k", "--json")
    for words in (("predict", "{}", "--tokens", "300k"), ("decide", "{}", "crossover"),
                  ("decide", "{}", "crossover", "--scratch", "{}")):  # fmt: skip
        told = []
        for place in (law, "me/law"):
            about = ("--revision", "main") if place == "me/law" and "--scratch" not in words else ()
            told.append(printed(client, *(word.format(place) for word in words), *asked, *about))
        assert told[0] == told[1]
        assert json.loads(told[1])
    assert command(client, "predict", "me/lav", "--base-tokens", "1e6", "--tokens", "1e6") == 1
    assert "There is no folder me/lav here" in client.output.read_text().replace("\n", " ")


def test_options_that_nothing_is_made_of_are_refused(client, hub, law):
    assert command(client, "publish", law, "--repo-id", "me/law", "--base-tokens", "1B", "--law", law) == 1
    assert "does not tell base_tokens and law" in client.output.read_text()
    points = DEMO / "continue.jsonl"
    assert command(client, "publish", points, "--repo-id", "me/points", "--base-model", "me/base") == 1
    assert "holds points, whose card does not tell base_model" in client.output.read_text()
    assert command(client, "publish", law, "--repo-id", "me/p", "--space", "static", "--create-pr") == 1
    assert "leave create_pr out" in client.output.read_text()
    assert hub.repos == {}


def printed(client, *words):
    """What a command that ended well wrote to its output."""
    return client.run(
        "import contextlib, io, sys\nfrom hf_bootstrap.cli.main import main\n"
        f"sys.argv = ['hf-bootstrap', *{[str(word) for word in words]!r}]\n"
        "told = io.StringIO()\n"
        "try:\n    with contextlib.redirect_stdout(told):\n        main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "result = told.getvalue()"
    )


def test_a_grown_model_goes_up_with_what_is_known_of_it(client, hub, grown, law):
    words = ("--base-model", "me/base", "--base-tokens", "500k", "--law", law, "--license", "apache-2.0")
    assert command(client, "publish", grown, "--repo-id", "me/grown", *words) == 0
    head = hub.repo("me/grown").head()
    assert {"config.json", "growth.json", "model.safetensors"} <= set(head)
    assert head["model.safetensors"].content == (grown / "model.safetensors").read_bytes()
    text = head["README.md"].content.decode()
    data = ModelCard(text).data
    assert (data.base_model, data.library_name, data.license) == ("me/base", "transformers", "apache-2.0")
    assert data.to_dict()["base_model_relation"] == "finetune"
    record = json.loads((grown / "growth.json").read_text())
    assert record["files"]["model.safetensors"]["sha256"] in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert GrowthConfig.from_dict(recipe) == GrowthConfig(depth=2)
    assert "from a base of 500k tokens" in text
    assert "| every number of the source is finite | yes |" in text


def test_a_card_says_nothing_that_is_not_known(grown):
    text = growth_card(grown)
    assert "base_model" not in text
    assert "license" not in text
    assert "Tokens so far" not in text
    assert "None" not in text


def test_points_become_a_dataset_that_load_dataset_reads(client, hub, tmp_path):
    assert command(client, "publish", DEMO / "continue.jsonl", "--repo-id", "me/points") == 0
    repo = hub.repo("me/points", "dataset")
    sent = repo.head()["data/continue.jsonl"].content.decode().splitlines()
    assert sorted(map(json.loads, sent), key=str) == sorted(
        map(json.loads, (DEMO / "continue.jsonl").read_text().splitlines()), key=str
    )
    rows = client.run(
        "from datasets import load_dataset\n"
        f"rows = load_dataset('me/points', split='train', cache_dir={str(tmp_path / 'cache')!r})\n"
        "result = [[row['run_id'], row['tokens'], row['loss']] for row in rows]"
    )
    expected = [json.loads(line) for line in sent]
    assert rows == [[row["run_id"], row["tokens"], row["loss"]] for row in expected]
    card = repo.head()["README.md"].content.decode()
    assert 'where={"method": "continue"}' in card


def test_points_that_are_there_stay_when_more_are_pushed(client, hub, tmp_path):
    lines = (DEMO / "continue.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a", lines[:12]), ("b", lines[6:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "points.jsonl").write_text("".join(part))
        assert command(client, "publish", tmp_path / name / "points.jsonl", "--repo-id", "me/points") == 0
    assert hub.repo("me/points", "dataset").head()["data/points.jsonl"].content.decode() == "".join(lines)


def test_a_study_goes_up_with_all_its_points_and_its_report(client, hub, tmp_path):
    (tmp_path / "points").mkdir()
    for name in ("continue", "stack"):
        shutil.copy(DEMO / f"{name}.jsonl", tmp_path / "points")
    (tmp_path / "report.html").write_text("<p>report</p>")
    assert command(client, "publish", tmp_path, "--repo-id", "me/study") == 0
    assert set(hub.repo("me/study", "dataset").head()) == {
        ".gitattributes", "README.md", "report.html", "data/continue.jsonl", "data/stack.jsonl",
    }  # fmt: skip


def test_what_is_none_of_these_is_refused(tmp_path):
    with pytest.raises(HubError, match="nothing here to publish"):
        kind_of_thing(tmp_path)


def test_a_damaged_line_is_not_published(client, hub, tmp_path):
    text = (DEMO / "continue.jsonl").read_text()
    (tmp_path / "points.jsonl").write_text(text.replace('"loss":', '"loss":1', 1))
    assert command(client, "publish", tmp_path / "points.jsonl", "--repo-id", "me/points") == 1
    assert hub.repos == {}


def test_the_demos_law_card_is_what_its_folder_holds(client, hub, law):
    client.run(
        "from hf_bootstrap import ScalingLaw\n"
        f"result = ScalingLaw.from_pretrained(Path({str(law)!r})).push_to_hub('me/law', compare=False)"
    )
    text = hub.repo("me/law").head()["README.md"].content.decode()
    for heading in ("Parameters", "Use", "Decisions", "Figures", "Residuals", "Provenance", "Citation"):
        assert f"\n## {heading}\n" in text


LEAKS = {
    "an error that quotes the login": (
        "POST .*/commit/",
        {"status": 403, "headers": {"X-Error-Message": f"bad {TOKEN}"}},
    ),
    "a page that quotes it": ("POST .*/commit/", {"status": 500, "times": 99, "body": f"<p>{TOKEN}</p>".encode()}),
    "a refusal at create": ("POST .*/create$", {"status": 400, "body": json.dumps({"error": f"no {TOKEN}"}).encode()}),
    "a broken head": ("GET /api/", {"status": 200, "times": 99, "body": f'"{TOKEN}"'.encode()}),
    "a dropped line": ("POST .*/commit/", {"drop": True, "times": 99}),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("verb", ["publish", pytest.param("pull", marks=pytest.mark.slow)])
def test_no_command_shows_the_login_whatever_the_hub_answers(hub, tmp_path, verb, leak):
    """In a process of its own: output, errors, arguments and every file that is left."""
    where, about = LEAKS[leak]
    hub.create("me/law", "model" if verb == "pull" else "dataset")
    hub.fail(where.replace("POST .*/commit/", "GET .*/tree/") if verb == "pull" else where, **about)
    words = (
        [DEMO / "stack.jsonl", "--repo-id", "me/law"] if verb == "publish" else ["me/law", "--out", tmp_path / "down"]
    )
    script = "import sys, time\ntime.sleep = lambda s: None\nfrom hf_bootstrap.cli.main import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", script, verb, *map(str, words), "--patience", "20"],
        capture_output=True, text=True, env=environment(hub, tmp_path / "home"), cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert "Traceback" not in done.stderr
