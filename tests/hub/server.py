"""A small Hub that the real huggingface_hub client talks to at HF_ENDPOINT, and that fails where it is told to.

It speaks the routes of create_repo, create_commit, LFS, snapshot_download, validate-yaml, refs and branches. A
`Fault` is matched against the method and path of each request and spends itself.
"""

import base64
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from .store import Refused, Repo

TOKEN = "hf_canaryCANARYcanaryCANARYcanary42"
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_LFS = re.compile(r"\.(safetensors|bin|parquet)$")


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
            for route, serve in _ROUTES:
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
        kind = _KINDS.get(kind, kind)
        found = self.server.hub.repos.get((kind, repo_id))
        user = self.user(needed=write)
        if found is None or (found.private and user != repo_id.split("/")[0]):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and user != repo_id.split("/")[0]:
            raise Refused(403, f"You don't have the rights to write to {repo_id}")
        return found


def _json(value, status=200):
    return status, {}, json.dumps(value).encode()


def _whoami(call, body):
    return _json({"name": call.user(), "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})


def _create(call, body):
    asked = json.loads(body)
    user = call.user()
    owner = asked.get("organization") or user
    if owner != user:
        raise Refused(403, f"You don't have the rights to create a model under the namespace {owner}")
    kind, repo_id = asked.get("type") or "model", f"{owner}/{asked['name']}"
    private = asked.get("private") or asked.get("visibility") == "private"
    if kind == "space" and not asked.get("sdk"):
        raise Refused(400, "sdk is required")
    url = f"{call.server.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
    if (kind, repo_id) in call.server.hub.repos:
        return _json({"error": f"You already created this {kind} repo", "url": url}, 409)
    call.server.hub.create(repo_id, kind, private=bool(private), sdk=asked.get("sdk"))
    return _json({"url": url, "name": repo_id, "id": repo_id})


def _validate_yaml(call, body):
    content = json.loads(body)["content"].replace("\r\n", "\n")
    errors, warnings = [], []
    match = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
    if match is None:
        warnings.append({"message": "empty or missing yaml metadata in repo card"})
    else:
        try:
            metadata = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            errors.append({"message": f"YAML: {error}"})
        else:
            errors += [{"message": text} for text in _wrong_metadata(metadata)]
    return _json({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def _wrong_metadata(metadata):
    """The rules of the Hub that matter for us: types of the fields it reads."""
    if not isinstance(metadata, dict):
        return ["metadata must be an object"]
    found = [f"'{name}' must be a string" for name in ("library_name", "pipeline_tag", "base_model_relation", "license")
             if name in metadata and not isinstance(metadata[name], str)]  # fmt: skip
    for name in ("tags", "datasets", "base_model", "language"):
        values = metadata.get(name, [])
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            found.append(f"'{name}' must be a list of strings")
        elif name in ("datasets", "base_model"):
            found += [f"'{name}[{i}]' with value {v!r} is not valid. Use a model id from the Hub." for i, v in
                      enumerate(values) if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", v)]  # fmt: skip
    if metadata.get("license", "apache-2.0") not in ("apache-2.0", "mit", "other", "cc-by-4.0", "llama3"):
        found.append(f"'license' must be one of the known ones, not {metadata['license']!r}")
    return found


def _preupload(call, body, kind, repo_id, revision):
    repo = call.repo(kind, repo_id, write=True)
    files = repo.at(revision).files
    rows = []
    for asked in json.loads(body)["files"]:
        lfs = bool(_LFS.search(asked["path"])) or asked["size"] > 10_000_000
        row = {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if asked["path"] in files:
            row["oid"] = files[asked["path"]].etag
        rows.append(row)
    return _json({"files": rows})


def _lfs_batch(call, body, kind, repo_id):
    repo = call.repo(_KINDS.get((kind or "").strip("/"), "model"), repo_id, write=True)
    rows = []
    for asked in json.loads(body)["objects"]:
        row = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in repo.objects:
            href = f"{call.server.hub.url}/lfs/{repo.kind}/{repo.id}/{asked['oid']}"
            row["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        rows.append(row)
    return _json({"transfer": "basic", "objects": rows})


def _lfs_put(call, body, kind, repo_id, oid):
    repo = call.server.hub.repos[kind, repo_id]
    repo.objects[oid] = body
    repo.uploads.append(oid)
    return _json({})


def _lfs_verify(call, body, kind, repo_id, oid):
    repo = call.server.hub.repos[kind, repo_id]
    if oid not in repo.objects or len(repo.objects[oid]) != json.loads(body)["size"]:
        raise Refused(404, "not there")
    return _json({})


def _commit(call, body, kind, repo_id, revision):
    repo = call.repo(kind, repo_id, write=True)
    header, *changes = [json.loads(line) for line in body.splitlines() if line]
    decoded = []
    for change in changes:
        value = dict(change["value"])
        if change["key"] == "file":
            value["content"] = base64.b64decode(value["content"])
        decoded.append((change["key"], value))
    commit, ref = repo.commit(revision, header["value"], decoded, create_pr="create_pr" in call.asked)
    url = f"{call.server.hub.url}/{repo_id}/commit/{commit.oid}"
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": url}
    if ref.startswith("refs/pr/"):
        answer["pullRequestUrl"] = f"{call.server.hub.url}/{repo_id}/discussions/{ref.rpartition('/')[2]}"
    return _json(answer)


def _info(call, body, kind, repo_id, revision=None):
    repo = call.repo(kind, repo_id)
    commit = repo.at(revision or "main")
    siblings = [{"rfilename": path} for path in commit.files]
    about = {"id": repo.id, "modelId": repo.id, "sha": commit.oid, "private": repo.private, "siblings": siblings}
    return _json({**about, "tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False})


def _tree(call, body, kind, repo_id, revision, sub=None):
    files, prefix = call.repo(kind, repo_id).at(revision).files, f"{sub}/" if sub else ""
    below = {path: file for path, file in files.items() if path.startswith(prefix)}
    if sub and not below:
        raise Refused(404, "Entry not found", "EntryNotFound")
    rows = [file.listing(path) for path, file in below.items()]
    if call.asked.get("recursive", "").lower() in ("true", "1"):
        return _json(rows)
    folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in below if "/" in path.removeprefix(prefix)}
    return _json(
        [row for row in rows if "/" not in row["path"].removeprefix(prefix)] + [*map(_folder, sorted(folders))]
    )


def _folder(path):
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _paths_info(call, body, kind, repo_id, revision):
    asked = call.headers.get("Content-Type", "")
    paths = json.loads(body)["paths"] if "json" in asked else parse_qs(body.decode())["paths"]
    files = call.repo(kind, repo_id).at(revision).files
    folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
    return _json([files[path].listing(path) for path in paths if path in files] + [*map(_folder, folders)])


def _refs(call, body, kind, repo_id):
    repo = call.repo(kind, repo_id)
    rows = [{"name": n, "ref": n if n.startswith("refs/") else f"refs/heads/{n}", "targetCommit": c.oid}
            for n, c in repo.refs.items()]  # fmt: skip
    requests = [row for row in rows if row["ref"].startswith("refs/pr/")]
    answer = {"branches": [row for row in rows if row not in requests], "tags": [], "converts": []}
    if "include_prs" in call.asked:
        answer["pullRequests"] = requests
    return _json(answer)


def _branch(call, body, kind, repo_id, name):
    repo = call.repo(kind, repo_id, write=True)
    if name in repo.refs:
        raise Refused(409, "Reference already exists")
    start = json.loads(body or b"{}").get("startingPoint", "main")
    repo.refs[name] = repo.at(start)
    return _json({})


def _resolve(call, body, kind, repo_id, revision, path):
    repo = call.repo(_KINDS.get((kind or "").strip("/"), "model"), repo_id)
    commit = repo.at(revision)
    if path not in commit.files:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    file = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
    content, status = file.content, 200
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or ""):
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        content, status = content[start : end + 1], 206
    return status, {**headers, "Content-Length": str(len(content))}, content


_REPO = r"(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_WEB = r"(?P<kind>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
_LFS_PATH = r"/lfs/(?P<kind>\w+)/(?P<repo_id>[^/]+/[^/]+)/(?P<oid>\w{64})"
_REV = r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES = [
    (re.compile(pattern), serve)
    for pattern, serve in (
        (r"GET /api/whoami-v2", _whoami),
        (r"POST /api/repos/create", _create),
        (r"POST /api/validate-yaml", _validate_yaml),
        (rf"POST /api/{_REPO}/preupload/{_REV}", _preupload),
        (rf"POST /api/{_REPO}/commit/{_REV}", _commit),
        (rf"POST /api/{_REPO}/paths-info/{_REV}", _paths_info),
        (rf"POST /api/{_REPO}/branch/(?P<name>.+)", _branch),
        (rf"GET /api/{_REPO}", _info),
        (rf"GET /api/{_REPO}/refs", _refs),
        (rf"GET /api/{_REPO}/revision/{_REV}", _info),
        (rf"GET /api/{_REPO}/tree/{_REV}(?:/(?P<sub>.+))?", _tree),
        (rf"POST /{_WEB}\.git/info/lfs/objects/batch", _lfs_batch),
        (rf"PUT {_LFS_PATH}", _lfs_put),
        (rf"POST {_LFS_PATH}/verify", _lfs_verify),
        (rf"(?:HEAD|GET) /{_WEB}/resolve/{_REV}/(?P<path>.+)", _resolve),
    )
]
