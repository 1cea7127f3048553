"""Laws and what is published beside them: up, down, and the same to the last bit; strangers' laws do no harm."""

import json
import re
import zlib

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from hf_bootstrap import ScalingLaw
from hf_bootstrap.sealing import canonical_json

from .conftest import Failed
from .store import File

# Drawn once: the figures are not what is pushed and fetched here; and forms are compared in one test.
MADE = """
import functools
from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws import law_folder
law_folder._drawn = functools.cache(law_folder._drawn)
law = ScalingLaw(resamples=20).fit('docs/demo/continue.jsonl')
push = functools.partial(law.push_to_hub, compare=False)
"""
FIGURES = {f"figures/{name}.png" for name in ("loss-curves", "residuals", "three-panels")}
LAW = {"law.json", "points.jsonl", "README.md", "planner.html", *FIGURES}


@pytest.fixture(scope="module")
def made(running_client):
    """The law in the client's process."""
    running_client.run(MADE)


def test_a_law_goes_up_in_one_commit_and_comes_back_equal(client, hub, made):
    url = client.run("result = push('me/law', metadata={'license': 'apache-2.0', 'datasets': ['me/points']})")
    repo = hub.repo("me/law")
    assert set(repo.head()) - {".gitattributes"} == LAW
    assert len(repo.history()) == 2
    assert repo.at("main").oid in url
    same = client.run(
        "import numpy as np\n"
        "again = ScalingLaw.from_pretrained('me/law')\n"
        "asked = dict(base_tokens=np.geomspace(2e5, 2e6, 7), tokens=3e5)\n"
        "a, b = law.predict(**asked), again.predict(**asked)\n"
        "equal = [np.array_equal(getattr(a, n), getattr(b, n)) for n in ('value', 'low', 'high', 'reach')]\n"
        "result = [*equal, np.array_equal(law.fitted.theta, again.fitted.theta),\n"
        "          np.array_equal(law.fitted.replicates.theta, again.fitted.replicates.theta),\n"
        "          law.points_.records == again.points_.records]"
    )
    assert same == [True] * 7
    client.run("push('me/law', metadata={'license': 'apache-2.0', 'datasets': ['me/points']})")
    assert len(repo.history()) == 2, "a law that is there already makes no commit"


def test_the_card_is_one_the_hub_reads(client, hub, made):
    client.run("push('me/law', metadata={'license': 'mit', 'base_model': 'me/base', 'tags': ['code']})")
    text = hub.repo("me/law").head()["README.md"].content.decode()
    card = ModelCard(text)
    assert isinstance(card.data, ModelCardData)
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("hf-bootstrap", "mit", "me/base")
    assert card.data.tags == ["scaling-law", "bootstrap-law", "code"]
    assert 'ScalingLaw.from_pretrained("me/law")' in text
    shown = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert shown == FIGURES


def test_the_card_compares_forms_on_the_points_that_are_pushed(client, hub, made):
    client.run(
        "import logging\nfrom hf_bootstrap.laws import publish\n"
        "rivals, publish.default_rivals = publish.default_rivals, lambda points: ('multiplicative', 'total_tokens')\n"
        "publish.push_law(law, 'me/law', say=say)\npublish.default_rivals = rivals"
    )
    text = hub.repo("me/law").head()["README.md"].content.decode()
    rows = re.findall(r"^\| `(\w+)` \| \d", text.split("## Other forms on the same points")[1], re.MULTILINE)
    assert sorted(rows) == ["bootstrap", "multiplicative", "total_tokens"]
    assert client.answer["said"] == ["Comparing 3 forms on the 20 points, for the card: at most about 60 s."]


def test_forms_that_would_take_too_long_are_named(client, hub, made):
    client.run(
        "import time\nfrom hf_bootstrap import compare_forms\n"
        "found = compare_forms(law.points_, ['total_tokens', 'multiplicative'], seconds=0.0)\n"
        "result = [[score.form for score in found.scores], *found.notes]"
    )
    scores, *notes = client.answer["result"]
    assert scores == ["total_tokens"]
    assert "multiplicative is not compared: the 0 s allowed were over." in notes
    client.run(
        "from hf_bootstrap.laws import publish\nmost, publish._MOST_ROWS = publish._MOST_ROWS, 10\n"
        "result = publish.compared(law, say)\npublish._MOST_ROWS = most"
    )
    assert client.answer["result"] is None
    assert "20 points would take more than 60 s" in client.answer["said"][0]


def test_points_stay_at_home_when_asked(client, hub, made):
    client.run("push('me/law')\npush('me/law', points=False)")
    assert set(hub.repo("me/law").head()) - {".gitattributes"} == LAW - {"points.jsonl"}
    assert client.run("result = ScalingLaw.from_pretrained('me/law').points_ is None")


def test_a_law_has_revisions_and_pull_requests(client, hub, made):
    client.run("push('me/law', points=False)\npush('me/law', revision='with-points')")
    url = client.run("result = push('me/law', create_pr=True, private=False)")
    assert url.endswith("/discussions/1")
    read = "result = ScalingLaw.from_pretrained('me/law', revision={!r}).points_ is not None"
    found = [client.run(read.format(name)) for name in (None, "with-points", "refs/pr/1")]
    assert found == [False, True, True]


def test_metadata_the_hub_would_refuse_is_refused_here(client, hub, made):
    with pytest.raises(Failed, match="names things on the Hub"):
        client.run("push('me/law', metadata={'datasets': ['<script>']})")
    assert hub.repos == {}


def test_a_repository_without_a_law_says_so(client, hub, made):
    hub.create("me/other")
    with pytest.raises(Failed, match=r"holds no law\.json"):
        client.run("ScalingLaw.from_pretrained('me/other')")
    with pytest.raises(Failed, match=r"There is no folder me/none here.* Check the name <user>/<repository>"):
        client.run("ScalingLaw.from_pretrained('me/none')")
    with pytest.raises(Failed, match="leave revision out"):
        client.run("ScalingLaw.from_pretrained('.', revision='main')")


def _law():
    return ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)


def _hostile(tmp_path):
    _law().save_pretrained(tmp_path)
    good = (tmp_path / "law.json").read_text()
    deep = "[" * 100_000 + "]" * 100_000
    return {
        "deep": '{"kind": "law", "x": ' + deep + "}",
        "NaN": re.sub(r'"theta": \[[^]]*\]', '"theta": [NaN, 1, 1, 1, 1]', good),
        "another schema": good.replace('"schema": 1', '"schema": 99'),
        "a list": "[]",
        "another form": good.replace('"form": "chinchilla"', '"form": "os.system"'),
        "numbers too large": re.sub(r'"theta": \[[^]]*\]', '"theta": [1e999, 1, 1, 1, 1]', good),
        "no text": "\udc80".encode("utf-8", "surrogateescape"),
        "empty": "",
    }


@pytest.mark.parametrize("kind", ["deep", "NaN", "another schema", "a list", "another form", "numbers too large",
                                  "no text", "empty"])  # fmt: skip
def test_a_strangers_file_that_is_no_law_is_refused(client, hub, made, tmp_path, kind):
    content = _hostile(tmp_path)[kind]
    repo = hub.create("me/evil")
    content = content if isinstance(content, bytes) else content.encode()
    repo.add_commit("main", repo.at("main"), {"law.json": File(content)}, "evil")
    with pytest.raises(Failed) as failed:
        client.run("ScalingLaw.from_pretrained('me/evil')")
    assert failed.value.kind == "LawFileError"


def test_a_huge_law_is_not_even_fetched(client, hub, made, monkeypatch):
    repo = hub.create("me/huge")
    repo.add_commit("main", repo.at("main"), {"law.json": _Huge(b"{}")}, "huge")
    hub.log.clear()
    with pytest.raises(Failed, match="300,000,000 bytes"):
        client.run("ScalingLaw.from_pretrained('me/huge')")
    assert not [request for request in hub.log if "/resolve/" in request]


class _Huge(File):
    def listing(self, path):
        return {**super().listing(path), "size": 300_000_000}


def forge(path, record):
    """Write a law file with a right checksum, as a stranger can."""
    record = {name: value for name, value in record.items() if name != "crc32"}
    path.write_text(json.dumps(record | {"crc32": zlib.crc32(canonical_json(record).encode())}))


EVIL = (
    "x|y `z` <img src=x onerror=alert(1)> [a](javascript:alert(2)) ![b](http://evil/p.png)\n# head\n---\nlicense: mit"
)


def test_names_in_a_strangers_law_become_text_in_our_card(tmp_path):
    law = _law()
    law.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "law.json").read_text())
    forge(tmp_path / "law.json", record | {"warnings": [EVIL]})
    ScalingLaw.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    _, metadata, body = card.split("---\n", 2)
    assert set(yaml.safe_load(metadata)) == {"library_name", "tags"}
    assert "<img" not in card
    assert not re.search(r"(?<!\\)\]\((javascript|http://evil)", body)
    assert "\n# head" not in body
    assert "x\\|y \\`z\\` &lt;img" in body
