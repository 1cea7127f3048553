"""Should I reuse this checkpoint? Costs and laws brought together into one page, a recommendation and its probability.

Each part is worked out elsewhere: D1 in `base_tokens`, costs in `candidates`, losses in `outlook`, the study in
`experiment`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import LawError
from ..growth.config import GrowthConfig
from ..laws.law import ScalingLaw
from .base_tokens import BaseTokens, find_base_tokens, read_base_tokens
from .candidates import Budget, Candidate, base_config, make_candidates, named_growth
from .experiment import Experiment, design_experiment
from .outlook import Loss, Outlook, law_method, look_ahead, spell_chance
from .page import reuse_page

__all__ = ["DEFAULT_METHODS", "Recommendation", "ReusePlan", "plan_reuse"]

DEFAULT_METHODS = ("continue", "stack", "split")
_Z = 1.959964  # half-width of a 95% interval, in standard deviations


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to do, among candidates whose losses can be compared.

    Attributes:
        choice: the candidate, or "NAME from scratch", with the least expected loss; None where nothing is known.
        rival: the next best.
        probability: that the choice ends below its rival, least and most over the range of D1; None where not known.
        reason: in a sentence.
    """

    choice: str | None
    rival: str | None
    probability: tuple[float, float] | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReusePlan:
    """The whole answer: `print(plan)` is the page, `to_dict()` the same for programs.

    Attributes:
        model: as it was named; model_type: of its config.
        n_params, n_params_non_embedding: of the base.
        base_tokens: D1; None where nobody said, with `base_note`.
        budget: of the second stage.
        ranks, memory_limit: of training.
        candidates: costed.
        outlooks: what laws say, one for each candidate.
        recommendations: one for each set of candidates whose losses can be compared, at least one.
        experiment: what would settle it; None where it cannot be designed.
    """

    model: str
    model_type: str
    n_params: int
    n_params_non_embedding: int
    base_tokens: BaseTokens | None
    base_note: str
    budget: Budget
    ranks: int
    memory_limit: int | None
    candidates: tuple[Candidate, ...]
    outlooks: tuple[Outlook, ...]
    recommendations: tuple[Recommendation, ...]
    experiment: Experiment | None

    @property
    def fits(self) -> bool:
        """Whether no candidate is known to exceed the memory of a rank."""
        return all(candidate.fits is not False for candidate in self.candidates)

    def __str__(self) -> str:
        """One page."""
        return reuse_page(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        from ..growth.plan import describe_growth

        record = asdict(self)
        for candidate, found in zip(record["candidates"], self.candidates, strict=True):
            candidate["growth"] = None if found.growth is None else describe_growth(found.growth)
        record["base_tokens"] = None if self.base_tokens is None else self.base_tokens.to_dict()
        return {**record, "fits": self.fits}


def plan_reuse(
    model: str | Path,
    *,
    budget: Budget,
    base_tokens: str | float | BaseTokens | None = None,
    methods: Sequence[str | tuple[str, GrowthConfig | None]] = DEFAULT_METHODS,
    laws: Mapping[str, ScalingLaw | str | Path] | Sequence[str] = (),
    scratch_law: ScalingLaw | str | Path | None = None,
    sequence_length: int | None = None,
    ranks: int = 1,
    memory_limit: int | None = None,
    revision: str | None = None,
    extrapolate: bool = False,
) -> ReusePlan:
    """Work out whether to reuse a checkpoint, from its config alone; no weights are read.

    Args:
        model: a folder with a config.json, or a name on the Hub.
        budget: from `make_budget`.
        base_tokens: D1 as `read_base_tokens` takes it; by default what is published of the model.
        methods: names as `named_growth` takes them, or (name, growth).
        laws: method -> a law, its folder or repository; or places, each ``METHOD=PLACE`` or alone, whose points then
            say the method.
        scratch_law: of training from scratch, for laws fitted without such rows.
        sequence_length, ranks, memory_limit: as `make_candidates` takes them.
        revision: of a name on the Hub.
        extrapolate: show losses also where a law does not apply, with the reasons.

    Raises:
        GrowthError, UnsupportedModelError: no such method, or not a model that can be planned.
        QuantityError: base tokens that cannot be read.
        LawError: a law that does not say which method it is of, or of none of the methods asked for.
        HubError, StoreError: model or law cannot be had.
    """
    from ..growth.architecture import build_meta
    from ..growth.plan import count_parameters

    asked = [named_growth(method) if isinstance(method, str) else method for method in methods]
    found_laws = _find_laws(laws, [name for name, _ in asked])
    rival = scratch_law if scratch_law is None or isinstance(scratch_law, ScalingLaw) else _open(scratch_law)
    config = base_config(str(model), revision)
    base, note = _base_tokens(str(model), config, base_tokens)
    total, inside = count_parameters(build_meta(config))
    candidates = make_candidates(
        config, asked, budget, sequence_length=sequence_length, ranks=ranks, memory_limit=memory_limit
    )
    outlooks = _outlooks(candidates, base, found_laws, rival, extrapolate)
    return ReusePlan(
        model=str(model),
        model_type=config.model_type,
        n_params=total,
        n_params_non_embedding=inside,
        base_tokens=base,
        base_note=note,
        budget=budget,
        ranks=ranks,
        memory_limit=memory_limit,
        candidates=candidates,
        outlooks=outlooks,
        recommendations=_recommend(outlooks),
        experiment=design_experiment(str(model), base, candidates),
    )


def _outlooks(
    candidates: Sequence[Candidate],
    base: BaseTokens | None,
    laws: Mapping[str, tuple[ScalingLaw, str]],
    scratch: ScalingLaw | None,
    extrapolate: bool,
) -> tuple[Outlook, ...]:
    found = []
    for candidate in candidates:
        law, place = laws.get(candidate.name, (None, None))
        found.append(look_ahead(candidate, base, law, place=place, scratch=scratch, extrapolate=extrapolate))
    return tuple(found)


def _open(place: str | Path) -> ScalingLaw:
    return ScalingLaw.from_pretrained(str(place))


def _find_laws(
    laws: Mapping[str, ScalingLaw | str | Path] | Sequence[str], methods: Sequence[str]
) -> dict[str, tuple[ScalingLaw, str]]:
    """Method -> (law, where it came from)."""
    pairs: list[tuple[str, ScalingLaw | str | Path]]
    pairs = list(laws.items()) if isinstance(laws, Mapping) else [_named_place(word) for word in laws]
    found: dict[str, tuple[ScalingLaw, str]] = {}
    for stated, given in pairs:
        law, place = (given, "given") if isinstance(given, ScalingLaw) else (_open(given), str(given))
        method = stated or law_method(law)
        if method is None:
            raise LawError(f"{place} does not say which method its points are of. Say it: --law METHOD={place}.")
        if method not in methods:
            raise LawError(
                f"{place} is a law of the method {method!r}, which is not among {', '.join(methods)}. Ask for it "
                f"(--method {method}), or leave the law out."
            )
        found[method] = (law, place)
    return found


def _named_place(word: str) -> tuple[str, str]:
    """``"stack=laws/stack"`` -> method and place; the method is empty where only a place stands."""
    method, equals, place = word.partition("=")
    return (method, place) if equals else ("", word)


def _base_tokens(model: str, config: Any, stated: str | float | BaseTokens | None) -> tuple[BaseTokens | None, str]:
    if stated is not None:
        found: BaseTokens | None = stated if isinstance(stated, BaseTokens) else read_base_tokens(stated)
    else:
        found = find_base_tokens(model)
    grown = " It was grown: D1 is that of what it was grown from." if getattr(config, "hf_bootstrap", None) else ""
    if found is not None:
        return found, f"{found.said}.{grown}"
    return (
        None,
        f"No count of tokens is published here for {model}. State it: --base-tokens 15T, or a range 9T:24T.{grown}",
    )


def _recommend(outlooks: Sequence[Outlook]) -> tuple[Recommendation, ...]:
    """One recommendation for each kind of loss: other text or another tokenizer is another scale."""
    groups: dict[str, list[Outlook]] = {}
    for number, outlook in enumerate(outlooks):
        if outlook.reused is not None:
            groups.setdefault(outlook.same_as or f"law {number}", []).append(outlook)
    if groups:
        return tuple(_best(group) for group in groups.values())
    why = "No law applies, so there is no expected loss to choose by. Run the experiment below, or give a law (--law)."
    return (Recommendation(choice=None, rival=None, probability=None, reason=why),)


def _best(group: Sequence[Outlook]) -> Recommendation:
    losses = {o.method: (o.reused, o) for o in group if o.reused is not None}
    losses |= {f"{o.method} from scratch": (o.scratch, o) for o in group if o.scratch is not None}
    ranked = sorted(losses, key=lambda name: losses[name][0].value)
    choice, rival = ranked[0], ranked[1] if len(ranked) > 1 else None
    if rival is None:
        reason = "The only candidate with an expected loss here, so there is nothing to compare it with."
        return Recommendation(choice=choice, rival=None, probability=None, reason=reason)
    (best, mine), (next_best, other) = losses[choice], losses[rival]
    assert best is not None
    assert next_best is not None
    if mine is other and mine.probability is not None:
        low, high = mine.probability
        chance: tuple[float, float] | None = (low, high) if choice == mine.method else (1 - high, 1 - low)
    else:
        chance = None if mine is other else _below(best, next_best)
    gap = f"Expected {next_best.value - best.value:.4f} {mine.unit.short} below {rival}"
    if chance is None:
        return Recommendation(choice=choice, rival=rival, probability=None, reason=f"{gap}; how surely is not known.")
    told = spell_chance(chance)
    doubt = "" if chance[0] >= 0.9 else " That does not settle it: see the experiment."
    return Recommendation(
        choice=choice, rival=rival, probability=chance, reason=f"{gap}, with probability {told}.{doubt}"
    )


def _below(first: Loss, second: Loss) -> tuple[float, float] | None:
    """How probable it is that one loss lies below another of another law: both normal on the log scale, independent."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    spreads = [math.log(x.high / x.low) / (2 * _Z) for x in (first, second)]  # type: ignore[operator]
    spread = math.hypot(*spreads)
    gap = math.log(second.value / first.value)
    chance = 0.5 * (1 + math.erf(gap / (spread * math.sqrt(2)))) if spread > 0 else 1.0
    return chance, chance
