"""One stage as runs: a stable part at constant rate and a decay branched off it for every mark.

Where runs of the same stage exist already, a further mark goes on from their checkpoints, so a study that grows
trains only what is new. Pure: what exists is handed in as `Known`; reading folders is the business of `files`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ..records import RunSpec
from ..sealing import canonical_json

__all__ = ["Known", "Laid", "lay_out", "stable_key"]


@dataclass(frozen=True, kw_only=True)
class Laid:
    """The runs of a stage.

    Attributes:
        root: id of the stable run all others go back to; a base's trunk is known by it.
        stable: runs at constant rate, each after the one it goes on from.
        decays: the run that ends at each mark, in the order of the marks.
        at: tokens -> ``<run id>/checkpoint-<step>`` of the stable part.
    """

    root: str
    stable: tuple[RunSpec, ...]
    decays: tuple[RunSpec, ...]
    at: dict[int, str]

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """All of them, each after the one it starts from."""
        return (*self.stable, *self.decays)


class Known:
    """Stable runs that exist, by the stage they belong to.

    Args:
        specs: runs that were begun or done.
        done: ids of those that are done.
        lost: ``<run id>/checkpoint-<step>`` that a done run once wrote and that are gone.
    """

    def __init__(self, specs: Iterable[RunSpec] = (), done: Collection[str] = (), lost: Collection[str] = ()) -> None:
        self.done, self.lost = frozenset(done), frozenset(lost)
        stable = {spec.run_id: spec for spec in specs if not spec.decay_tokens}
        self._stages: dict[str, dict[str, RunSpec]] = {}
        for run_id, spec in stable.items():
            root: RunSpec | None = spec
            while root is not None and root.resume:
                root = stable.get(str(root.parent_run_id))
            if root is not None:
                self._stages.setdefault(stable_key(root), {})[run_id] = spec

    def stage(self, root: RunSpec) -> dict[str, RunSpec]:
        """The runs that go back to one that differs from `root` in nothing but its length, by id; shortest first."""
        found = self._stages.get(stable_key(root), {}) if self._stages else {}
        return dict(sorted(found.items(), key=lambda item: (item[1].tokens, item[0])))


def stable_key(spec: RunSpec) -> str:
    """What two runs at constant rate share when one is merely longer, or keeps more checkpoints, than the other."""
    record = spec.to_dict()
    for name in ("tokens", "checkpoints", "marks"):
        record.pop(name)
    return canonical_json(record)


def lay_out(
    root: RunSpec, ends: Sequence[tuple[int, int]], known: Known, *, also: Sequence[int] = (), keep_ends: bool = False
) -> Laid:
    """The runs of a stage.

    Args:
        root: the stable run as it would be on its own; its tokens and checkpoints are set here.
        ends: (tokens at the start of the decay, tokens at its end) of every mark, rising.
        known: what exists.
        also: tokens at which the stable part itself is wanted.
        keep_ends: whether each decay keeps its last checkpoint, for a stage that starts from it.
    """
    wanted = sorted({*(start for start, _ in ends), *also})
    fresh = replace(root, tokens=wanted[-1], checkpoints=tuple(wanted))
    chain = known.stage(fresh)
    at = {count: _at(run_id, spec, count) for run_id, spec in chain.items() for count in spec.checkpoints}
    usable = {count: place for count, place in at.items() if place not in known.lost}
    done = {
        start
        for start, end in ends
        if start in at and known.done and _decay(fresh, at[start], start, end, keep_ends).run_id in known.done
    }
    missing = [count for count in wanted if count not in usable and count not in done]
    for below, group in _grouped(missing, usable).items():
        run = replace(fresh, tokens=group[-1], checkpoints=tuple(group))
        if below is not None:
            run = _going_on(run, usable[below])
        chain[run.run_id] = run
        at.update({count: _at(run.run_id, run, count) for count in group})
    used = _with_ancestors({at[count].partition("/")[0] for count in wanted}, chain)
    roots = [run_id for run_id, spec in used.items() if not spec.resume]
    decays = tuple(_decay(fresh, at[start], start, end, keep_ends) for start, end in ends)
    return Laid(root=roots[0], stable=tuple(used.values()), decays=decays, at=at)


def _at(run_id: str, spec: RunSpec, count: int) -> str:
    return f"{run_id}/checkpoint-{count // spec.batch_tokens}"


def _decay(stable: RunSpec, place: str, start: int, end: int, keep_end: bool) -> RunSpec:
    return replace(
        _going_on(stable, place), tokens=end, decay_tokens=end - start, checkpoints=(end,) if keep_end else ()
    )


def _going_on(run: RunSpec, place: str) -> RunSpec:
    return replace(run, model=None, growth=None, start=place, resume=True, marks=())


def _grouped(missing: Sequence[int], usable: dict[int, str]) -> dict[int | None, list[int]]:
    """What is missing, by the nearest checkpoint below it; None where there is none."""
    groups: dict[int | None, list[int]] = {}
    for count in missing:
        groups.setdefault(max((below for below in usable if below < count), default=None), []).append(count)
    return groups


def _with_ancestors(run_ids: Collection[str], chain: dict[str, RunSpec]) -> dict[str, RunSpec]:
    needed: dict[str, RunSpec] = {}

    def add(run_id: str) -> None:
        spec = chain[run_id]
        if spec.resume:
            add(str(spec.parent_run_id))
        needed[run_id] = spec

    for run_id in (run_id for run_id in chain if run_id in run_ids):
        add(run_id)
    return needed
