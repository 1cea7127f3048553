"""Repositories that mean harm: nothing is written outside the folder, nothing read without end, all refused by name."""

import json
import shutil
import threading

import pytest

from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws import law_folder

from .conftest import ROOT, Client, Failed
from .store import File

NAMES = [
    "../evil", "a/../../evil", "/evil", "a//b", "./a", "a/..", "..", "a\\..\\evil", "C:\\evil", "a\nb", "a\x00b",
    "\u202ea", "x" * 300, ".cache/huggingface/download/x.lock",
]  # fmt: skip


def filled(hub, files, repo_id="me/evil"):
    repo = hub.create(repo_id)
    repo.add_commit("main", repo.at("main"), {name: File(content) for name, content in files.items()}, "evil")
    return repo


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_leave_the_folder_are_refused_before_anything_is_fetched(client, hub, tmp_path, name):
    filled(hub, {name: b"evil", "law.json": b"{}"})
    hub.log.clear()
    with pytest.raises(Failed, match="no name for a file inside a folder") as failed:
        client.run(f"pull_folder('me/evil', {str(tmp_path / 'down')!r})")
    assert failed.value.kind == "HubError"
    assert not [request for request in hub.log if "/resolve/" in request]
    assert list(tmp_path.iterdir()) == []


def test_hidden_files_of_a_repository_come_down_too(client, hub, tmp_path):
    files = {".cache/mine": b"1", ".hidden": b"2", "deep/" * 30 + "x": b"3"}
    filled(hub, files)
    client.run(f"pull_folder('me/evil', {str(tmp_path / 'down')!r})")
    found = {
        str(p.relative_to(tmp_path / "down")): p.read_bytes() for p in (tmp_path / "down").rglob("*") if p.is_file()
    }
    assert found == files


def test_links_laid_in_the_way_are_not_followed(client, hub, tmp_path):
    filled(hub, {"law.json": b"{}"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".down.pulling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failed, match="is a link"):
        client.run(f"pull_folder('me/evil', {str(tmp_path / 'down')!r})")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Failed, match=r"cannot be written|exists already"):
        client.run(f"pull_folder('me/evil', {str(tmp_path / 'gone')!r})")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_repository_of_very_many_files_is_not_read_to_its_end(client, hub):
    filled(hub, {f"f{i}": b"" for i in range(300)})
    client.run("from hf_bootstrap.hub import push\nmost, push._MOST_FILES = push._MOST_FILES, 200")
    try:
        with pytest.raises(Failed, match="more than 200 files"):
            client.run("pull_files('me/evil', ['law.json'])")
    finally:
        client.run("push._MOST_FILES = most")


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Figures take seconds and play no part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(law_folder, "_drawn", lambda law: {})
        yield


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
    """Two laws of the same form, of other points."""
    folder = tmp_path_factory.mktemp("laws")
    for name in ("continue", "stack"):
        ScalingLaw("total_tokens", resamples=9).fit(ROOT / "docs" / "demo" / f"{name}.jsonl").save_pretrained(
            folder / name
        )
    return folder


def test_points_that_are_not_the_laws_are_refused(client, hub, laws):
    files = {"law.json": laws / "continue" / "law.json", "points.jsonl": laws / "stack" / "points.jsonl"}
    filled(hub, {name: path.read_bytes() for name, path in files.items()})
    read = "from hf_bootstrap import ScalingLaw\nScalingLaw.from_pretrained('me/evil')"
    with pytest.raises(Failed, match="does not hold the points this law was fitted to") as failed:
        client.run(read)
    assert failed.value.kind == "LawFileError"


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"tokens": NaN}', '{"schema": 99}', "\x00", '{"a":' * 50_000 + "1" + "}" * 50_000, "x" * 2**21],
)
def test_points_that_are_none_are_refused_in_few_words(client, hub, laws, line):
    filled(hub, {"law.json": (laws / "stack" / "law.json").read_bytes(), "points.jsonl": line.encode() + b"\n"})
    with pytest.raises(Failed) as failed:
        client.run("from hf_bootstrap import ScalingLaw\nScalingLaw.from_pretrained('me/evil')")
    assert failed.value.kind in ("LawFileError", "PointError", "CorruptFileError")
    assert len(failed.value.message) < 1500


def test_a_law_read_once_is_read_again_without_the_network_unless_it_was_damaged(client, hub, tmp_path):
    ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8).save_pretrained(tmp_path)
    filled(hub, {"law.json": (tmp_path / "law.json").read_bytes()}, "me/offline")
    read = "from hf_bootstrap import ScalingLaw\nresult = ScalingLaw.from_pretrained('me/offline').params_"
    first = client.run(read)
    hub.log.clear()
    client.run("from huggingface_hub import constants\nconstants.HF_HUB_OFFLINE = True")
    try:
        assert client.run(read) == first
        cache = client.folder / "home" / "hub" / "models--me--offline"
        blob = next(path.resolve() for path in cache.rglob("law.json"))
        blob.chmod(0o600)
        blob.write_bytes(blob.read_bytes().replace(b'"n_points": ', b'"n_points": 1', 1))
        with pytest.raises(Failed, match="was damaged in the cache"):
            client.run(read)
        shutil.rmtree(cache)
        with pytest.raises(Failed, match="Unset HF_HUB_OFFLINE"):
            client.run(read)
    finally:
        client.run("constants.HF_HUB_OFFLINE = False")
    assert hub.log == []


def test_two_who_push_other_laws_to_one_repository_leave_whole_ones(hub, tmp_path):
    """Each commit holds the files of one of them, whoever came first."""
    code = (
        "for i in range(4):\n"
        "    name = f'NAME-{i}'.encode()\n"
        "    files = {'law.json': name, 'points.EXT': name, 'README.md': b'# ' + name, 'w.safetensors': name}\n"
        "    push_files(files, 'me/law', owned=['points.*'], patience=600, say=say)"
    )
    clients, failed = [], []
    for name in "ab":
        (tmp_path / name).mkdir()
        clients.append(Client(hub, tmp_path / name))

    def run(client, name, ending):
        try:
            client.run(code.replace("NAME", name).replace("EXT", ending))
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=run, args=about) for about in zip(clients, "ab", ("csv", "jsonl"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert failed == []
    history = hub.repo("me/law").history()[:-1]
    assert len(history) == 8
    for commit in history:
        files = {path: file.content for path, file in commit.files.items() if path != ".gitattributes"}
        name = files["law.json"]
        ending = "csv" if name.startswith(b"a") else "jsonl"
        assert files == {"law.json": name, f"points.{ending}": name, "README.md": b"# " + name, "w.safetensors": name}


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>|`\n# head\n---\nlicense: mit"


def test_names_in_strangers_points_become_text_on_card_and_page(tmp_path):
    lines = []
    for line in (ROOT / "docs" / "demo" / "continue.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["method"] != "scratch":
            record["method"] = EVIL
        record["domain"] = EVIL
        lines.append(record)
    rows = {name: [row[name] for row in lines] for name in ("base_tokens", "tokens", "loss", "method", "domain")}
    law = ScalingLaw("total_tokens", resamples=9).fit(rows)
    law.save_pretrained(tmp_path)
    card, page = ((tmp_path / name).read_text() for name in ("README.md", "planner.html"))
    assert "<img" not in card
    assert "<script>alert" not in card + page
    assert "\n# head" not in card
    assert card.count("\n---\n") == 1
