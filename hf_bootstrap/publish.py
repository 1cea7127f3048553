"""Whatever this library made goes to the Hub: a law, a grown checkpoint, points, or a study; each with its card.

What kind of thing a path holds is read off its files. How it travels is the business of `hub`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import __version__
from .errors import HubError
from .folders import standing
from .growth.card import growth_card
from .hub.cards import Markdown, code, front_matter, render, table
from .hub.merging import merge_points
from .hub.patience import Say
from .hub.push import Content, Pushed, folder_files, push_files
from .laws.law import ScalingLaw
from .laws.publish import push_law, push_planner
from .records import ScalingPoint
from .store import read_points
from .units import format_count

__all__ = ["kind_of_thing", "publish", "publish_points"]


def publish(
    path: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    points: bool = True,
    compare: bool = True,
    space: bool = False,
    base_model: str | None = None,
    base_tokens: float | None = None,
    law: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    patience: float = 300.0,
    say: Say | None = None,
) -> Pushed:
    """Put a law, a grown checkpoint, a points file or a study into a repository, in one commit.

    Args:
        path: a folder with `law.json`, one with `growth.json`, a points file, or a study (its `points/` are put into a
            dataset).
        repo_id: ``user/name``; a model repository for laws and models, a dataset for points and studies.
        private, revision, create_pr: see `push_files`.
        points: whether the points of a law go with it.
        compare: whether a law's card compares forms on its points; see `ScalingLaw.push_to_hub`.
        space: put the planner of a law up as a static Space, instead of the law.
        base_model: Hub name of what a model was grown from, or a law speaks of.
        base_tokens: tokens behind that base, where they are known.
        law: for a grown model: a law whose forecast its card shows; needs `base_tokens`.
        metadata: of the card: ``license``, ``language``, ``datasets``, ``tags``.
        patience: seconds that may be spent waiting for a busy Hub, in all.
        say: is handed a sentence before each wait.

    Raises:
        HubError: the path holds none of these, or the Hub refuses or stays away.
    """
    kind = kind_of_thing(path)
    asked: dict[str, Any] = {"private": private, "patience": patience, "say": say}
    branch: dict[str, Any] = {"revision": revision, "create_pr": create_pr}
    if space:
        return _publish_planner(path, repo_id, kind, given=[name for name, value in branch.items() if value], **asked)
    unused = {"base_tokens": base_tokens, "law": law, **({} if kind == "law" else {"base_model": base_model})}
    if kind != "model" and (named := [name for name, value in unused.items() if value is not None]):
        raise HubError(f"{path} holds {kind}, whose card does not tell {' and '.join(named)}; leave that out.")
    asked |= {**branch, "metadata": metadata}
    if kind == "law":
        about = {**({} if base_model is None else {"base_model": base_model}), **(metadata or {})}
        found = ScalingLaw.from_pretrained(Path(path))
        return push_law(found, repo_id, points=points, compare=compare, **{**asked, "metadata": about})
    if kind == "model":
        tokens = None if base_tokens is None else {"before growth": base_tokens}
        forecast = None if law is None else _forecast(ScalingLaw.from_pretrained(law), base_tokens)
        return _publish_model(path, repo_id, base_model=base_model, tokens=tokens, forecast=forecast, **asked)
    return _publish_measured(Path(path), repo_id, **asked)


def _publish_planner(path: str | Path, repo_id: str, kind: str, *, given: list[str], **asked: Any) -> Pushed:
    if kind != "law":
        raise HubError(f"{path} holds {kind}, and only a law has a planner to put up as a Space. Leave space out.")
    if given:
        raise HubError(f"A Space is put up on its main branch; leave {' and '.join(given)} out.")
    return push_planner(ScalingLaw.from_pretrained(Path(path)), repo_id, **asked)


def _publish_model(
    path: str | Path,
    repo_id: str,
    *,
    base_model: str | None,
    tokens: Mapping[str, float] | None,
    forecast: str | None,
    metadata: Mapping[str, Any] | None,
    **asked: Any,
) -> Pushed:
    card = growth_card(
        path, address=repo_id, base_model=base_model, tokens=tokens, forecast=forecast, metadata=metadata
    )
    files = {**folder_files(path), "README.md": card.encode()}
    return push_files(files, repo_id, message="Grown checkpoint with its card", **asked)


def _publish_measured(path: Path, repo_id: str, **asked: Any) -> Pushed:
    """A points file, or a study's points with its report."""
    found = [path] if path.is_file() else sorted((path / "points").glob("*.jsonl"))
    extra: dict[str, Content] = {}
    if path.is_dir() and (path / "report.html").is_file():
        extra["report.html"] = path / "report.html"
    return publish_points({one.name: one for one in found}, repo_id, extra=extra, **asked)


def kind_of_thing(path: str | Path) -> str:
    """``law``, ``model``, ``points`` or ``study``, by the files that are there.

    Raises:
        HubError: none of these, or one that is not complete.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".jsonl":
        return "points"
    if (standing(path) / "law.json").is_file():
        return "law"
    if (path / "growth.json").is_file():
        return "model"
    if (path / "points").is_dir() and any((path / "points").glob("*.jsonl")):
        return "study"
    raise HubError(
        f"{path} holds no law (law.json), no grown checkpoint (growth.json), no study (points/*.jsonl), and is no "
        "points file (.jsonl), so there is nothing here to publish. Check the path."
    )


def publish_points(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    extra: Mapping[str, Content] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **asked: Any,
) -> Pushed:
    """Put points files into a dataset; points that are there already, whoever measured them, stay.

    Args:
        files: name -> points file; each is put under ``data/``.
        repo_id: ``user/name`` of a dataset.
        extra: further files.
        metadata: of the card.
        asked: see `push_files`.

    Raises:
        HubError: a file holds no points, or damaged lines.
    """
    measured: list[ScalingPoint] = []
    sent: dict[str, Content] = dict(extra or {})
    for name, path in files.items():
        read = read_points(path)
        damaged = [f"line {number}: {why}" for number, why in read.problems if number not in read.harmless]
        if damaged or not read.points:
            raise HubError(
                f"{path} cannot be published: {'; '.join(damaged[:3]) or 'it holds no points'}. Repair it first."
            )
        measured += read.points
        sent[f"data/{name}"] = merge_points(b"", path.read_bytes())
    card = _points_card(measured, sorted(n for n in sent if n.startswith("data/")), repo_id, metadata or {})
    merge = {name: merge_points for name in sent if name.startswith("data/")}
    return push_files(
        {**sent, "README.md": card.encode()}, repo_id, kind="dataset", merge=merge, message="Scaling points", **asked
    )


def _points_card(points: list[ScalingPoint], names: list[str], repo_id: str, metadata: Mapping[str, Any]) -> str:
    given = dict(metadata)
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.jsonl"}]}]
    tags = ["scaling-law", "hf-bootstrap", *given.pop("tags", [])]
    methods = sorted({point.method for point in points if point.method is not None})
    runs = {point.run_id for point in points}
    tokens = [point.tokens for point in points]
    known = [f.name for f in dataclasses.fields(ScalingPoint) if any(getattr(p, f.name) is not None for p in points)]
    first = next((method for method in methods if method != "scratch"), None)
    span = f"{format_count(min(tokens))} to {format_count(max(tokens))}"
    overview = f"The last push brought {len(points)} points of {len(runs)} runs, at {span} trained tokens."
    return render(
        "points_card.md",
        front_matter=front_matter({**given, "tags": tags, "configs": configs}),
        title=repo_id,
        overview=overview,
        columns=Markdown(", ".join(code(name) for name in known) + "."),
        address=Markdown(repo_id),
        example=Markdown(names[0].replace('"', "")),
        where=Markdown("" if first is None or len(methods) < 2 else f', where={{"method": {json.dumps(first)}}}'),
        runs=table(["method", "points"], [[m, str(sum(p.method == m for p in points))] for m in methods]),
        version=__version__,
    )


def _forecast(law: ScalingLaw, base_tokens: float | None) -> str:
    """What a two-stage law says of training on from this base, at both ends of its own data."""
    if base_tokens is None:
        raise HubError("A forecast needs the tokens behind the base, which nothing here knows: give base_tokens.")
    ranges = law.fitted.ranges
    if set(law.fitted.form.columns) != {"base_tokens", "tokens"} or not ranges:
        raise HubError("The law given does not read base tokens and tokens alone, or knows no data: no forecast by it.")
    told = []
    for tokens in ranges["tokens"]:
        found = law.predict(base_tokens=base_tokens, tokens=tokens)
        interval = "interval not known" if found.low is None else f"95%: {found.low:.3f} to {found.high:.3f}"
        told.append(f"{found.value:.3f} {law.fitted.loss_unit} after {format_count(tokens)} more tokens ({interval})")
    return f"By the law {law.fitted.form.name}, from a base of {format_count(base_tokens)} tokens: {'; '.join(told)}."
