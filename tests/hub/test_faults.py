"""Whatever goes wrong at the Hub, there is the old head or exactly one new commit, and we say what to do."""

import pytest

from .conftest import Failed
from .server import TOKEN, Fault
from .store import File

OLD = {
    "law.json": b"old",
    "points.jsonl": b"",
    "README.md": b"---\nlicense: mit\n---\nold\n",
    "w.safetensors": b"oldold",
}
NEW = {
    "law.json": b"new",
    "points.jsonl": b"",
    "README.md": b"---\nlicense: mit\n---\nnew\n",
    "w.safetensors": b"newnew",
}
PATIENCE = 60

COMMIT, PREUPLOAD, BATCH, PUT = "POST .*/commit/", "POST .*/preupload/", "POST .*/objects/batch", "PUT /lfs"
INFO, TREE, CREATE, CARD, VERIFY = (
    "GET /api/models/me/law$",
    "GET .*/tree/",
    "POST .*/create$",
    "validate-yaml",
    "/verify$",
)
HTML = b"<html><body>Bad gateway</body></html>"


def moves(hub):
    """Somebody else commits in between."""
    repo = hub.repo("me/law")
    repo.add_commit("main", repo.at("main"), {**repo.head(), "notes.txt": File(b"theirs")}, "theirs")


PASSING = {
    "429 with Retry-After": Fault(COMMIT, 429, headers={"Retry-After": "7"}),
    "429 without": Fault(COMMIT, 429),
    "429 by the RateLimit header": Fault(PREUPLOAD, 429, headers={"RateLimit": '"api";r=0;t=5'}),
    "429 twice at preupload": Fault(PREUPLOAD, 429, times=2, headers={"Retry-After": "3"}),
    "408 at commit": Fault(COMMIT, 408),
    "500 at commit": Fault(COMMIT, 500),
    "502 at commit, a page": Fault(COMMIT, 502, body=HTML),
    "503 at commit, three times": Fault(COMMIT, 503, times=3),
    "504 at commit": Fault(COMMIT, 504, body=HTML),
    "500 although it landed": Fault(COMMIT, 500, landed=True),
    "502 although it landed": Fault(COMMIT, 502, landed=True, body=HTML),
    "504 although it landed": Fault(COMMIT, 504, landed=True),
    "429 although it landed": Fault(COMMIT, 429, landed=True),
    "the answer is lost": Fault(COMMIT, landed=True, drop=True),
    "the answer is no JSON, it landed": Fault(COMMIT, 200, landed=True, body=HTML),
    "the answer is another JSON, it landed": Fault(COMMIT, 200, landed=True, body=b"{}"),
    "the answer is another JSON, it did not": Fault(COMMIT, 200, body=b"{}"),
    "the answer breaks off, it landed": Fault(COMMIT, 200, landed=True, body=b'{"commitOid": "abcd"}', cut=9),
    "dropped before the commit": Fault(COMMIT, drop=True),
    "409 busy": Fault(COMMIT, 409),
    "409 busy, three times": Fault(COMMIT, 409, times=3),
    "412 moved": Fault(COMMIT, before=moves),
    "412 moved, three times": Fault(COMMIT, before=moves, times=3),
    "412 without a move": Fault(COMMIT, 412),
    "500 at the head": Fault(INFO, 500),
    "no JSON at the head": Fault(INFO, 200, body=HTML),
    "dropped at the head": Fault(INFO, drop=True),
    "503 at the tree": Fault(TREE, 503),
    "503 at create": Fault(CREATE, 503),
    "another creation under way": Fault(
        CREATE, 409, times=3, body=b'{"error": "Cannot create repo: another conflicting operation is in progress"}'
    ),
    "503 at the card, a page": Fault(CARD, 503, body=HTML),
    "500 at the LFS batch": Fault(BATCH, 500),
    "500 at the upload": Fault(PUT, 500),
    "500 at the upload, eight times": Fault(PUT, 500, times=8),
    "dropped in the upload": Fault(PUT, drop=True),
    "503 at the check of the upload": Fault(VERIFY, 503),
    "slow at commit": Fault(COMMIT, delay=0.3),
    "slow everywhere": Fault(".*", delay=0.05, times=20),
}  # fmt: skip
FINAL = {
    "400 at commit": (Fault(COMMIT, 400), "would again"),
    "401 at commit": (Fault(COMMIT, 401), "hf auth login"),
    "403 at commit": (Fault(COMMIT, 403), "write access"),
    "404 at commit": (Fault(COMMIT, 404, headers={"X-Error-Code": "RepoNotFound"}), "Check the name"),
    "413 at commit": (Fault(COMMIT, 413), "refuses the request"),
    "422 at commit": (Fault(COMMIT, 422), "refuses the request"),
    "403 at preupload": (Fault(PREUPLOAD, 403), "write access"),
    "401 at create": (Fault("(create|api/models/me/law)$", 401, times=9), "hf auth login"),
    "403 at create": (Fault("(create|api/models/me/law)$", 403, times=9), "write access"),
    "403 at the upload": (Fault(PUT, 403), "write access"),
    "422 at the LFS batch": (Fault(BATCH, 422), "refuses the request"),
    "Retry-After of an hour at preupload": (
        Fault(PREUPLOAD, 429, times=9, headers={"Retry-After": "3600"}), "60 s are allowed"
    ),
    "Retry-After of an hour at commit": (
        Fault(COMMIT, 429, times=9, headers={"Retry-After": "3600"}), "60 s are allowed"
    ),
    "503 for ever at commit": (Fault(COMMIT, 503, times=10**6), "60 s are allowed"),
    "503 for ever at the head": (Fault(INFO, 503, times=10**6), "60 s are allowed"),
    "409 for ever": (Fault(COMMIT, 409, times=10**6), "60 s are allowed"),
    "a creation under way for ever": (
        Fault(CREATE, 409, times=10**6, body=b'{"error": "another conflicting operation is in progress"}'),
        "60 s are allowed",
    ),
    "a message with our token in it": (
        Fault(COMMIT, 403, headers={"X-Error-Message": f"Bearer {TOKEN} may not write"}), "<token> may not write"
    ),
}  # fmt: skip


def quoting(fault):
    """The fault at a server that quotes the login in what it refuses; the client's fixture looks for it everywhere."""
    about = dict(vars(fault))
    if (fault.status or 200) >= 400:
        about["headers"] = {"X-Error-Message": f"Bearer {TOKEN}", **fault.headers}
        about["body"] = fault.body or f'{{"error": "{TOKEN}"}}'.encode()
    return Fault(**about)


def prepared(hub):
    repo = hub.create("me/law")
    files = {name: File(content, lfs=name.endswith("safetensors")) for name, content in OLD.items()}
    return repo, repo.add_commit("main", repo.at("main"), {**repo.head(), **files}, "old")


def state(repo):
    return {name: file.content for name, file in repo.head().items() if name in NEW}


def push(client):
    code = f"result = vars(push_files({NEW!r}, 'me/law', message='ours', patience={PATIENCE}, say=say))"
    return client.run(code)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_ends_in_exactly_one_new_commit(client, hub, fault):
    repo, _ = prepared(hub)
    hub.faults.append(quoting(fault))
    done = push(client)
    assert hub.faults[0].times < fault.times, "the fault was never met"
    assert state(repo) == NEW
    assert [commit.summary for commit in repo.history()].count("ours") == 1
    assert done["commit"] in repo.commits
    assert done["changed"]
    theirs = [commit for commit in repo.history() if commit.summary == "theirs"]
    assert ("notes.txt" in repo.head()) == bool(theirs)
    assert client.answer["waited"] <= PATIENCE
    told = client.answer["said"] or "Retrying in" in client.output.read_text()  # by us, or by the client itself
    assert told or not client.answer["waited"]


@pytest.mark.parametrize(("fault", "advice"), FINAL.values(), ids=FINAL)
def test_a_fault_that_stays_leaves_the_old_head_and_says_what_to_do(client, hub, fault, advice):
    repo, old = prepared(hub)
    hub.faults.append(quoting(fault))
    with pytest.raises(Failed) as failed:
        push(client)
    assert failed.value.kind == "HubError"
    assert advice in failed.value.message
    assert failed.value.message.startswith("The push to me/law failed") or "allowed" in failed.value.message
    assert repo.at("main") is old
    assert client.answer["waited"] <= PATIENCE
    if fault.times == 1:
        assert client.answer["waited"] == 0, "what does not heal is not waited for"


def test_a_card_the_hub_would_refuse_stops_the_push_before_anything_is_sent(client, hub):
    with pytest.raises(Failed, match=r"Correct the block between the --- lines") as failed:
        client.run("push_files({'README.md': b'---\\ntags: 5\\n---\\n', 'w.safetensors': b'w'}, 'me/law')")
    assert "'tags' must be a list" in failed.value.message
    repo = hub.repo("me/law")
    assert (repo.uploads, len(repo.history())) == ([], 1)


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(client, hub):
    repo, old = prepared(hub)
    hub.fail(COMMIT, 500, landed=True)
    done = client.run(f"result = vars(push_files({NEW!r}, 'me/law', create_pr=True))")
    assert [name for name in repo.refs if name.startswith("refs/pr/")] == ["refs/pr/1"]
    assert done["url"].endswith("/discussions/1")
    assert repo.at("main") is old


def test_points_of_somebody_who_was_faster_are_kept(client, hub):
    client.run(
        "from hf_bootstrap.sealing import seal\n"
        "line = lambda n: (seal({'run_id': 'r', 'tokens': n}) + chr(10)).encode()\n"
        "push_files({'points.jsonl': line(1)}, 'me/law')"
    )
    repo = hub.repo("me/law")
    theirs = client.run("result = (line(1) + line(2)).decode()").encode()

    def faster(hub):
        repo.add_commit("main", repo.at("main"), {**repo.head(), "points.jsonl": File(theirs)}, "theirs")

    hub.fail(COMMIT, before=faster)
    client.run("push_files({'points.jsonl': line(1) + line(3)}, 'me/law', merge={'points.jsonl': merge_points})")
    lines = repo.head()["points.jsonl"].content.decode().splitlines()
    assert [line.split('"tokens":')[1] for line in lines] == ["1}", "2}", "3}"]


FETCH = "result = (pull_files('me/law', ['law.json', '*.safetensors'], patience=60, say=say) / 'law.json').read_text()"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET .*/resolve/.*law.json", 503),
        Fault("GET .*/resolve/.*law.json", drop=True),
        Fault("GET .*/resolve/.*law.json", cut=1),
        Fault("GET .*/resolve/.*w.safetensors", cut=3),
        Fault("HEAD .*/resolve/", 503),
        Fault(TREE, 200, body=HTML),
        Fault(INFO, 429, headers={"Retry-After": "2"}),
        Fault("GET .*/resolve/.*law.json", 200, body=b"lie"),
    ],
    ids=str,
)
def test_what_is_fetched_is_whole_or_refused(client, hub, fault):
    prepared(hub)
    client.run("import shutil\nfrom huggingface_hub.constants import HF_HUB_CACHE\nshutil.rmtree(HF_HUB_CACHE, True)")
    hub.faults.append(quoting(fault))
    if fault.body == b"lie":  # of the right size: refused, and not believed the second time
        with pytest.raises(Failed, match="of me/law is not what the Hub says it holds"):
            client.run(FETCH)
    assert client.run(FETCH) == "old"
    assert hub.faults[0].times == 0, "the fault was never met"
    assert client.answer["waited"] <= 60


def test_without_a_login_it_says_how_to_log_in(hub, tmp_path):
    from .conftest import Client

    (tmp_path / "c").mkdir()
    stranger = Client(hub, tmp_path / "c", token=None)
    try:
        with pytest.raises(Failed, match="hf auth login"):
            stranger.run("push_files({'a': b'1'}, 'me/law')")
        hub.create("me/secret", private=True)
        with pytest.raises(Failed, match="if it is private, log in"):
            stranger.run("pull_files('me/secret')")
    finally:
        stranger.close()
    assert hub.repos.keys() == {("model", "me/secret")}
