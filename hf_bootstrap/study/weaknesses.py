"""What a grid cannot tell, seen before it is trained, and the cheapest mark or seed that would mend it.

Says for plans what the checks of laws say for points. No law is fitted; which marks would do is worked out in `cures`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import StudyError
from ..units import format_count
from .config import MethodConfig, StudyConfig
from .cures import DECADES, LEVELS, STEPS, Pricing, decades, marks_at_hand, new_marks, suffice, with_bases, with_method
from .sizes import grown_shape, read_sizes

__all__ = ["TRUNKS", "Weakness", "counted", "find_weaknesses"]

TRUNKS = 3


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """Something a grid cannot tell.

    Attributes:
        method: whose law it is about; None: of all.
        problem: in words.
        cure: the cheapest change that would mend it, in words.
        tokens: what the cure would train in addition, negative where less; None where that is not known.
    """

    method: str | None
    problem: str
    cure: str
    tokens: int | None

    def __str__(self) -> str:
        """Problem and cure."""
        price = ""
        if self.tokens is not None:
            price = f" ({format_count(abs(self.tokens))} tokens {'more' if self.tokens >= 0 else 'fewer'})"
        return f"{self.method + ': ' if self.method else ''}{self.problem} {self.cure}{price}"


def counted(number: int, what: str) -> str:
    """A number of things in words: 1 trunk, 2 trunks."""
    return f"{number} {what}{'s' * (number != 1)}"


def find_weaknesses(config: StudyConfig) -> Iterator[Weakness]:
    """Look at every method's marks, and at the seeds."""
    price = Pricing(config)
    for method in config.methods:
        if method.from_base:
            yield from _about_marks(config, method, price)
            yield from _about_steps(config, method, price)
        yield from _about_scratch(config, method, price)
    yield from _about_trunks(config, price)


def _about_marks(config: StudyConfig, method: MethodConfig, price: Pricing) -> Iterator[Weakness]:
    own, of_all = list(_by_level(config, method.tokens)), set[int]()
    if not suffice(own):
        marks, tokens = _more_tokens(config, method, own, price)
        problem = f"{_lacking('D2', own)}: its exponent and its floor cannot be told apart."
        yield Weakness(method=method.name, problem=problem, cure=f"Add D2 = {_words(marks)}", tokens=tokens)
    models = dict.fromkeys(base.model for base in config.bases)
    for model in models:  # each size has a law of its own
        at_hand = _base_levels(config, model)
        bases = [level for level, mark in at_hand.items() if not method.base_tokens or mark in method.base_tokens]
        of_all.update(bases)
        if bases and not suffice(bases):
            cure, more = _more_bases(config, method, model, bases, price)
            of_model = f" of {model or 'checkpoints'}" if len(models) > 1 else ""
            problem = f"{_lacking(f'D1{of_model}', bases)}: how it bends the exponent is a guess."
            yield Weakness(method=method.name, problem=problem, cure=cure, tokens=more)
    if len(own) == len(of_all) == 1:
        marks, tokens = _more_tokens(config, method, own, price)
        yield Weakness(
            method=method.name,
            problem="D2/D1 is one constant: alpha1, alpha2 and A cannot be told apart.",
            cure=f"Cross every D1 with several D2, such as {_words([*own, *marks])}",
            tokens=tokens,
        )


def _more_tokens(
    config: StudyConfig, method: MethodConfig, own: Sequence[int], price: Pricing
) -> tuple[Sequence[int], int | None]:
    """The cheapest further D2, and their price."""
    sets = new_marks(own, _batch(config))
    return _cheapest({marks: with_method(config, method, tokens=(*method.tokens, *marks)) for marks in sets}, price)


def _more_bases(
    config: StudyConfig, method: MethodConfig, model: str | None, bases: Sequence[int], price: Pricing
) -> tuple[str, int | None]:
    """The cheapest further D1 of a model in words, and their price: of bases the study has, or new ones as well."""
    at_hand = _base_levels(config, model)
    others = [level for level in at_hand if level not in bases]
    if found := marks_at_hand(bases, others):
        chosen = (*method.base_tokens, *(at_hand[level] for level in found))
        return f"Add D1 = {_words(found)}, which the study has", price(with_method(config, method, base_tokens=chosen))
    if model is None:
        return f"Add checkpoints until there are {LEVELS} levels over a decade", None
    studies = {}
    for marks in new_marks(list(at_hand), _batch(config)):
        larger = with_bases(config, model, marks)
        # All its marks by name would be all of them, so the method takes every base.
        studies[marks] = with_method(larger, method, base_tokens=()) if method.base_tokens else larger
    new, tokens = _cheapest(studies, price)
    return f"Add D1 = {_words(sorted({*others, *new}))}", tokens


def _cheapest(studies: Mapping[tuple[int, ...], StudyConfig], price: Pricing) -> tuple[tuple[int, ...], int | None]:
    """The marks that make the cheapest of the studies that can be laid out, and the price; the first if none can."""
    prices = {marks: price(study) for marks, study in studies.items()}
    return min(prices.items(), key=lambda item: (item[1] is None, item[1] or 0))


def _lacking(what: str, marks: Sequence[int]) -> str:
    """What marks lack, in words."""
    narrow, span = decades(marks) < DECADES, f"{decades(marks):.1f} decades"
    if len(marks) >= LEVELS:
        return f"{what} spans {span}"
    return f"{counted(len(marks), 'level')} of {what}{f' over {span}' if narrow and len(marks) > 1 else ''}"


def _about_steps(config: StudyConfig, method: MethodConfig, price: Pricing) -> Iterator[Weakness]:
    batch = _batch(config)
    shortest, soundest = min(method.tokens) // batch, STEPS * batch
    if shortest < STEPS:
        longer = tuple(mark for mark in method.tokens if mark >= soundest + batch)
        yield Weakness(
            method=method.name,
            problem=f"the shortest D2 is {counted(shortest, 'step')}, of which re-warming and decay take much.",
            cure=f"Begin at {STEPS} steps ({format_count(soundest)} tokens), or judge without the shortest",
            tokens=price(with_method(config, method, tokens=(soundest, *longer))),
        )


def _about_scratch(config: StudyConfig, method: MethodConfig, price: Pricing) -> Iterator[Weakness]:
    sizes, models = _grown_sizes(config, method), _models_of_size(config, method)
    told = models[0] if len(models) == 1 else f"[{', '.join(models)}]"
    rivals = [other for other in config.methods if other.from_base and other.text == method.text]
    of_rivals = set[int | None]().union(*(_grown_sizes(config, other) for other in rivals))
    for name in method.scratch:
        own = _weights(config.model(name))
        if own is not None and of_rivals and None not in of_rivals and own not in of_rivals:
            grown = " and ".join(format_count(size or 0) for size in sorted(of_rivals, key=lambda size: size or 0))
            yield Weakness(
                method=method.name,
                problem=f"its scratch, {name}, has {format_count(own)} weights in its layers, and what starts "
                f"from a base on that text {grown}: no law will use these rows.",
                cure=f"Give scratch: {told}",
                tokens=None,
            )
            return
    if method.from_base and not _has_rows(config, method, set(sizes)):
        yield Weakness(
            method=method.name,
            problem="no rows with D1 = 0: nobody can say when training from scratch is better, and total tokens is "
            "not tested where it says most.",
            cure=f"Add scratch: {told}",
            tokens=_price_of_scratch(config, method, models, price),
        )


def _price_of_scratch(config: StudyConfig, method: MethodConfig, models: tuple[str, ...], price: Pricing) -> int | None:
    """What models from scratch would train; None where the study could not have them."""
    unknown = {name: {"model_type": "unknown"} for name in models if name not in config.models}
    try:
        return price(with_method(replace(config, models={**config.models, **unknown}), method, scratch=models))
    except StudyError:  # a model of the right size that no run could train, such as one of too few positions
        return None


def _models_of_size(config: StudyConfig, method: MethodConfig) -> tuple[str, ...]:
    """The models that a method's `scratch` could name: one for each base, or one for all of one size."""
    named = {_weights(config.model(name)): name for name in reversed(list(config.models))}
    found = [named.get(size, "MODEL of the same size") for size in _grown_sizes(config, method) if size is not None]
    return (
        tuple(found)
        if len(set(found)) > 1 and len(found) == len(config.bases)
        else (*found, "MODEL of the same size")[:1]
    )


def _has_rows(config: StudyConfig, method: MethodConfig, sizes: set[int | None]) -> bool:
    """Whether a model from scratch of every size the method has is trained on its text."""
    beside = [other for other in config.methods if other.scratch and other.text == method.text]
    found = {_weights(config.model(name)) for other in beside for name in other.scratch}
    if None in sizes | found:
        return any(_stated_growth(other) == _stated_growth(method) for other in beside)
    return sizes <= found


def _grown_sizes(config: StudyConfig, method: MethodConfig) -> list[int | None]:
    """Weights in the layers of each base after the method's growth; None for those that are not known."""
    shapes = [config.model(base.model) if base.model else {} for base in config.bases]
    return [_weights(grown_shape(shape, method.growth or {})) for shape in shapes]


def _weights(shape: Mapping[str, Any]) -> int | None:
    sizes = read_sizes(shape)
    return None if sizes is None else sizes.body


def _stated_growth(method: MethodConfig) -> dict[str, object]:
    """What of a growth decides the size of the model."""
    return {key: value for key, value in (method.growth or {}).items() if not key.endswith(("_method", "seed"))}


def _about_trunks(config: StudyConfig, price: Pricing) -> Iterator[Weakness]:
    """Of each base model and text the trainings: one for each seed here, and those done elsewhere."""
    here, elsewhere = {(base.model, base.text) for base in config.bases if base.tokens}, dict[str, set[str]]()
    for base in config.bases:
        if base.checkpoints:
            elsewhere.setdefault(base.text, set()).update(c.run or c.path for c in base.checkpoints)
    seeds, several = len(set(config.seeds)), len(here) + len(elsewhere) > 1
    if here and seeds < TRUNKS and config.methods:
        first = max(config.seeds) + 1
        larger = replace(config, seeds=(*config.seeds, *range(first, first + TRUNKS - seeds)))
        yield Weakness(
            method=None,
            problem=_few_trunks(seeds, " of each base" if several else ""),
            cure=f"Add {counted(TRUNKS - seeds, 'seed')}",
            tokens=price(larger),
        )
    for text, trainings in elsewhere.items():
        if len(trainings) < TRUNKS and config.methods:
            yield Weakness(
                method=None,
                problem=_few_trunks(len(trainings), f" of the bases on {text}" if several else ""),
                cure=f"Add checkpoints of {counted(TRUNKS - len(trainings), 'other training')}",
                tokens=None,
            )
    for method in config.methods if here else ():
        own = set(method.seeds or config.seeds)
        if method.from_base and (missing := min(seeds, TRUNKS) - len(own)) > 0:
            more = [seed for seed in config.seeds if seed not in own][:missing]
            yield Weakness(
                method=method.name,
                problem=_few_trunks(len(own), " of each base" if several else ""),
                cure=f"Add {missing} of the study's seeds to its own",
                tokens=price(with_method(config, method, seeds=(*method.seeds, *more))),
            )


def _few_trunks(trunks: int, of_what: str) -> str:
    return (
        f"{counted(trunks, 'trunk')}{of_what}: how much one base differs from another of the same kind is not seen, so "
        "intervals leave it out."
    )


def _batch(config: StudyConfig) -> int:
    return config.training.batch_size * config.training.sequence_length


def _by_level(config: StudyConfig, marks: Sequence[int]) -> dict[int, int]:
    """Marks by what runs make of them, rising: whole steps. Marks that are the same run are one level."""
    batch = _batch(config)
    return {max(mark // batch, 1) * batch: mark for mark in sorted(marks)}


def _base_levels(config: StudyConfig, model: str | None) -> dict[int, int]:
    """D1 of a model's bases (None: those trained elsewhere) by level, rising: whole steps if they are trained here."""
    bases = [base for base in config.bases if base.model == model]
    here = _by_level(config, [count for base in bases for count in base.tokens])
    elsewhere = {checkpoint.tokens: checkpoint.tokens for base in bases for checkpoint in base.checkpoints}
    return dict(sorted({**here, **elsewhere}.items()))


def _words(marks: Sequence[int]) -> str:
    """Marks in words: 410k, 819k and 1.64M."""
    first, last = marks[:-1], format_count(marks[-1])
    return f"{', '.join(map(format_count, first))} and {last}" if first else last
