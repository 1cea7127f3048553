"""A law goes to the Hub and comes back: which files it has there, and which of them `from_pretrained` reads.

How files travel is the business of `hub`, what is in them that of `law_file`, `card` and `planner`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, LawError
from ..hub.patience import Say
from ..hub.pull import is_repo_id, pull_files
from ..hub.push import Content, Pushed, push_files
from .evidence import Comparison
from .law_file import LARGEST_LAW, LAW_FILE
from .law_folder import OWNED, POINTS_FILES, law_files

if TYPE_CHECKING:
    from .law import ScalingLaw

__all__ = ["found_folder", "push_law", "push_planner"]


def found_folder(place: str | Path, revision: str | None = None) -> Path:
    """The folder of a law: the path itself, or that of a repository's law in the Hub's cache.

    Raises:
        LawError: a revision of a folder on this machine.
        HubError: the repository cannot be had, or holds no law.
    """
    if not isinstance(place, str) or not is_repo_id(place):
        if revision is not None:
            raise LawError(f"{place} is a folder here, which has no revision {revision!r}; leave revision out.")
        return Path(place)
    folder = pull_files(place, (LAW_FILE, *POINTS_FILES), revision=revision, largest=LARGEST_LAW)
    if not (folder / LAW_FILE).exists():
        raise HubError(f"{place} holds no {LAW_FILE}, so it is no law. Check the name and the revision.")
    return folder


def push_law(
    law: "ScalingLaw",
    repo_id: str,
    *,
    points: bool = True,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    comparison: Comparison | None = None,
    metadata: Mapping[str, Any] | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Pushed:
    """One commit with all of a law's files; see `ScalingLaw.push_to_hub`."""
    return push_files(
        dict(law_files(law, address=repo_id, points=points, comparison=comparison, metadata=metadata)),
        repo_id,
        private=private,
        revision=revision,
        create_pr=create_pr,
        message=f"Law {law.fitted.form.name} with its card and planner",
        owned=OWNED,
        patience=patience,
        say=say,
    )


def push_planner(
    law: "ScalingLaw",
    repo_id: str,
    *,
    private: bool | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Pushed:
    """The planner as a static Space: a page without a server behind it."""
    from ..hub.cards import front_matter

    metadata = {"title": f"Planner {law.fitted.form.name}", "sdk": "static", "app_file": "index.html"}
    card = f"{front_matter({**metadata, 'tags': ['scaling-law', 'hf-bootstrap']})}\n\nMade by hf-bootstrap.\n"
    files: dict[str, Content] = {"README.md": card.encode(), "index.html": law.to_html().encode()}
    return push_files(
        files,
        repo_id,
        kind="space",
        private=private,
        space_sdk="static",
        message="Planner of a law",
        patience=patience,
        say=say,
    )
