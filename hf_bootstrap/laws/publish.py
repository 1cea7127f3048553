"""A law goes to the Hub and comes back: which files it has there, and which of them `from_pretrained` reads.

How files travel is the business of `hub`, what is in them that of `law_file`, `card` and `planner`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FitError, HubError, LawError
from ..hub.cards import front_matter
from ..hub.patience import Say
from ..hub.pull import is_repo_id, pull_files
from ..hub.push import Content, Pushed, check_name, push_files
from .evidence import Comparison, compare_forms, default_rivals
from .law_file import LARGEST_LAW, LAW_FILE
from .law_folder import OWNED, POINTS_FILES, law_files

if TYPE_CHECKING:
    from .law import ScalingLaw

__all__ = ["compared", "found_folder", "push_law", "push_planner"]

_COMPARING = 60.0  # seconds
_MOST_ROWS = 1000  # each is left out in turn; beyond these a single form takes longer than all may


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
    try:
        folder = pull_files(place, (LAW_FILE, *POINTS_FILES), revision=revision, largest=LARGEST_LAW)
    except HubError as error:
        raise HubError(f"There is no folder {place} here, and no law of this name on the Hub. {error}") from error
    if not (folder / LAW_FILE).exists():
        raise HubError(f"{place} holds no {LAW_FILE}, so it is no law. Check the name and the revision.")
    return folder


def push_law(
    law: "ScalingLaw",
    repo_id: str,
    *,
    points: bool = True,
    compare: bool = True,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    metadata: Mapping[str, Any] | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Pushed:
    """One commit with all of a law's files; see `ScalingLaw.push_to_hub`."""
    check_name(repo_id)
    front_matter(metadata or {})  # what the Hub would refuse, before anything takes time
    comparison = compared(law, say or logging.getLogger("hf_bootstrap").warning) if compare else None
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


def compared(law: "ScalingLaw", say: Say) -> Comparison | None:
    """The law's form beside its rivals on the points it was fitted to, for the card, in about a minute at most.

    Args:
        law: any law; None is returned where there is nothing to compare.
        say: is told what is done, and why it is not.
    """
    fitted, points = law.fitted, law.points_
    if points is None:
        return None
    if len(points) > _MOST_ROWS:
        say(f"Forms are not compared on the card: {len(points):,} points would take more than {_COMPARING:g} s.")
        return None
    form = getattr(fitted.form, "inner", fitted.form)
    forms = [form, *(name for name in default_rivals(points) if name != form.name)]
    say(f"Comparing {len(forms)} forms on the {len(points)} points, for the card: at most about {_COMPARING:g} s.")
    try:
        return compare_forms(points, forms, objective=law.objective, delta=law.delta, seconds=_COMPARING)
    except FitError as error:
        say(f"Forms are not compared on the card: {error}")
        return None


def push_planner(
    law: "ScalingLaw",
    repo_id: str,
    *,
    private: bool | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Pushed:
    """The planner as a static Space: a page without a server behind it."""
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
