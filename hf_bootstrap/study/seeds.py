"""What repeats of a study say: how far seeds differ in each cell, and what the law of each seed alone would be.

A seed is a trunk of its own: another initialisation, another order of the text. With fewer than six of them the
intervals of a law leave out what differs between trunks, and here it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from ..errors import LawError, PointError
from ..laws.law import ScalingLaw
from ..records import ScalingPoint

__all__ = ["Cell", "SeedSpread", "seed_spread"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a method's grid, or of the same model from scratch.

    Attributes:
        base_tokens, tokens: D1 (0 from scratch) and D2.
        loss: mean over the seeds, nats per token.
        spread: standard deviation over the seeds; None with one seed.
        seeds: how many were measured.
    """

    base_tokens: int
    tokens: int
    loss: float
    spread: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """What the seeds of one method say.

    Attributes:
        cells: by D1, then D2; rows from scratch first.
        typical: median over the cells of the standard deviation divided by the mean; None with one seed.
        alpha3: seed -> alpha3 of the law fitted to that seed alone; empty with one seed, or where none can be fitted.
    """

    cells: tuple[Cell, ...]
    typical: float | None
    alpha3: dict[int, float]

    @property
    def alpha3_spread(self) -> tuple[float, float] | None:
        """Mean and standard deviation of alpha3 over seeds; None with fewer than two."""
        values = list(self.alpha3.values())
        return (fmean(values), stdev(values)) if len(values) > 1 else None


def seed_spread(points: Sequence[ScalingPoint], method: str) -> SeedSpread:
    """How far the seeds of one method differ.

    Args:
        points: end points of the method, and of the same model from scratch on the same text.
        method: whose second stages.
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for point in points:
        cells.setdefault((point.base_tokens, point.tokens), []).append(point.loss)
    spreads = {cell: stdev(losses) for cell, losses in cells.items() if len(losses) > 1}
    relative = [spread / fmean(cells[cell]) for cell, spread in spreads.items()]
    return SeedSpread(
        cells=tuple(
            Cell(base_tokens=d1, tokens=d2, loss=fmean(losses), spread=spreads.get((d1, d2)), seeds=len(losses))
            for (d1, d2), losses in sorted(cells.items())
        ),
        typical=median(relative) if relative else None,
        alpha3=_alpha3(points, method),
    )


def _alpha3(points: Sequence[ScalingPoint], method: str) -> dict[int, float]:
    seeds = sorted({point.seed for point in points if point.seed is not None and point.method == method})
    found = {}
    for seed in seeds if len(seeds) > 1 else ():
        rows = [point for point in points if point.seed == seed]
        try:
            alpha3 = ScalingLaw(form="bootstrap").fit(rows, where={"method": method}).params_["alpha3"]
        except (LawError, PointError):
            continue
        if alpha3 is not None:  # None where the seed's points cannot identify it
            found[seed] = alpha3
    return found
