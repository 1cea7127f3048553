"""What the Hub answers to each request: the routes of create_repo, create_commit, LFS, downloads, refs and branches.

A route is handed the call (`server` knows who asks, and which repository that is) and the body.
"""

import base64
import json
import re
from urllib.parse import parse_qs

import yaml

from .store import KINDS, Refused

_LFS = re.compile(r"\.(safetensors|bin|parquet)$")


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
    repo = call.repo(KINDS.get((kind or "").strip("/"), "model"), repo_id, write=True)
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
    repo = call.repo(KINDS.get((kind or "").strip("/"), "model"), repo_id)
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
ROUTES = [
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
