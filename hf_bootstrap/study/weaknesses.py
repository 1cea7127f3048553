"""What a grid cannot tell, seen before it is trained, and the cheapest mark or seed that would mend it.

Says for plans what the checks of laws say for points. Pure arithmetic on marks; no law is fitted.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..units import format_count
from .config import MethodConfig, StudyConfig
from .corpora import placeholder_facts
from .costs import own_tokens
from .runs import study_runs

__all__ = ["LEVELS", "STEPS", "TRUNKS", "Weakness", "find_weaknesses"]

# Three levels show that a slope changes, a fourth that it changes evenly; below, the form of the law decides.
LEVELS = 4
_DECADES = 1.0
TRUNKS = 3
# Shorter runs, of which re-warming and decay take a good part, fit worst (docs/log.md).
STEPS = 400


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """Something a grid cannot tell.

    Attributes:
        method: whose law it is about; None: of all.
        problem: in words.
        cure: the cheapest addition that would mend it, in words.
        tokens: what the cure would train in addition; None where it is no addition.
    """

    method: str | None
    problem: str
    cure: str
    tokens: int | None

    def __str__(self) -> str:
        """Problem and cure."""
        price = "" if self.tokens is None else f" ({format_count(self.tokens)} tokens more)"
        return f"{self.method + ': ' if self.method else ''}{self.problem} {self.cure}{price}"


def find_weaknesses(config: StudyConfig) -> Iterator[Weakness]:
    """Look at every method's marks, and at the seeds."""
    base_marks = sorted({count for base in config.bases for count in base.tokens})
    elsewhere = sorted({checkpoint.tokens for base in config.bases for checkpoint in base.checkpoints})
    for number, method in enumerate(config.methods):
        if not method.from_base:
            continue
        bases = sorted(method.base_tokens) or base_marks or elsewhere
        own = sorted(set(method.tokens))

        def with_mark(mark: int, number: int = number, own: Sequence[int] = own) -> StudyConfig:
            changed = replace(config.methods[number], tokens=(*own, mark))
            return replace(config, methods=(*config.methods[:number], changed, *config.methods[number + 1 :]))

        def with_base(mark: int, method: MethodConfig = method) -> StudyConfig:
            return _with_base(config, method, mark)

        yield from _about_marks(config, method, "D2", own, with_mark)
        if base_marks:
            yield from _about_marks(config, method, "D1", bases, with_base)
        else:
            yield from _about_checkpoints(method, bases)
        yield from _about_ratio(method, bases, own)
        yield from _about_scratch(config, method)
        yield from _about_steps(config, method, own)
    yield from _about_trunks(config)


def _with_base(config: StudyConfig, method: MethodConfig, mark: int) -> StudyConfig:
    bases = tuple(replace(base, tokens=(*base.tokens, mark)) if base.tokens else base for base in config.bases)
    methods = config.methods
    if method.base_tokens:
        grown = replace(method, base_tokens=(*method.base_tokens, mark))
        methods = tuple(grown if other is method else other for other in methods)
    return replace(config, bases=bases, methods=methods)


def _about_marks(
    config: StudyConfig, method: MethodConfig, what: str, marks: Sequence[int], add: Callable[[int], StudyConfig]
) -> Iterator[Weakness]:
    batch = config.training.batch_size * config.training.sequence_length
    few, decades = len(marks) < LEVELS, math.log10(marks[-1] / marks[0])
    narrow = decades < _DECADES
    if not few and not narrow:
        return
    problem = f"{len(marks)} levels of {what}" if few else f"{what} spans {decades:.1f} decades"
    if few and narrow:
        problem += f" over {decades:.1f} decades"
    curve = (
        "its exponent and its floor cannot be told apart." if what == "D2" else "how it bends the exponent is a guess."
    )
    missing = max(LEVELS - len(marks), 1)
    options = _additions(marks, missing, batch, narrow)
    priced = [(_price(config, _all(add, option, method, what)), option) for option in options]
    tokens, option = min(priced)
    words = " and ".join(format_count(mark) for mark in option)
    yield Weakness(method=method.name, problem=f"{problem}: {curve}", cure=f"Add {what} = {words}", tokens=tokens)


def _additions(marks: Sequence[int], missing: int, batch: int, narrow: bool) -> list[tuple[int, ...]]:
    """Sets of marks that would suffice: above, below (not under the shortest sound run), or between."""
    options = []
    upper = marks[0] * 10**_DECADES if narrow else marks[-1]
    lower = marks[-1] / 10**_DECADES if narrow else marks[0]
    if narrow:
        options.append(_spread(marks, marks[-1], upper, missing, batch))
        if lower >= STEPS * batch:
            options.append(_spread(marks, lower, marks[0], missing, batch))
    else:
        options.append(_between(marks, missing, batch))
    return [option for option in options if option] or [_spread(marks, marks[-1], 2 * marks[-1], missing, batch)]


def _spread(marks: Sequence[int], low: float, high: float, count: int, batch: int) -> tuple[int, ...]:
    """`count` marks evenly in the logarithm, the far end among them, whole steps, the far end rounded outwards."""
    far_is_high = low >= marks[-1]
    share = [(number + 1) / count for number in range(count)]
    points = [low * (high / low) ** part if far_is_high else high * (low / high) ** part for part in share]
    whole = {math.ceil(point / batch) * batch if far_is_high else int(point // batch) * batch for point in points}
    return tuple(sorted(whole - set(marks)))


def _between(marks: Sequence[int], count: int, batch: int) -> tuple[int, ...]:
    """`count` marks, each in the middle (of the logarithm) of the widest gap."""
    found = list(marks)
    for _ in range(count):
        gaps = [(right / left, left, right) for left, right in itertools.pairwise(found)]
        _, left, right = max(gaps)
        found = sorted({*found, round(math.sqrt(left * right) / batch) * batch})
    return tuple(sorted(set(found) - set(marks)))


def _all(add: Callable[[int], StudyConfig], option: Sequence[int], method: MethodConfig, what: str) -> StudyConfig:
    """The study with every mark of an option; `add` takes one, so the rest is added to what it gave."""
    grown = add(option[0])
    for mark in option[1:]:
        if what == "D1":
            now = next(other for other in grown.methods if other.name == method.name)
            grown = _with_base(grown, now, mark)
        else:
            methods = [
                replace(other, tokens=(*other.tokens, mark)) if other.name == method.name else other
                for other in grown.methods
            ]
            grown = replace(grown, methods=tuple(methods))
    return grown


def _price(before: StudyConfig, after: StudyConfig) -> int:
    """Tokens that the larger study trains more, for one seed each and then all of them."""

    def tokens(config: StudyConfig) -> int:
        one = replace(config.narrowed(seeds=config.seeds[:1]), seeds=config.seeds[:1])
        return sum(own_tokens(spec) for spec in study_runs(one, placeholder_facts(one)))

    return (tokens(after) - tokens(before)) * len(before.seeds)


def _about_checkpoints(method: MethodConfig, bases: Sequence[int]) -> Iterator[Weakness]:
    decades = math.log10(bases[-1] / bases[0])
    if len(bases) < LEVELS or decades < _DECADES:
        yield Weakness(
            method=method.name,
            problem=f"{len(bases)} levels of D1 over {decades:.1f} decades: how it bends the exponent is a guess.",
            cure=f"Add checkpoints until there are {LEVELS} levels over a decade",
            tokens=None,
        )


def _about_ratio(method: MethodConfig, bases: Sequence[int], own: Sequence[int]) -> Iterator[Weakness]:
    if len(own) == 1 and len(bases) == 1:
        yield Weakness(
            method=method.name,
            problem="D2/D1 is one constant: alpha1, alpha2 and A cannot be told apart.",
            cure="Cross every D1 with several D2",
            tokens=None,
        )


def _about_scratch(config: StudyConfig, method: MethodConfig) -> Iterator[Weakness]:
    size = _size(method)
    if not any(other.scratch and other.text == method.text and _size(other) == size for other in config.methods):
        yield Weakness(
            method=method.name,
            problem="no rows with D1 = 0: nobody can say when training from scratch is better, and total tokens is "
            "not tested where it says most.",
            cure="Add scratch: MODEL of the same size",
            tokens=None,
        )


def _size(method: MethodConfig) -> dict[str, object]:
    """What of a growth decides the size of the model."""
    return {key: value for key, value in (method.growth or {}).items() if not key.endswith(("_method", "seed"))}


def _about_steps(config: StudyConfig, method: MethodConfig, own: Sequence[int]) -> Iterator[Weakness]:
    batch = config.training.batch_size * config.training.sequence_length
    if own[0] // batch < STEPS:
        yield Weakness(
            method=method.name,
            problem=f"the shortest D2 is {own[0] // batch} steps, of which re-warming and decay take much.",
            cure=f"Begin at {STEPS} steps ({format_count(STEPS * batch)} tokens), or judge without the shortest",
            tokens=None,
        )


def _about_trunks(config: StudyConfig) -> Iterator[Weakness]:
    trunks = _trunks(config, config.seeds)
    if trunks < TRUNKS and config.methods:
        specs = study_runs(config, placeholder_facts(config))
        more = sum(own_tokens(spec) for spec in specs) * (TRUNKS - trunks) // max(trunks, 1)
        here = any(base.tokens for base in config.bases)
        yield Weakness(
            method=None,
            problem=_few_trunks(trunks),
            cure=f"Add {TRUNKS - trunks} seeds" if here else "Add checkpoints of other trainings",
            tokens=more if here else None,
        )
    for method in config.methods:
        own = _trunks(config, method.seeds or config.seeds)
        if method.from_base and own < min(trunks, TRUNKS):
            more_seeds = min(trunks, TRUNKS) - own
            runs = study_runs(config.narrowed([method.name]), placeholder_facts(config))
            tokens = sum(own_tokens(spec) for spec in runs if spec.method == method.name)
            yield Weakness(
                method=method.name,
                problem=_few_trunks(own),
                cure=f"Add {more_seeds} of the study's seeds to its own",
                tokens=tokens * more_seeds // len(method.seeds),
            )


def _trunks(config: StudyConfig, seeds: Sequence[int]) -> int:
    """Trainings that bases come from: one for each seed, and those done elsewhere."""
    here = len(seeds) * sum(bool(base.tokens) for base in config.bases)
    return here + len({c.run or c.path for base in config.bases for c in base.checkpoints})


def _few_trunks(trunks: int) -> str:
    return (
        f"{trunks} trunk{'s' * (trunks != 1)}: how much one base differs from another of the same kind is not seen, so "
        "intervals leave it out."
    )
