"""Files go up in one commit and come down as they were; nothing is sent twice, and points of all pushers are kept."""

import json
import threading

import pytest

from hf_bootstrap.errors import HubError
from hf_bootstrap.hub.merging import merge_points
from hf_bootstrap.hub.push import folder_files
from hf_bootstrap.sealing import seal

from .conftest import Client, Failed

CARD = b"---\nlicense: mit\n---\nhello\n"
PUSH = "result = vars(push_files({files!r}, 'me/thing'{options}))"


def push(client, files, options=""):
    return client.run(PUSH.format(files=files, options=options))


def points(*numbers):
    return "".join(seal({"run_id": f"run-{n}", "tokens": n}) + "\n" for n in numbers).encode()


def test_all_files_arrive_in_one_commit(client, hub):
    done = push(client, {"README.md": CARD, "law.json": b"{}", "figures/a.png": b"\x89", "w.safetensors": b"x" * 999})
    repo = hub.repo("me/thing")
    assert [commit.oid for commit in repo.history()][:-1] == [done["commit"]]
    assert {name: file.content for name, file in repo.head().items() if name != ".gitattributes"} == {
        "README.md": CARD, "law.json": b"{}", "figures/a.png": b"\x89", "w.safetensors": b"x" * 999,
    }  # fmt: skip
    assert repo.head()["w.safetensors"].lfs
    assert done["changed"]


def test_what_is_there_already_makes_no_commit(client, hub):
    files = {"law.json": b"{}", "w.safetensors": b"weights"}
    first = push(client, files)
    again = push(client, files)
    assert (again["commit"], again["changed"]) == (first["commit"], False)
    assert len(hub.repo("me/thing").history()) == 2


def test_files_of_ours_that_are_gone_are_removed_and_others_stay(client, hub):
    push(client, {"law.json": b"1", "points.csv": b"old", "figures/old.png": b"o"})
    push(client, {"notes.txt": b"somebody's"})
    push(client, {"law.json": b"2"}, ", owned=['points.*', 'figures/*']")
    assert set(hub.repo("me/thing").head()) == {".gitattributes", "law.json", "notes.txt"}
    assert len(hub.repo("me/thing").history()) == 4


def test_a_new_repository_is_private_when_asked_and_a_public_one_is_not_filled(client, hub):
    push(client, {"a": b"1"}, ", private=True")
    assert hub.repo("me/thing").private
    hub.create("me/open")
    with pytest.raises(Failed, match="is public, and private was asked for; nothing was sent"):
        client.run("push_files({'a': b'1'}, 'me/open', private=True)")
    with pytest.raises(Failed, match="nothing was sent"):
        client.run("push_files({'a': b'1'}, 'me/open', private=True, revision='trial')")
    assert "trial" not in str(set(hub.repo("me/open").refs)), "no branch was made either"
    assert len(hub.repo("me/open").history()) == 1


def test_a_branch_is_made_and_the_main_one_left_alone(client, hub):
    push(client, {"a": b"1"})
    push(client, {"a": b"2"}, ", revision='trial'")
    push(client, {"a": b"3"}, ", revision='trial'")
    repo = hub.repo("me/thing")
    assert (repo.head()["a"].content, repo.head("trial")["a"].content) == (b"1", b"3")


def test_a_pull_request_leaves_the_branch_alone(client, hub):
    push(client, {"a": b"1"})
    done = push(client, {"a": b"2"}, ", create_pr=True")
    repo = hub.repo("me/thing")
    assert done["url"].endswith("/me/thing/discussions/1")
    assert (repo.head()["a"].content, repo.head("refs/pr/1")["a"].content) == (b"1", b"2")


def test_large_files_that_were_stored_are_not_sent_again(client, hub, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode() * 1000)
    (tmp_path / "config.json").write_text("{}")
    # The commit is refused after the weights are stored, as if we had been stopped there.
    hub.fail("POST .*/commit/", 403)
    code = f"result = vars(push_files(folder_files({str(tmp_path)!r}), 'me/grown'))"
    with pytest.raises(Failed, match="403"):
        client.run(code)
    repo = hub.repo("me/grown")
    assert (len(repo.uploads), set(repo.head())) == (3, {".gitattributes"})
    client.run(code)
    assert (len(repo.uploads), len(repo.history())) == (3, 2)


def test_a_folder_comes_down_as_it_went_up(client, hub, tmp_path):
    (tmp_path / "up" / "deep").mkdir(parents=True)
    for name, content in {"README.md": CARD, "deep/w.safetensors": bytes(range(256)), "empty": b""}.items():
        (tmp_path / "up" / name).write_bytes(content)
    (tmp_path / "up" / ".hidden").write_bytes(b"not sent")
    client.run(f"push_files(folder_files({str(tmp_path / 'up')!r}), 'me/thing', kind='dataset')")
    client.run(f"pull_folder('me/thing', {str(tmp_path / 'down')!r}, kind='dataset')")
    found = {
        str(p.relative_to(tmp_path / "down")): p.read_bytes() for p in (tmp_path / "down").rglob("*") if p.is_file()
    }
    assert found.pop(".gitattributes")
    assert found == {"README.md": CARD, "deep/w.safetensors": bytes(range(256)), "empty": b""}
    with pytest.raises(Failed, match="exists already"):
        client.run(f"pull_folder('me/thing', {str(tmp_path / 'down')!r}, kind='dataset')")


def test_an_older_revision_comes_down_by_its_commit(client, hub):
    first = push(client, {"a": b"1"})["commit"]
    push(client, {"a": b"2"})
    read = "result = (pull_files('me/thing', ['a'], revision={!r}) / 'a').read_text()"
    assert (client.run(read.format(first)), client.run(read.format(None))) == ("1", "2")
    with pytest.raises(Failed, match="Check the name of the revision"):
        client.run(read.format("nowhere"))


def test_what_is_too_large_is_not_fetched(client, hub):
    push(client, {"law.json": b"x" * 5000})
    hub.log.clear()
    with pytest.raises(Failed, match="5,000 bytes; 1,000 are allowed"):
        client.run("pull_files('me/thing', ['law.json'], largest=1000)")
    assert not [request for request in hub.log if "/resolve/" in request]


def test_a_link_out_of_the_folder_is_not_published(tmp_path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(HubError, match="link out of"):
        folder_files(tmp_path / "up")


def test_points_are_merged_by_their_content():
    ours = points(2, 3).replace(b'"tokens":2', b'"tokens": 2') + b'{"torn'
    merged = merge_points(points(1, 2), ours)
    assert [json.loads(line)["tokens"] for line in merged.splitlines()] == [1, 2, 3]
    assert merge_points(merged, ours) == merged
    with pytest.raises(HubError, match="Line 1 of the points here is not a point"):
        merge_points(points(1), b'{"tokens": 2}\n')


@pytest.mark.parametrize(("pushers", "pushes"), [(3, 4), pytest.param(8, 25, marks=pytest.mark.slow)])
def test_points_pushed_by_many_at_once_are_all_there_once(hub, tmp_path, pushers, pushes):
    """Each push is of a file that holds all the pusher's points so far; all go to one repository."""
    code = (
        "import json\nfrom hf_bootstrap.sealing import seal\n"
        "lines, tries = [], 0\n"
        f"for i in range({pushes}):\n"
        "    lines.append(seal({'run_id': NAME, 'tokens': i + 1}))\n"
        "    push_files({'points.jsonl': ''.join(x + chr(10) for x in lines).encode()}, 'me/points', kind='dataset',\n"
        "               merge={'points.jsonl': merge_points}, patience=3000, say=say)\n"
        "result = len(said)"
    )
    clients = [Client(hub, _folder(tmp_path, n)) for n in range(pushers)]
    try:
        failed = []

        def run(number):
            try:
                clients[number].run(code.replace("NAME", f"'pusher-{number}'"))
            except Exception as error:  # noqa: BLE001
                failed.append(error)

        threads = [threading.Thread(target=run, args=(n,)) for n in range(pushers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for one in clients:
            one.close()
    assert failed == []
    repo = hub.repo("me/points", "dataset")
    rows = [json.loads(line) for line in repo.head()["points.jsonl"].content.splitlines()]
    assert sorted((row["run_id"], row["tokens"]) for row in rows) == [
        (f"pusher-{n}", i + 1) for n in range(pushers) for i in range(pushes)
    ]
    assert len(repo.history()) == 1 + pushers * pushes


def _folder(tmp_path, number):
    folder = tmp_path / f"client-{number}"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["law", "me/", "/law", "me/law/more", "me law/x", "https://hub.example/me/law"])
def test_a_name_without_an_owner_is_refused_before_the_hub_is_asked(client, hub, name):
    with pytest.raises(Failed, match=r"no name of a repository on the Hub\. Write user/name"):
        client.run(f"push_files({{'a': b'1'}}, {name!r})")
    assert hub.log == []
