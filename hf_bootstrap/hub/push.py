"""Files go up to a repository in one commit, or nothing there changes.

Large files are stored first, outside any revision; what an interrupted push stored is not sent again. Then one
commit names them all, on the condition that the head is still the one we looked at. When it is not, or when nobody
can say whether a commit landed, the head is read again, files that several may add to are merged, and what already
is there is not sent.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import HubError
from .patience import Patience, Say
from .refusals import failures

__all__ = [
    "REPO_ID",
    "Content",
    "Kind",
    "Merge",
    "Pushed",
    "Remote",
    "blob_ids",
    "check_name",
    "client",
    "folder_files",
    "look",
    "push_files",
]

Kind = Literal["model", "dataset", "space"]
Content = bytes | Path
Merge = Callable[[bytes, bytes], bytes]  # what is there, what we bring -> what both say

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # user/name

_MOST_FILES = 100_000
# Left by programs in folders that people publish; never ours to send.
_NOT_SENT = (".*", "*/.*", "__pycache__/*", "*/__pycache__/*")


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did.

    Attributes:
        url: of the commit, or of the pull request.
        commit: the revision, 40 hexadecimal digits, that now holds the files.
        changed: False where everything was there already, and no commit was made.
    """

    url: str
    commit: str
    changed: bool


@dataclass(frozen=True)
class Remote:
    """One revision as it is on the Hub: path -> (id of its content, bytes)."""

    commit: str
    files: Mapping[str, tuple[str, int]]


@dataclass
class _Push:
    """One push under way: what is asked, and what was learnt."""

    api: Any
    repo_id: str
    kind: Kind
    revision: str | None
    create_pr: bool
    message: str
    files: Mapping[str, Content]
    merge: Mapping[str, Merge]
    owned: tuple[str, ...]
    known: frozenset[str] | None = None  # pull requests there before ours
    additions: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, tuple[str, str]] = field(default_factory=dict)


def push_files(
    files: Mapping[str, Content],
    repo_id: str,
    *,
    kind: Kind = "model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload with hf-bootstrap",
    merge: Mapping[str, Merge] | None = None,
    owned: Iterable[str] = (),
    space_sdk: str | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Pushed:
    """Put files into a repository, in one commit that holds all of them; it is made where it does not exist.

    The login is the Hub's own (`hf auth login`, or HF_TOKEN); there is no other way to give one.

    Args:
        files: path in the repository -> its bytes, or the file to read them from.
        repo_id: ``user/name``.
        kind: of repository.
        private: of a new repository; True is refused where it exists and is public.
        revision: a branch, made from the main one where it does not exist; the main one by default.
        create_pr: open a pull request instead of committing to the branch.
        message: of the commit, one line.
        merge: path -> how what is there and what we bring become one; other files are replaced.
        owned: patterns of paths this push speaks for: those that are there and not in `files` are removed.
        space_sdk: of a new Space.
        patience: seconds that may be spent waiting for a busy Hub, in all.
        say: is handed one sentence before each wait.

    Raises:
        HubError: the Hub refuses, stays busy for longer than `patience`, or cannot be reached. Nothing is changed
            there then, or, where an answer never came, either nothing or the whole commit.
    """
    if not files:
        raise HubError(f"There is nothing to push to {repo_id}: no files were given. Name some.")
    check_name(repo_id)
    waits = Patience(patience, say)
    push = _Push(client(), repo_id, kind, revision, create_pr, message, dict(files), dict(merge or {}), tuple(owned))
    made = False
    while True:
        try:
            with waits.watching():
                if not made:
                    _make_repository(push, private, space_sdk)
                    made = True
                return _attempt(push)
        except failures() as error:
            waits.after(error, f"The push to {repo_id}")


def check_name(repo_id: str) -> None:
    """Refuse what can be no repository of somebody, before anything takes time.

    Raises:
        HubError: it is not of the form ``user/name``.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is no name of a repository on the Hub. Write user/name, such as me/code-law.")


def client() -> Any:
    """The Hub's own client, which finds the login by itself."""
    from huggingface_hub import HfApi

    return HfApi(library_name="hf-bootstrap", library_version=__version__)


def folder_files(folder: str | Path) -> dict[str, Content]:
    """Every file under a folder by its path there, hidden ones left out, for `push_files`.

    Raises:
        HubError: it is no folder, holds no files, or a link that leaves it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise HubError(f"{root} is not a folder. Give the folder that holds what is to be published.")
    found: dict[str, Content] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or any(fnmatch.fnmatch(name, pattern) for pattern in _NOT_SENT):
            continue
        if not path.resolve().is_relative_to(root.resolve()):
            raise HubError(f"{path} is a link out of {root}, and what it leads to would be published. Copy it there.")
        found[name] = path
    if not found:
        raise HubError(f"{root} holds no files to publish. Check the path.")
    return found


def look(api: Any, repo_id: str, kind: Kind, revision: str | None) -> Remote:
    """A revision's commit and files, read at one commit.

    Raises:
        HubError: there are more than any repository of ours has.
    """
    info = api.repo_info(repo_id, repo_type=kind, revision=revision)
    files = {}
    for entry in api.list_repo_tree(repo_id, repo_type=kind, revision=info.sha, recursive=True):
        if hasattr(entry, "blob_id"):
            lfs = getattr(entry, "lfs", None)
            files[entry.path] = (entry.blob_id if lfs is None else lfs.sha256, int(entry.size))
        if len(files) > _MOST_FILES:
            raise HubError(f"{repo_id} has more than {_MOST_FILES:,} files; it is not read to its end.")
    return Remote(str(info.sha), files)


def blob_ids(content: Content) -> tuple[str, str]:
    """What git and LFS call this content: the SHA-1 of a blob, and the SHA-256 of the bytes."""
    if isinstance(content, bytes):
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), hashlib.sha256(content).hexdigest()  # noqa: S324
    small, large = hashlib.sha1(b"blob %d\0" % content.stat().st_size), hashlib.sha256()  # noqa: S324
    with content.open("rb") as file:
        while part := file.read(2**20):
            small.update(part)
            large.update(part)
    return small.hexdigest(), large.hexdigest()


def _make_repository(push: _Push, private: bool | None, space_sdk: str | None) -> None:
    from huggingface_hub.errors import RevisionNotFoundError

    push.api.create_repo(push.repo_id, repo_type=push.kind, private=private, exist_ok=True, space_sdk=space_sdk)
    if private and not push.api.repo_info(push.repo_id, repo_type=push.kind).private:
        raise HubError(
            f"{push.repo_id} is public, and private was asked for; nothing was sent. Make it private in its settings, "
            "or push to another repository."
        )
    if push.revision is None or push.revision.startswith("refs/"):
        return
    try:
        push.api.repo_info(push.repo_id, repo_type=push.kind, revision=push.revision)
    except RevisionNotFoundError:
        push.api.create_branch(push.repo_id, branch=push.revision, repo_type=push.kind, exist_ok=True)


def _attempt(push: _Push) -> Pushed:
    """Look at the head, send what it lacks; a later attempt finds what an earlier one did."""
    head = look(push.api, push.repo_id, push.kind, push.revision)
    landed = _landed_request(push) if push.create_pr else None
    if landed is not None:
        return landed
    wanted = _merged(push, head)
    operations = _operations(push, head, wanted)
    page = f"{push.api.endpoint}/{'' if push.kind == 'model' else push.kind + 's/'}{push.repo_id}"
    if not operations:
        return Pushed(url=f"{page}/tree/{head.commit}", commit=head.commit, changed=push.known is not None)
    if push.known is None:
        push.known = frozenset(_requests(push)) if push.create_pr else frozenset()
    done = push.api.create_commit(
        push.repo_id,
        operations,
        commit_message=push.message,
        repo_type=push.kind,
        revision=push.revision,
        create_pr=push.create_pr,
        parent_commit=head.commit,
    )
    return Pushed(url=str(done.pr_url or done.commit_url), commit=str(done.oid), changed=True)


def _merged(push: _Push, head: Remote) -> dict[str, Content]:
    """Our files, those to be merged joined with what the head holds."""
    wanted = dict(push.files)
    for path, merge in push.merge.items():
        if path in wanted and path in head.files and not _same(push, path, wanted[path], head):
            mine = wanted[path]
            theirs = push.api.hf_hub_download(
                push.repo_id, path, repo_type=push.kind, revision=head.commit, force_download=False
            )
            wanted[path] = merge(Path(theirs).read_bytes(), mine if isinstance(mine, bytes) else mine.read_bytes())
            push.additions.pop(path, None)
    return wanted


def _same(push: _Push, path: str, content: Content, head: Remote) -> bool:
    if path not in head.files:
        return False
    if isinstance(content, bytes):
        return head.files[path][0] in blob_ids(content)
    ids = push.ids.get(path) or push.ids.setdefault(path, blob_ids(content))
    return head.files[path][0] in ids


def _operations(push: _Push, head: Remote, wanted: Mapping[str, Content]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = []
    for path, content in wanted.items():
        if _same(push, path, content, head):
            continue
        if isinstance(content, bytes) or path not in push.additions:
            push.additions[path] = CommitOperationAdd(path, content)
        operations.append(push.additions[path])
    stale = [path for path in head.files if path not in wanted and any(fnmatch.fnmatch(path, p) for p in push.owned)]
    return [*operations, *(CommitOperationDelete(path) for path in stale)]


def _requests(push: _Push) -> dict[str, str]:
    """Pull requests: ref -> commit."""
    refs = push.api.list_repo_refs(push.repo_id, repo_type=push.kind, include_pull_requests=True)
    return {found.ref: found.target_commit for found in refs.pull_requests or []}


def _landed_request(push: _Push) -> Pushed | None:
    """A pull request of ours whose answer got lost: newer than our first try, and holding our files."""
    if push.known is None:
        return None
    for ref in sorted(set(_requests(push)) - push.known):
        head = look(push.api, push.repo_id, push.kind, ref)
        if all(_same(push, path, content, head) for path, content in push.files.items() if path not in push.merge):
            page = f"{push.api.endpoint}/{'' if push.kind == 'model' else push.kind + 's/'}{push.repo_id}"
            return Pushed(url=f"{page}/discussions/{ref.rpartition('/')[2]}", commit=head.commit, changed=True)
    return None
