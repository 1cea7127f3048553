"""A Hub of one's own, and the real client in another process (HF_ENDPOINT is read when it is imported)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .server import TOKEN, Hub

ROOT = Path(__file__).parents[2]


class Failed(Exception):
    def __init__(self, error, answer):
        super().__init__(f"{error['kind']}: {error['message']}\n{error['trace']}")
        self.kind, self.message, self.trace, self.answer = error["kind"], error["message"], error["trace"], answer


def environment(hub, home, token=TOKEN):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    if token is not None:
        kept["HF_TOKEN"] = token
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ETAG_TIMEOUT": "2"}
    settings |= {"HF_HUB_DOWNLOAD_TIMEOUT": "2", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_SYMLINKS_WARNING": "1"}
    shared = os.environ.get("HF_BOOTSTRAP_SHARED")
    return {**kept, **settings, **({"HF_BOOTSTRAP_SHARED": shared} if shared else {})}


class Client:
    """Runs snippets in the process that holds the client; `answer` is all it said about the last one."""

    def __init__(self, hub, folder, token=TOKEN):
        self.folder, self.hub = folder, hub
        self.output = folder / "output.txt"
        read, write = os.pipe()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.hub.worker", str(write)],
                stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=ROOT, pass_fds=[write],
                env=environment(hub, folder / "home", token),
            )  # fmt: skip
        os.close(write)
        self.answers = os.fdopen(read)
        self.run(
            "import hashlib, os\nfrom pathlib import Path\nfrom hf_bootstrap.hub.push import *\n"
            "from hf_bootstrap.hub.pull import *\nfrom hf_bootstrap.hub.merging import *"
        )

    def run(self, code):
        self.process.stdin.write((json.dumps(code) + "\n").encode())
        self.process.stdin.flush()
        line = self.answers.readline()
        if not line:
            raise AssertionError(f"the client died: {self.output.read_text()[-2000:]}")
        self.answer = json.loads(line)
        if "error" in self.answer:
            raise Failed(self.answer["error"], self.answer)
        return self.answer["result"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.answers.close()


@pytest.fixture(scope="session")
def running_hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def running_client(running_hub, tmp_path_factory):
    client = Client(running_hub, tmp_path_factory.mktemp("client"))
    yield client
    client.close()


@pytest.fixture
def hub(running_hub):
    running_hub.repos.clear()
    running_hub.faults.clear()
    running_hub.log.clear()
    return running_hub


@pytest.fixture
def client(hub, running_client, tmp_path):
    """The client; whatever a test made it say or write is searched for the token of its login."""
    yield running_client
    assert TOKEN not in running_client.output.read_text()
    assert TOKEN not in json.dumps(running_client.answer)
    written = [path for path in (*tmp_path.rglob("*"), *running_client.folder.rglob("*")) if path.is_file()]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in Path(f"/proc/{running_client.process.pid}/cmdline").read_text()
