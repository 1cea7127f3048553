"""What a Hub remembers: repositories of commits, each a complete set of files; nothing about HTTP."""

import hashlib
import itertools
import threading
from dataclasses import dataclass, field

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_COUNTER = itertools.count(1)


class Refused(Exception):
    """An answer that is not a success: status, the Hub's error code, and a message."""

    def __init__(self, status, message, code=None, headers=()):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers)


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class File:
    content: bytes
    lfs: bool = False

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self):
        if not self.lfs:
            return git_oid(self.content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return git_oid(pointer.encode())

    @property
    def etag(self):
        return self.sha256 if self.lfs else self.oid

    def listing(self, path):
        row = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        if self.lfs:
            row["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return row


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: "Commit | None"
    files: dict
    summary: str = ""


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    refs: dict = field(default_factory=dict)
    commits: dict = field(default_factory=dict)
    objects: dict = field(default_factory=dict)  # LFS content by sha256, committed or not
    uploads: list = field(default_factory=list)  # what was sent there, in order
    lock: threading.RLock = field(default_factory=threading.RLock)
    sdk: str | None = None

    def __post_init__(self):
        self.add_commit("main", None, {".gitattributes": File(b"*.safetensors filter=lfs\n")}, "initial commit")

    def head(self, ref="main"):
        return self.at(ref).files

    def at(self, revision):
        for name in (revision, f"refs/heads/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return self.commits[revision]
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, ref="main"):
        commit, found = self.at(ref), []
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found

    def add_commit(self, ref, parent, files, summary):
        seed = f"{self.kind}/{self.id}/{next(_COUNTER)}/{summary}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, files, summary)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit
        return commit

    def commit(self, ref, header, changes, *, create_pr=False):
        """One commit, whole or not at all; refused where the parent it names is no longer the head."""
        with self.lock:
            head = self.at(ref)
            expected = header.get("parentCommit")
            if expected is not None and head.oid != expected:
                raise Refused(412, f"A commit has happened since. Please refresh and try again. Head: {head.oid}")
            files = dict(head.files)
            for key, value in changes:
                self._apply(files, key, value)
            if create_pr:
                ref = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in self.refs)}"
            return self.add_commit(ref, head, files, header.get("summary", "")), ref

    def _apply(self, files, key, value):
        path = value["path"]
        if key == "file":
            files[path] = File(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise Refused(400, f"lfs pointer pointed to a file that does not exist: {path}")
            files[path] = File(self.objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if path not in files:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del files[path]
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
