"""A small Hub that the real huggingface_hub client talks to at HF_ENDPOINT, and that fails where it is told to.

What it answers is in `routes`, what it remembers in `store`. A `Fault` is matched against the method and path of each
request and spends itself.
"""

import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .routes import ROUTES
from .store import KINDS, Refused, Repo

TOKEN = "hf_canaryCANARYcanaryCANARYcanary42"


@dataclass
class Fault:
    """What goes wrong: `times` requests whose "METHOD path" matches `where`.

    `landed`: the request is carried out first. `status`, `headers`, `body`: the answer. `cut`: the answer breaks off
    after that many bytes. `delay`: seconds before the answer. `before`: a call made first, with the Hub.
    """

    where: str
    status: int | None = None
    times: int = 1
    landed: bool = False
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    delay: float = 0.0
    drop: bool = False
    before: object = None


class Hub:
    """The server and its memory; `with Hub() as hub:` runs it at `hub.url`."""

    def __init__(self, users=None):
        self.users = {TOKEN: "me"} if users is None else users
        self.repos, self.faults, self.log = {}, [], []
        self.lock = threading.RLock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.http.daemon_threads, self.http.hub = True, self

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.http.shutdown()
        self.http.server_close()

    def create(self, repo_id, kind="model", **about):
        with self.lock:
            if (kind, repo_id) in self.repos:
                raise Refused(409, f"You already created this {kind} repo")
            return self.repos.setdefault((kind, repo_id), Repo(kind, repo_id, **about))

    def repo(self, repo_id, kind="model"):
        return self.repos[kind, repo_id]

    def fail(self, where, status=None, **about):
        self.faults.append(Fault(where, status, **about))

    def take_fault(self, request):
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # head and body in one packet, or each answer waits for 40 ms

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self):
        hub, url = self.server.hub, urlsplit(self.path)
        self.asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        request = f"{self.command} {unquote(url.path)}"
        body = self._body()
        hub.log.append(request)
        fault = hub.take_fault(request)
        if fault is not None:
            if fault.before is not None:
                fault.before(hub)
            time.sleep(fault.delay)
            if fault.landed:
                self._answer(request, body)
            if fault.drop:
                self._hang_up()
                return
            if fault.status is not None or fault.body is not None:
                self._send(fault.status or 200, fault.headers, fault.body or b"{}", fault.cut)
                return
        status, headers, content = self._answer(request, body)
        self._send(status, headers, content, None if fault is None else fault.cut)

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, request, body):
        try:
            for route, serve in ROUTES:
                if match := route.fullmatch(request):
                    return serve(self, body, **match.groupdict())
            raise Refused(404, f"no such route: {request}")
        except Refused as no:
            headers = {"X-Error-Message": no.message, **({"X-Error-Code": no.code} if no.code else {}), **no.headers}
            return no.status, headers, json.dumps({"error": no.message}).encode()

    def _send(self, status, headers, content, cut=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        if cut is not None:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.wfile.flush()
            self._hang_up()

    def _hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    # who is there

    def user(self, *, needed=True):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token in self.server.hub.users:
            return self.server.hub.users[token]
        if token:
            raise Refused(401, "Invalid credentials in Authorization header")
        if needed:
            raise Refused(401, "Invalid username or password.")
        return None

    def repo(self, kind, repo_id, *, write=False):
        kind = KINDS.get(kind, kind)
        found = self.server.hub.repos.get((kind, repo_id))
        user = self.user(needed=write)
        if found is None or (found.private and user != repo_id.split("/")[0]):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and user != repo_id.split("/")[0]:
            raise Refused(403, f"You don't have the rights to write to {repo_id}")
        return found
