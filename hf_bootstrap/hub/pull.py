"""A repository comes down whole and checked, or not at all.

Into the Hub's own cache for those who only read, or into a folder that appears under its name when it is complete.
"""

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import HubError, StoreError
from ..store import sync_folder, write_atomic
from .patience import Patience, Say
from .push import REPO_ID, Kind, Remote, blob_ids, client, look
from .refusals import failures, wrong

__all__ = ["is_repo_id", "pull_files", "pull_folder"]


_OWN = ".cache/huggingface"  # what the client keeps beside the files that it fetches into a folder


def is_repo_id(text: str) -> bool:
    """Whether a text could be the name of a repository (``user/name``) rather than a path: no such folder is here."""
    return bool(REPO_ID.fullmatch(text)) and not Path(text).exists()


def pull_files(
    repo_id: str,
    patterns: Iterable[str] = ("*",),
    *,
    kind: Kind = "model",
    revision: str | None = None,
    largest: int | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Path:
    """The files of one revision in the Hub's cache, each with the content the Hub says it has.

    With HF_HUB_OFFLINE what the cache has of that revision, which may be none of the files.

    Args:
        repo_id: ``user/name``.
        patterns: of the paths wanted.
        kind: of repository.
        revision: a branch, tag, commit or ``refs/pr/N``; the main branch by default.
        largest: bytes above which a file is refused before it is fetched.
        patience: seconds that may be spent waiting for a busy Hub, in all.
        say: is handed one sentence before each wait.

    Returns:
        The folder in the cache; it is the Hub's, and is only to be read.

    Raises:
        HubError: it is not there, may not be read, or stays out of reach; a file is too large, or came damaged.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return _cached(repo_id, tuple(patterns), kind, revision)
    return _pull(repo_id, tuple(patterns), kind, revision, largest, Patience(patience, say), None)


def pull_folder(
    repo_id: str,
    target: str | Path,
    *,
    kind: Kind = "model",
    revision: str | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Path:
    """A repository as a folder, which appears under its name when every file is there and checked.

    What an interrupted call fetched is kept beside it, hidden, and not fetched again.

    Raises:
        HubError: as `pull_files`, or `target` exists already.
        StoreError: the folder cannot be written.
    """
    target = Path(target)
    if target.exists():
        raise HubError(f"{target} exists already, and nothing in it is replaced. Name another folder, or remove it.")
    hidden = target.parent / f".{target.name}.pulling"
    if hidden.is_symlink():
        raise StoreError(f"{hidden} is a link, and what is fetched would land where it leads. Remove it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _pull(repo_id, ("*",), kind, revision, None, Patience(patience, say), hidden)
        shutil.rmtree(hidden / _OWN, ignore_errors=True)
        if (hidden / ".cache").is_dir() and not any((hidden / ".cache").iterdir()):
            (hidden / ".cache").rmdir()
        os.rename(hidden, target)
        sync_folder(target.parent)
    except HubError:
        raise
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error}. Check the path and the space that is left.") from error
    return target


def _pull(
    repo_id: str,
    patterns: tuple[str, ...],
    kind: Kind,
    revision: str | None,
    largest: int | None,
    waits: Patience,
    into: Path | None,
) -> Path:
    from huggingface_hub import snapshot_download

    api = client()
    while True:
        try:
            with waits.watching():
                head = look(api, repo_id, kind, revision)
                wanted = {n: f for n, f in head.files.items() if any(fnmatch.fnmatch(n, p) for p in patterns)}
                _refuse_names(repo_id, wanted)
                _refuse_large(repo_id, wanted, largest)
                if into is not None:
                    _sweep(into, wanted)
                # By its commit: between two looks at a branch it may move, and files of two revisions are none.
                folder = snapshot_download(
                    repo_id,
                    repo_type=kind,
                    revision=head.commit,
                    allow_patterns=list(patterns),
                    local_dir=into,
                    library_name="hf-bootstrap",
                )
            found = _checked(Path(folder), Remote(head.commit, wanted), repo_id)
            if into is None:
                _remember(found, revision or "main", head.commit)
            return found
        except failures() as error:
            waits.after(error, f"Fetching {repo_id}")


def _cached(repo_id: str, patterns: tuple[str, ...], kind: Kind, revision: str | None) -> Path:
    """The files an earlier call left in the cache; there a file is named by what the Hub said it holds."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, repo_type=kind, revision=revision, local_files_only=True))
    except failures() as error:
        raise wrong(error, f"Finding {repo_id} without the network") from error
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        wanted = path.is_symlink() and any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        if wanted and path.resolve().name not in blob_ids(path):
            raise HubError(f"{name} of {repo_id} was damaged in the cache: {path.resolve()}. Remove that file.")
    return folder


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Let the cache know which commit a name stood for, as the client does where it is asked by name."""
    if revision != commit and ".." not in revision:
        with contextlib.suppress(StoreError):  # a cache one may only read
            write_atomic(folder.parent.parent / "refs" / revision, commit)


def _refuse_names(repo_id: str, files: Iterable[str]) -> None:
    """A repository's listing is what its owner, or whoever answers for the Hub, says it is."""
    for name in files:
        parts = name.split("/")
        odd = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
        if odd or "\\" in name or not name.isprintable() or name.startswith(f"{_OWN}/"):
            raise HubError(
                f"{repo_id} lists a file {name[:200]!r}, which is no name for a file inside a folder. Nothing "
                "is fetched."
            )


def _refuse_large(repo_id: str, files: dict[str, tuple[str, int]], largest: int | None) -> None:
    for name, (_, size) in files.items():
        if largest is not None and size > largest:
            raise HubError(
                f"{name} of {repo_id} has {size:,} bytes; {largest:,} are allowed for what it should be. It is not "
                "fetched."
            )


def _sweep(folder: Path, wanted: dict[str, tuple[str, int]]) -> None:
    """Remove what an earlier, interrupted pull of another revision left behind."""
    for path in folder.rglob("*") if folder.exists() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(f"{_OWN}/") and name not in wanted:
            path.unlink()


def _checked(folder: Path, head: Remote, repo_id: str) -> Path:
    for name, (oid, size) in head.files.items():
        path = folder / name
        if not path.is_file():
            raise HubError(f"{name} of {repo_id} did not arrive. Run the same command again.")
        if path.stat().st_size != size or oid not in blob_ids(path):
            there = path.resolve()
            there.unlink()  # else the cache would give it again
            raise HubError(f"{name} of {repo_id} is not what the Hub says it holds; removed. Run the same again.")
    return folder
