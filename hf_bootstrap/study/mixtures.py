"""What differs between points that a law takes for alike: releases, and the text itself."""

from collections.abc import Iterable, Mapping, Sequence

from ..records import ScalingPoint

__all__ = ["mixed_releases", "mixed_text", "releases"]


def releases(versions: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Every release of every package that was used."""
    return _gathered((name, str(release)) for kinds in versions for name, release in kinds.items())


def mixed_releases(points: Iterable[ScalingPoint]) -> dict[str, tuple[str, ...]]:
    """The releases of each package of which the points were made with more than one."""
    return _several(releases(point.versions for point in points))


def mixed_text(points: Sequence[ScalingPoint]) -> list[str]:
    """Sentences, one for each text or tokenizer of which the points know more than one.

    What runs differ in by design (domain, seed, replay) is no mixture.
    """
    found = _several(_gathered(pair for point in points for pair in _texts(point)))
    return [f"Mixed: {what} is {' and '.join(value[:12] for value in values)}." for what, values in found.items()]


def _texts(point: ScalingPoint) -> Iterable[tuple[str, str]]:
    """What of a point's text must agree with others, in words, and its hash."""
    for name, value in point.hashes.items():
        kind, _, domain = name.partition("/")
        if kind == "eval_set":
            yield f"the held-out text of {domain or point.domain}", value
        elif kind == "data":
            # Each method has a mixture of its own, and a seed an order of its own.
            mixed = f", {point.method} with {point.replay_ratio:.0%} replay" if point.replay_ratio else ""
            yield f"the training text of {point.domain}, seed {point.seed}{mixed}", value
        else:
            yield f"the {name}", value


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for name, value in pairs:
        found.setdefault(name, set()).add(value)
    return {name: tuple(sorted(values)) for name, values in sorted(found.items())}


def _several(found: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: values for name, values in found.items() if len(values) > 1}
