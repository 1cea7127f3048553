"""What the learning rate should become after growth, and why, as data and as a sentence.

With copies, a matrix that reads a vector `c` times as wide holds shares of about 1/c of the old weight, while a step of
Adam has the same size for every entry: `c` equal steps together move what the layer computes `c` times as far. A rate
of 1/c for these matrices gives the old step back; for equal shares (`clone`) exactly, step after step
(tests/growth/test_learning_rate.py). It is also the rule of muP for Adam, which asks for 1/fan-in.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedConfig

from .recipe import Recipe

__all__ = [
    "LearningRateAdvice",
    "advise_learning_rate",
    "factors_words",
    "lasting_factors",
    "rate_factors",
    "recorded_factors",
]

_MUP = "Yang et al. 2022 (muP), arXiv:2203.03466, table 8; derivation in the docstring of learning_rate"


@dataclass(frozen=True, kw_only=True)
class LearningRateAdvice:
    """What to do with the base's peak learning rate.

    Attributes:
        factor: for one rate for all tensors: multiply the base's by this. The smallest of what single tensors ask for.
        tensor_factor: the smallest for a matrix that reads a widened vector, where each has a rate of its own.
        weight_decay_factor: AdamW takes rate x decay off a weight, so the decay of those matrices times this keeps
            what is taken off.
        tensors: how many matrices read a widened vector.
        formula: in symbols.
        reason: in words.
        source: where the rule is from; None where there is none in print, and `reason` then says so.
    """

    factor: float
    tensor_factor: float
    weight_decay_factor: float
    tensors: int
    formula: str
    reason: str
    source: str | None

    def __str__(self) -> str:
        return f"x {self.factor:.3g} of the base's peak, warmed up again: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def rate_factors(recipes: Iterable[Recipe]) -> dict[str, float]:
    """By tensor of the grown model: the factor on its learning rate that keeps the old step, for Adam.

    A tensor that reads copies holds shares of 1/c; one that was scaled has a step scaled alike.
    """
    factors = {}
    for recipe in recipes:
        wide = 1.0
        if recipe.reads is not None and recipe.index(recipe.reads) is not None:
            wide = sum(s.length for s in recipe.axes[recipe.reads]) / recipe.shape[recipe.reads]
        factors[recipe.target] = wide * (recipe.scale or 1.0)
    return factors


def lasting_factors(recipes: Iterable[Recipe], source: PreTrainedConfig) -> dict[str, float]:
    """What `rate_factors` gives that is not 1, times what earlier growths left, as a config keeps it.

    Args:
        recipes: of the growth.
        source: config of the model before it.

    Returns:
        By name of a tensor, with ``*`` for the number of a layer where all layers agree.
    """
    recipes = tuple(recipes)
    earlier = recorded_factors(source, [recipe.source for recipe in recipes])
    factors = {
        name: factor * earlier.get(recipe.source, 1.0)
        for recipe, (name, factor) in zip(recipes, rate_factors(recipes).items(), strict=True)
    }
    alike: dict[str, set[float]] = {}
    for name, factor in factors.items():
        alike.setdefault(_any_layer(name), set()).add(factor)
    return {
        _any_layer(name) if len(alike[_any_layer(name)]) == 1 else name: factor
        for name, factor in factors.items()
        if factor != 1
    }


def recorded_factors(config: PreTrainedConfig, names: Iterable[str]) -> dict[str, float]:
    """By name of a tensor, the factor on its learning rate that the growths of a model ask for; 1 is left out.

    Args:
        config: of the model; one that was never grown asks for nothing.
        names: of its tensors.
    """
    history = (getattr(config, "hf_bootstrap", None) or {}).get("growth") or [{}]
    kept = history[-1].get("rate_factors", {})
    found = {name: kept.get(name, kept.get(_any_layer(name), 1.0)) for name in names}
    return {name: float(factor) for name, factor in found.items() if factor != 1}


def factors_words(factors: Mapping[str, float]) -> str:
    """What `recorded_factors` gives, as the end of a sentence on the peak rate; empty where it gives nothing."""
    if not factors:
        return ""
    return f", times {min(factors.values()):.3g} or more for {len(factors)} tensors that grew"


def _any_layer(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def advise_learning_rate(recipes: Iterable[Recipe], *, deeper: bool, fresh: bool) -> LearningRateAdvice:
    """Say what the learning rate should become.

    Args:
        recipes: of the growth.
        deeper: whether layers were added.
        fresh: whether new units are no copies.
    """
    recipes = tuple(recipes)
    found: Mapping[str, float] = rate_factors(recipes)
    reading = [r for r in recipes if r.reads is not None and r.index(r.reads) is not None]
    factor = min((found[r.target] / (r.scale or 1.0) for r in reading), default=1.0)
    depth = " New layers keep the size of their source, and no rule for them is in print." if deeper else ""
    if not reading:
        reason = f"no matrix reads a wider vector.{depth}" if deeper else "no weight changed its size."
        return LearningRateAdvice(
            factor=1.0,
            tensor_factor=1.0,
            weight_decay_factor=1.0,
            tensors=0,
            formula="rate' = rate",
            reason=reason,
            source=None,
        )
    if fresh:
        reason = (
            f"{len(reading)} matrices read vectors up to {1 / factor:.3g} times as wide. New units are silent "
            "at first, so the old rate would do for some steps; as they learn to speak, steps add up over more inputs."
        )
    else:
        reason = (
            f"{len(reading)} matrices read copies and hold shares of down to 1/{1 / factor:.3g}, while Adam's steps "
            f"keep their size: {1 / factor:.3g} equal steps move the function {1 / factor:.3g} times as far."
        )
    return LearningRateAdvice(
        factor=factor,
        tensor_factor=factor,
        weight_decay_factor=1 / factor,
        tensors=len(reading),
        formula="rate' = rate * n_in / n_in'; decay' = decay * n_in' / n_in",
        reason=reason + depth,
        source=_MUP,
    )
