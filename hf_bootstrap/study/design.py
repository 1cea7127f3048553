"""Which grid tells a decision best for a budget: candidates judged by what a prior law says they would find.

What one grid costs and tells is the business of `layouts`, which runs it takes that of `runs`; nothing is trained here.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..errors import StudyError, did_you_mean
from ..laws.fitting import log_slopes
from ..laws.law import ScalingLaw
from ..laws.noise import two_scales
from ..laws.resampling import find_clusters
from ..laws.scratch import WithScratch
from ..laws.terms import Form
from ..units import format_count
from .aims import Aim
from .config import MethodConfig, StudyConfig
from .costs import flops_per_token
from .cures import LEVELS, STEPS
from .layouts import Layout, Task
from .sizes import grown_shape, why_unknown
from .weaknesses import TRUNKS

__all__ = ["Proposal", "propose_grid"]

_MOST_LEVELS, _MOST_SEEDS = 6, 8
_DECADES = (1.0, 1.5, 2.0)
_RATIOS = (1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # largest D2 over largest D1
_FINALISTS = 4
_USUAL_NOISE = 0.003


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The best grid found, and the study's own beside it.

    Attributes:
        study: the file's study with the best grid, of one method.
        aim: what it is to tell, in words; relative: whether half-widths are shares.
        best: the grid; others: the next best, of other shapes; own: that of the file as it is, whatever it costs.
        budget_flops: what was to spend.
        noise, luck: standard deviations of log loss, of every row and of what rows of a base share.
        draws: studies simulated for each grid.
        notes: what the answer rests on.
    """

    study: StudyConfig
    aim: str
    relative: bool
    best: Layout
    others: tuple[Layout, ...]
    own: Layout
    budget_flops: float
    noise: float
    luck: float
    draws: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, without the study."""
        return {name: value for name, value in asdict(self).items() if name != "study"}

    def __str__(self) -> str:
        """A table for people."""
        rows = [("proposed", self.best), *(("next", layout) for layout in self.others), ("the file's", self.own)]
        scales = f"noise {self.noise:.2%}, luck of a base {self.luck:.2%}; {self.draws} studies drawn for each grid"
        lines = [
            f"To tell {self.aim} with {format_count(self.budget_flops)} FLOPs ({scales}):",
            f"{'':<11} {'+- (95%)':>9} {'FLOPs':>8} {'seeds':>6}  D1 marks; D2 marks",
        ]
        for name, layout in rows:
            width = layout.expected if layout.simulated is None else layout.simulated
            marks = "; ".join(" ".join(map(format_count, m)) for m in (layout.base_tokens, layout.tokens))
            told = f"{width:>9.1%}" if self.relative else f"{width:>9.4f}"
            lost = f" ({layout.lost:.0%} without an answer)" if layout.lost else ""
            lines.append(f"{name:<11} {told} {format_count(layout.flops):>8} {layout.seeds:>6}  {marks}{lost}")
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def propose_grid(
    config: StudyConfig,
    law: ScalingLaw,
    aim: Aim,
    *,
    method: str | None = None,
    budget_flops: float | None = None,
    noise: float | None = None,
    luck: float | None = None,
    draws: int = 200,
) -> Proposal:
    """Choose D1 marks, D2 marks and seeds for one method of a study.

    Every candidate spends the whole budget, has at least four levels of each stage over at least a decade, and no mark
    below 400 steps. The answer is the best at the prior law's own parameters.

    Args:
        config: the study; its first base, trained here, its training and the method's models are kept.
        law: a bootstrap law of the same kind of runs, such as one fitted to a pilot; with a branch from scratch where
            the method has `scratch`.
        aim: what is to be known.
        method: of the study; its first with a base if left out.
        budget_flops: of this method, its bases and its rows from scratch; the study's `budget_flops` if left out.
        noise, luck: standard deviations of log loss; estimated from the law's points if left out, 0.3% and 0 where
            those are not at hand.
        draws: studies simulated for each of the best grids.

    Raises:
        StudyError: no budget, a budget too small for any grid, bases trained elsewhere, or a law of another kind.
    """
    chosen = _method(config, method)
    budget = budget_flops if budget_flops is not None else config.budget_flops
    if budget is None or not 0 < budget < math.inf:
        raise StudyError(f"The budget is {budget!r}; say how many FLOPs may be spent, such as 1e15.")
    found_noise, found_luck, notes = _scales(law)
    task = _task(
        config, chosen, law, aim, found_noise if noise is None else noise, found_luck if luck is None else luck
    )
    layouts = _affordable(task, budget)
    finalists = sorted(
        (task.simulated(layout, draws) for layout in _different(layouts)), key=lambda layout: layout.simulated or 0.0
    )
    own = task.judged(config.bases[0].tokens, chosen.tokens, len(config.seeds))
    best = finalists[0]
    return Proposal(
        study=_with_layout(config, chosen, best),
        aim=str(aim),
        relative=aim.relative,
        best=best,
        others=tuple(finalists[1:]),
        own=task.simulated(own, draws) if math.isfinite(own.expected) else own,
        budget_flops=budget,
        noise=task.noise,
        luck=task.luck,
        draws=draws,
        notes=(*notes, *_doubts(best)),
    )


def _doubts(best: Layout) -> Iterator[str]:
    yield "Best if the prior law is true; where it is a guess, so is this."
    if best.seeds < TRUNKS:
        yield (
            f"{best.seeds} trunk{'s' * (best.seeds > 1)}: how much one differs from another is not seen, and is in no "
            f"interval. {TRUNKS} seeds take a larger budget, or wider intervals than these."
        )


def _method(config: StudyConfig, name: str | None) -> MethodConfig:
    usable = {method.name: method for method in config.methods if method.from_base}
    if name is not None and name not in usable:
        raise StudyError(f"There is no method {name!r} with a base. {did_you_mean(name, usable)}")
    if not usable:
        raise StudyError(f"The study {config.name!r} has no method that reuses a base, so there is no grid to choose.")
    if config.bases[0].model is None:
        raise StudyError("The bases were trained elsewhere, so their D1 cannot be chosen. Give a base with a model.")
    return usable[name] if name is not None else next(iter(usable.values()))


def _task(config: StudyConfig, method: MethodConfig, law: ScalingLaw, aim: Aim, noise: float, luck: float) -> Task:
    form: Form = law.fitted.form
    theta = law.fitted.theta
    if form.name != "bootstrap":
        raise StudyError(f"The prior is a law of the form {form.name!r}; give one of the form 'bootstrap'.")
    if isinstance(form, WithScratch):
        inner = form.inner
        if not method.scratch:
            form, theta = inner, theta[: len(inner.parameters)]
    elif method.scratch:
        raise StudyError(
            f"The method {method.name!r} has rows from scratch and the prior law has none. Give a law that was fitted "
            "with rows of base_tokens 0."
        )
    if not noise > 0 or luck < 0:
        raise StudyError(f"noise is {noise!r} and luck {luck!r}; noise must be above 0, luck not below it.")
    base = config.model(config.bases[0].model or "")
    length, training = config.training.sequence_length, config.training
    grown, lora = grown_shape(base, method.growth or {}), method.lora.to_spec() if method.lora else None
    second = _flops_per_token(grown, length, lora) * max(1, len(method.peak_lr))
    fresh = config.scratch_of(method, config.bases[0])
    scratch = 0.0 if fresh is None else _flops_per_token(config.model(fresh), length)
    aim.ask(form, theta[None])  # refuses a crossover that this form does not have
    return Task(
        form=form,
        theta=theta,
        aim=aim,
        noise=noise,
        luck=luck,
        trunk=_flops_per_token(base, length),
        second=second,
        scratch=scratch,
        decay_share=training.decay_share,
        batch=training.batch_size * length,
    )


def _flops_per_token(shape: Mapping[str, Any], length: int, lora: Mapping[str, Any] | None = None) -> float:
    found = flops_per_token(shape, length, lora)
    if found is None:
        raise StudyError(
            f"A model of the study {why_unknown(shape)}, so nobody can say what a token costs and which grid a budget "
            "buys. State its sizes."
        )
    return found


def _scales(law: ScalingLaw) -> tuple[float, float, tuple[str, ...]]:
    """Noise and luck that the law's own points show."""
    points = law.points_
    if points is None:
        told = f"The law's points are not at hand: noise of {_USUAL_NOISE:.1%} and no luck of bases are assumed."
        return _USUAL_NOISE, 0.0, (told,)
    form, theta = law.fitted.form, law.fitted.theta
    logs = points.logs(form)
    residuals = np.log(points.loss) - form.log_loss(logs, theta[None])[0]
    clusters = [rows for stratum in find_clusters(points).strata for rows in stratum]
    return *two_scales(residuals, log_slopes(form, logs, theta), clusters), ()


def _affordable(task: Task, budget: float) -> list[Layout]:
    """Every grid that the budget buys and the prior law can judge, the most telling first."""
    layouts = [layout for layout in _candidates(task, budget) if math.isfinite(layout.expected)]
    if not layouts:
        marks = [10 * STEPS * task.batch, *[STEPS * task.batch] * (LEVELS - 1)]
        least = task.flops(marks, marks, 1)
        raise StudyError(
            f"{format_count(budget)} FLOPs buy no grid of {LEVELS} x {LEVELS} marks over a decade, from {STEPS} steps "
            f"on, that the prior law can judge; the smallest takes about {format_count(least)}. Change the budget, the "
            "batch or the model."
        )
    return sorted(layouts, key=lambda layout: layout.expected)


def _candidates(task: Task, budget: float) -> Iterator[Layout]:
    """Grids that spend the budget: geometric marks, all combinations of levels, spans, ratio and seeds."""
    levels = range(LEVELS, _MOST_LEVELS + 1)
    for n1, n2, span1, span2, ratio in itertools.product(levels, levels, _DECADES, _DECADES, _RATIOS):
        unit1, unit2 = (10 ** (-span * np.linspace(1, 0, n)) for span, n in ((span1, n1), (span2, n2)))
        price = task.flops(unit1.tolist(), (ratio * unit2).tolist(), 1)
        for seeds in range(1, _MOST_SEEDS + 1):
            largest = budget / (seeds * price)
            first, second = (
                tuple(int(mark // task.batch) * task.batch for mark in units)
                for units in (largest * unit1, largest * ratio * unit2)
            )
            if min(first[0], second[0]) < STEPS * task.batch:
                break  # more seeds only shorten the marks
            if task.is_within(first[-1], second[-1]):
                yield task.judged(first, second, seeds)


def _different(layouts: Sequence[Layout]) -> list[Layout]:
    """The best of each of the leading shapes (levels and seeds)."""
    shapes: dict[tuple[int, int, int], Layout] = {}
    for layout in layouts:
        shapes.setdefault((len(layout.base_tokens), len(layout.tokens), layout.seeds), layout)
    return list(shapes.values())[:_FINALISTS]


def _with_layout(config: StudyConfig, method: MethodConfig, layout: Layout) -> StudyConfig:
    base = config.bases[0]
    fresh = config.scratch_of(method, base)
    chosen = replace(method, tokens=layout.tokens, base_tokens=(), seeds=(), scratch_tokens=())
    reserve = None if base.reserve_tokens is None else max(base.reserve_tokens, layout.base_tokens[-1])
    seeds = list(config.seeds)[: layout.seeds]
    seeds += range(max(config.seeds) + 1, max(config.seeds) + 1 + layout.seeds - len(seeds))
    return replace(
        config,
        bases=(replace(base, tokens=layout.base_tokens, reserve_tokens=reserve),),
        methods=(replace(chosen, scratch=() if fresh is None else (fresh,)),),
        seeds=tuple(seeds),
    )
