"""The waits that the client makes by itself, as long as it is told to or for ever, are counted, told and bounded."""

import socket
import time

import pytest

from .conftest import Failed

PUSH = "result = vars(push_files({{'law.json': b'new'}}, 'me/law', patience={}, say=say))"
INFO, TREE, COMMIT = "GET /api/models/me/law$", "GET .*/tree/", "POST .*/commit/"
CLIENT_WAIT = 8  # of one connection that broke we learn when the client asks again


@pytest.mark.parametrize("where", [INFO, TREE, "POST .*/create$"])
def test_connections_that_always_break_end_within_the_patience(client, hub, where):
    repo = hub.create("me/law")
    head = repo.at("main")
    hub.fail(where, drop=True, times=10**6)
    with pytest.raises(Failed, match="20 s are allowed") as failed:
        client.run(PUSH.format(20))
    assert failed.value.kind == "HubError"
    assert client.answer["waited"] <= 20 + CLIENT_WAIT
    assert repo.at("main") is head
    assert all("of at most 20 s" in told for told in client.answer["said"])
    assert len(client.answer["said"]) > 2


def test_every_wait_of_the_client_is_told(client, hub):
    hub.create("me/law")
    hub.fail("PUT /lfs", drop=True, times=3)
    client.run("push_files({'w.safetensors': b'weights'}, 'me/law', patience=60, say=say)")
    told = [text for text in client.answer["said"] if "connection to the Hub broke" in text]
    assert [text.partition(" waited ")[2] for text in told] == [
        "1 s (1 of at most 60 s).", "2 s (3 of at most 60 s).", "4 s (7 of at most 60 s)."
    ]  # fmt: skip
    assert client.answer["waited"] == 7


@pytest.mark.parametrize("where", [COMMIT, INFO])
def test_a_hub_that_never_answers_is_not_waited_for_for_ever(client, hub, where):
    hub.create("me/law")
    hub.fail(where, delay=30, times=10**6)
    began = time.monotonic()
    with pytest.raises(Failed, match="1 s are allowed"):
        client.run(PUSH.format(1))
    assert time.monotonic() - began < 15
    hub.faults.clear()


def test_a_push_that_is_answered_after_a_silence_is_one_commit(client, hub):
    repo = hub.create("me/law")
    hub.fail(COMMIT, delay=1.5, landed=True, drop=True)
    client.run("from hf_bootstrap.hub import patience\nsilence, patience._SILENCE = patience._SILENCE, 1.0")
    try:
        done = client.run(PUSH.format(60))
    finally:
        client.run("patience._SILENCE = silence")
    assert len(repo.history()) == 2
    assert done["commit"] == repo.at("main").oid


def test_a_session_the_client_makes_anew_is_watched_too(client, hub):
    """It makes one after a refused connection; there an answer that asks for an hour was obeyed."""
    hub.create("me/law")
    hub.fail(INFO, 429, times=10**6, headers={"Retry-After": "3600"})
    code = (
        "from huggingface_hub.utils import _http\nfrom hf_bootstrap.hub.patience import Patience\n"
        "from hf_bootstrap.hub.push import client\n"
        "with Patience(60, say).watching():\n    _http.close_session()\n    client().repo_info('me/law')"
    )
    with pytest.raises(Failed, match="60 s are allowed"):
        client.run(code)
    assert client.answer["waited"] == 0


def test_the_clients_session_is_left_as_it_was(client, hub):
    hub.create("me/law")
    found = client.run(
        "from huggingface_hub import get_session\nfrom huggingface_hub.utils import _http\n"
        "state = lambda: [len(get_session().event_hooks[k]) for k in ('request', 'response')] + [\n"
        "    _http._GLOBAL_CLIENT_FACTORY.__module__]\n"
        f"before = state()\n{PUSH.format(60)}\nresult = [before, state()]"
    )
    assert found[0] == found[1]


def test_a_hub_that_is_away_is_given_up_within_the_patience(tmp_path):
    """Nobody listens: refused at once, which the client repeats in a new session each time."""
    from .conftest import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gone = type("Gone", (), {"url": f"http://127.0.0.1:{port}"})
    client = Client(gone, tmp_path)
    try:
        with pytest.raises(Failed, match="15 s are allowed"):
            client.run(PUSH.format(15))
        assert client.answer["waited"] <= 15 + CLIENT_WAIT
    finally:
        client.close()
