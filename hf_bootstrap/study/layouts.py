"""What a grid of marks and seeds costs, and how well it would tell an aim if a prior law were true.

Judged by the variance that the law's derivatives give (locally optimal design, Chernoff 1953, Ann. Math. Stat. 24:586),
or simulated: points drawn, the law fitted to them. Which grids to look at is the business of `design`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..laws.fitting import fit_form, log_slopes, refit
from ..laws.noise import draw_noise
from ..laws.resampling import MANY
from ..laws.terms import FloatArray, Form
from .aims import Aim

__all__ = ["Layout", "Task"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Marks and seeds of one method's grid, and what they would tell.

    Attributes:
        base_tokens: D1 marks; tokens: D2 marks; trained tokens, whole steps.
        seeds: how many, one trunk each.
        flops: of training, rows from scratch included.
        expected: half the 95% interval of the aim by the law's derivatives, a share of it unless the aim is alpha3;
            the interval widens by Student's t for few clusters as those of `ScalingLaw` do.
        simulated: the same from laws refitted to drawn points; None where it was not simulated.
        lost: share of the drawn studies that gave no answer.
    """

    base_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    seeds: int
    flops: float
    expected: float
    simulated: float | None = None
    lost: float = 0.0

    @property
    def runs(self) -> int:
        """Second stages that are measured at their end."""
        return len(self.base_tokens) * len(self.tokens) * self.seeds


@dataclass(frozen=True)
class Task:
    """Everything that does not change from grid to grid.

    Attributes:
        form, theta: the prior law.
        aim: what is to be known.
        noise, luck: standard deviations of log loss, of every row and of what rows of a base share.
        trunk, second, scratch: FLOPs a trained token of the base, of the second stage (all its rates together) and of
            the model from scratch; 0 for no rows from scratch.
        decay_share: of every mark.
        batch: trained tokens of a step.
    """

    form: Form
    theta: FloatArray
    aim: Aim
    noise: float
    luck: float
    trunk: float
    second: float
    scratch: float
    decay_share: float
    batch: int

    def flops(self, base_tokens: Sequence[float], tokens: Sequence[float], seeds: int) -> float:
        """One trunk, one stage from each of its bases and one from scratch, each with a decay at every mark."""

        def stage(marks: Sequence[float]) -> float:
            return (1 - self.decay_share) * max(marks) + self.decay_share * sum(marks)

        from_bases = len(base_tokens) * self.second * stage(tokens)
        return seeds * (self.trunk * stage(base_tokens) + from_bases + self.scratch * stage(tokens))

    def is_within(self, base_tokens: int, tokens: int) -> bool:
        """Whether the law means something up to there: beyond, it says that more tokens raise the loss."""
        logs = {"base_tokens": np.log([base_tokens]), "tokens": np.log([tokens])}
        falls = self.form.exponents(logs, self.theta[None]) or {}
        return all(values[0, 0] > 0 for values in falls.values())

    def judged(self, base_tokens: Sequence[int], tokens: Sequence[int], seeds: int) -> Layout:
        """The grid with its price and what its derivatives promise."""
        logs, clusters = self.rows(base_tokens, tokens)
        slopes = log_slopes(self.form, logs, self.theta)
        shared = np.zeros((len(slopes), len(clusters)))
        for column, rows in enumerate(clusters):
            shared[rows, column] = self.luck
        noise = self.noise**2 * np.eye(len(slopes)) + shared @ shared.T
        # Seeds are independent repeats of the same rows.
        information = seeds * slopes.T @ np.linalg.solve(noise, slopes)
        scale = np.sqrt(np.diag(information))
        gradient = _gradient(self.aim, self.form, self.theta) / scale
        try:
            variance = gradient @ np.linalg.solve(information / np.outer(scale, scale), gradient)
        except np.linalg.LinAlgError:
            variance = math.inf
        width = math.sqrt(variance) if variance > 0 else math.inf
        return Layout(
            base_tokens=tuple(base_tokens),
            tokens=tuple(tokens),
            seeds=seeds,
            flops=self.flops(base_tokens, tokens, seeds),
            expected=_t(len(base_tokens), seeds) * width,
        )

    def rows(self, base_tokens: Sequence[int], tokens: Sequence[int]) -> tuple[dict[str, FloatArray], list[Any]]:
        """Logs of the rows of one seed, and which of them share a base; those from scratch share their stage."""
        levels = (*((0,) if self.scratch else ()), *base_tokens)
        u, v = np.array(list(itertools.product(levels, tokens)), dtype=float).T
        with np.errstate(divide="ignore"):
            return {"base_tokens": np.log(u), "tokens": np.log(v)}, [np.flatnonzero(u == level) for level in levels]

    def simulated(self, layout: Layout, draws: int) -> Layout:
        """The same grid with the spread of what laws fitted to drawn points answer."""
        one, groups = self.rows(layout.base_tokens, layout.tokens)
        n = len(one["tokens"])
        logs = {name: np.tile(column, layout.seeds) for name, column in one.items()}
        clusters = [rows + n * seed for seed in range(layout.seeds) for rows in groups]
        means = np.exp(self.form.log_loss(logs, self.theta[None]))[0]
        fit = fit_form(self.form, logs, means)
        losses = means * np.exp(draw_noise(self.noise, self.luck, clusters, draws, len(means), seed=0))
        answers = self.aim.ask(self.form, refit(fit, logs, losses, np.ones((1, len(means)))).theta)
        found = answers[np.isfinite(answers)]
        if len(found) < draws / 2:
            return replace(layout, simulated=math.inf, lost=1 - len(found) / draws)
        low, high = np.quantile(found, [0.025, 0.975])
        widened = _t(len(layout.base_tokens), layout.seeds) / 1.96
        return replace(layout, simulated=float(high - low) / 2 * widened, lost=1 - len(found) / draws)


def _t(bases: int, seeds: int) -> float:
    """Student's t as the intervals of `ScalingLaw` take it: clusters are trunks from six on, else bases."""
    from scipy.special import stdtrit

    clusters = seeds if seeds >= MANY else bases * seeds
    return float(stdtrit(clusters - 1, 0.975))


def _gradient(aim: Aim, form: Form, theta: FloatArray) -> FloatArray:
    """Of the aim's answer, by central differences."""
    step = 1e-6 * np.maximum(np.abs(theta), 1.0)
    around = np.concatenate([theta + np.diag(step), theta - np.diag(step)])
    up, down = np.split(aim.ask(form, around), 2)
    return np.nan_to_num((up - down) / (2 * step))
