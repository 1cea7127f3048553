"""Write results.md and its figures from the points beside this file: `python docs/reproduction/analyse.py`.

What `hf-bootstrap study report` says of each method stands there; here stand the questions that cut across methods.
Losses are nats per token on held-out text, tokens those that carry loss, logs natural; ± is one standard deviation over
seeds, intervals are 95%.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from hf_bootstrap.errors import LawError, PointError
from hf_bootstrap.laws import figures
from hf_bootstrap.laws.across import compare_exponents
from hf_bootstrap.laws.evidence import compare_forms
from hf_bootstrap.laws.law import ScalingLaw
from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.saturation import saturation_test
from hf_bootstrap.laws.slices import slice_exponents
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import read_points
from hf_bootstrap.study.points import best_rates
from hf_bootstrap.study.seeds import seed_spread
from hf_bootstrap.units import format_count

HERE = Path(__file__).parent
# Of the arms with two marks no law can be fitted.
FEW_MARKS = ("continue-rates", "expand-clone")
Cells = dict[tuple[int, int], float]


def load(name: str = "reproduction") -> list[ScalingPoint]:
    """The points of one study."""
    return read_points(HERE / f"points-{name}.jsonl").points


def ends(points: Iterable[ScalingPoint], method: str) -> list[ScalingPoint]:
    """The end points of a method's second stages."""
    return [p for p in points if p.method == method and p.phase == "end" and p.tokens and p.base_tokens]


def from_scratch(points: Iterable[ScalingPoint], like: ScalingPoint) -> list[ScalingPoint]:
    """The same model from scratch on the same text."""
    kind = (like.domain, like.n_params_non_embedding)
    return [
        p for p in points if not p.base_tokens and p.phase == "end" and (p.domain, p.n_params_non_embedding) == kind
    ]


def methods_of(points: Sequence[ScalingPoint]) -> list[str]:
    """Methods that a law can be fitted to, in the order of the points."""
    found = dict.fromkeys(p.method for p in points if p.base_tokens)
    return [m for m in found if m not in FEW_MARKS and len({p.tokens for p in ends(points, m)}) > 2]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def spread(values: Sequence[float], pattern: str = "{:.3f}") -> str:
    """Mean and standard deviation in words."""
    told = pattern.format(fmean(values))
    return told if len(values) < 2 else f"{told} ± {pattern.format(stdev(values)).lstrip('+')}"


def interval(ends: tuple[float | None, float | None] | None, pattern: str = "{:+.4f}") -> str:
    """An interval in words."""
    if ends is None or None in ends:
        return "not known"
    return f"[{pattern.format(ends[0])}, {pattern.format(ends[1])}]"


def alpha3_rows(points: Sequence[ScalingPoint]) -> list[list[str]]:
    """alpha3 of each method: of all seeds, of each alone, without the shortest cells, and against the nulls."""
    rows = []
    for method in methods_of(points):
        law = ScalingLaw().fit(points, where={"method": method})
        test = saturation_test(law, n=200)
        shortest = min(p.tokens for p in ends(points, method))
        longer = ScalingLaw().fit([p for p in points if p.tokens > shortest], where={"method": method})
        own = ends(points, method)
        seeds = seed_spread([*own, *from_scratch(points, own[0])], method).alpha3
        params, without = law.params_, longer.params_
        rows.append(
            [
                method,
                f"{params['alpha3']:+.4f} {interval(law.interval('alpha3'))}",
                ", ".join(f"{value:+.4f}" for value in seeds.values()) or "one seed",
                f"{without['alpha3']:+.4f} {interval(longer.interval('alpha3'))}",
                f"{params['E']:.2f} {interval(law.interval('E'), '{:.2f}')}",
                *(f"{interval((n.null_low, n.null_high))}, fit p = {n.p_fit:.3f}" for n in test.nulls),
                str(test.verdict.finding),
            ]
        )
    return rows


def form_table(points: Sequence[ScalingPoint], method: str) -> str:
    """The forms on one method's points and those from scratch, best on bases left out first."""
    found = compare_forms(points, where={"method": method})

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.2%}"

    rows = [
        [
            s.form,
            str(s.n_params),
            percent(s.error),
            percent(s.leave_base_out),
            "–" if s.behind is None else f"{s.behind:+.2%} {interval((s.behind_low, s.behind_high), '{:+.2%}')}",
            "–" if found.confidence_set is None else "yes" if s.form in found.confidence_set else "no",
            percent(s.largest_base_out),
            percent(s.largest_tokens_out),
        ]
        for s in found.scores
    ]
    head = ["form", "k", "error", "a base left out", "behind the best", "remains", "largest D1 left out"]
    return table([*head, "largest D2 left out"], rows)


def exponent_rows(points: Sequence[ScalingPoint]) -> list[list[str]]:
    """Exponents of each D1 above one floor, seed by seed, and whether they bend: the second difference in ln D1."""
    rows = []
    for method in methods_of(points):
        own = ends(points, method)
        bends, slopes, curves = [], [], []
        for seed in sorted({p.seed or 0 for p in own}):
            chosen = Points.read([p for p in own if p.seed == seed], where={"method": method})
            found = slice_exponents(chosen, resamples=20)
            bend, slope, _ = np.polyfit(np.log(found.base_tokens) - np.log(found.base_tokens).mean(), found.exponent, 2)
            bends.append(float(bend))
            slopes.append(float(slope))
            curves.append(found.exponent)
        levels = sorted({p.base_tokens for p in own})
        shown = [spread([float(curve[i]) for curve in curves]) for i in range(len(levels))]
        rows.append([method, *shown, spread(slopes, "{:+.4f}"), spread(bends, "{:+.4f}")])
    return rows


def by_seed(points: Iterable[ScalingPoint]) -> dict[int, Cells]:
    """Seed -> (D1, D2) -> loss."""
    found: dict[int, Cells] = {}
    for p in points:
        found.setdefault(p.seed or 0, {})[p.base_tokens, p.tokens] = p.loss
    return found


def crossing(reuse: dict[int, float], scratch: dict[int, float]) -> float:
    """D2 at which the loss from scratch falls below that of reuse, between marks by straight lines in ln D2.

    0 where scratch is better at the least mark, infinity where reuse still is at the largest.
    """
    marks = sorted(reuse.keys() & scratch.keys())
    gaps = [scratch[d2] - reuse[d2] for d2 in marks]
    if gaps[0] <= 0:
        return 0.0
    for (d2, gap), (after, below) in itertools.pairwise(zip(marks, gaps, strict=True)):
        if below <= 0:
            return float(np.exp(np.log(d2) + np.log(after / d2) * gap / (gap - below)))
    return float("inf")


def crossover_rows(points: Sequence[ScalingPoint], method: str) -> list[list[str]]:
    """Where scratch overtakes reuse: predicted by a law of the three smallest D2, by one of all, and measured."""
    own = ends(points, method)
    scratch = from_scratch(points, own[0])
    small = sorted({p.tokens for p in own})[2]
    laws = [
        ScalingLaw().fit([p for p in points if p.tokens <= most], where={"method": method})
        for most in (small, max(p.tokens for p in own))
    ]
    measured, alone = by_seed(own), by_seed(scratch)
    rows = []
    for d1 in sorted({p.base_tokens for p in own}):
        met = [
            crossing(
                {d2: loss for (b, d2), loss in cells.items() if b == d1}, {d2: x for (_, d2), x in alone[s].items()}
            )
            for s, cells in measured.items()
            if s in alone
        ]
        told = [law.crossover(base_tokens=d1) for law in laws]
        rows.append(
            [
                format_count(d1),
                *(f"{budget(d.value)} {interval_of(d.low, d.high)}" for d in told),
                ", ".join(within_marks(value) for value in met),
            ]
        )
    return rows


def budget(value: float | None) -> str:
    """Tokens in words, where nobody trains on less than one or more than 1e15."""
    if value is None:
        return "–"
    if value < 1:
        return "never better"
    return ">1000T" if value > 1e15 and np.isfinite(value) else "always better" if value > 1e15 else format_count(value)


def within_marks(value: float) -> str:
    """A number of tokens that was measured: between the marks, or beyond one of their ends."""
    return "before the marks" if value == 0 else "beyond the marks" if value == np.inf else format_count(value)


def interval_of(low: float | None, high: float | None) -> str:
    """An interval of tokens in words."""
    return "" if low is None or high is None else f"[{budget(low)}, {budget(high)}]"


def equal_flops_rows(points: Sequence[ScalingPoint], methods: Sequence[str]) -> list[list[str]]:
    """Loss at the FLOPs of each mark of the first method; others by straight lines in ln FLOPs between their marks.

    Last the first method's model from scratch: at the FLOPs of the second stage, and with those of the base added.
    """
    first = ends(points, methods[0])
    alone = from_scratch(points, first[0])
    bases = {p.tokens: p.flops or 0 for p in points if p.method == "scratch" and p.n_params == first[0].n_params_base}
    rows = []
    for d1 in sorted({p.base_tokens for p in first}):
        for d2 in sorted({p.tokens for p in first}):
            asked = fmean(p.flops or 0 for p in first if (p.base_tokens, p.tokens) == (d1, d2))
            row = [format_count(d1), format_count(d2), f"{asked:.2e}"]
            row += [at_equal(curves(ends(points, method), d1), asked) for method in methods]
            row += [at_equal(curves(alone, 0), flops) for flops in (asked, asked + bases.get(d1, np.nan))]
            rows.append(row)
    return rows


def at_equal(measured: Sequence[Sequence[tuple[float, float]]], flops: float) -> str:
    """The loss of each seed's curve at a number of FLOPs, in words."""
    known = [loss for curve in measured if (loss := at_flops(curve, flops)) is not None]
    return spread(known) if known else "–"


def curves(points: Sequence[ScalingPoint], d1: int) -> list[list[tuple[float, float]]]:
    """For each seed (FLOPs of the second stage, loss) from one base, rising."""
    found: dict[int, list[tuple[float, float]]] = {}
    for p in points:
        if p.base_tokens == d1 and p.flops:
            found.setdefault(p.seed or 0, []).append((p.flops, p.loss))
    return [sorted(curve) for curve in found.values()]


def at_flops(curve: Sequence[tuple[float, float]], flops: float) -> float | None:
    """The loss at a number of FLOPs inside a curve, straight in ln FLOPs; None outside it (1% aside)."""
    x, y = [float(np.log(f)) for f, _ in curve], [loss for _, loss in curve]
    if not x or not x[0] - 0.01 <= np.log(flops) <= x[-1] + 0.01:
        return None
    return float(np.interp(np.log(flops), x, y))


def worse_rows(points: Sequence[ScalingPoint]) -> list[list[str]]:
    """Negative transfer: cells in which a base made the loss worse than from scratch, in the mean over seeds."""
    rows = []
    for method in methods_of(points):
        own = ends(points, method)
        alone = mean_cells(from_scratch(points, own[0]))
        losses = mean_cells(own)
        bad = [(d1, d2, loss - alone[0, d2]) for (d1, d2), loss in losses.items() if (0, d2) in alone]
        told = [f"D1 = {format_count(a)}, D2 = {format_count(b)}: {gap:+.3f}" for a, b, gap in sorted(bad) if gap > 0]
        rows.append([method, f"{len(told)} of {len(bad)}" if bad else "no rows from scratch", "; ".join(told) or "–"])
    return rows


def mean_cells(points: Iterable[ScalingPoint]) -> Cells:
    """(D1, D2) -> mean loss over seeds."""
    found: dict[tuple[int, int], list[float]] = {}
    for p in points:
        found.setdefault((p.base_tokens, p.tokens), []).append(p.loss)
    return {cell: fmean(losses) for cell, losses in found.items()}


def recovery_rows(points: Sequence[ScalingPoint], methods: Sequence[str]) -> list[list[str]]:
    """What growth did to the loss, and how many tokens win back that of the base, decayed as it was."""
    bases = {(p.seed, p.tokens): p.loss for p in points if p.method == "scratch" and p.phase == "end"}
    rows = []
    for method in methods:
        own, grown = ends(points, method), [p for p in points if p.method == method and p.tokens == 0]
        for d1 in sorted({p.base_tokens for p in own}):
            jumps, needed = [], []
            for start in (p for p in grown if p.base_tokens == d1):
                base = bases.get((start.seed, d1))
                if base is None:
                    continue
                jumps.append(start.loss - base)
                curve = sorted((p.tokens, p.loss) for p in own if p.base_tokens == d1 and p.seed == start.seed)
                needed.append(won_back(curve, base))
            if jumps:
                rows.append([method, format_count(d1), spread(jumps, "{:+.3f}"), ", ".join(map(within_marks, needed))])
    return rows


def won_back(curve: Sequence[tuple[int, float]], base: float) -> float:
    """D2 at which decayed losses come down to the base's; 0 where the least mark has, infinity where none."""
    if curve[0][1] <= base:
        return 0.0
    for (d2, loss), (after, below) in itertools.pairwise(curve):
        if below <= base:
            return float(np.exp(np.log(d2) + np.log(after / d2) * (loss - base) / (loss - below)))
    return float("inf")


def forgetting_rows(points: Sequence[ScalingPoint], method: str) -> list[list[str]]:
    """Loss on the base's own text: of the base, and after each second stage on another."""
    bases = {(p.seed, p.tokens): p for p in points if p.method == "scratch" and p.phase == "end"}
    own = ends(points, method)
    marks = sorted({p.tokens for p in own})
    rows = []
    for d1 in sorted({p.base_tokens for p in own}):
        home = {p.seed: bases[p.seed, d1].domain or "" for p in own if (p.seed, d1) in bases}
        before = [bases[seed, d1].loss for seed in home]
        after = [
            [loss_on(p, home[p.seed]) for p in own if (p.base_tokens, p.tokens) == (d1, d2) and p.seed in home]
            for d2 in marks
        ]
        rows.append([format_count(d1), spread(before), *(spread(losses) if losses else "–" for losses in after)])
    return rows


def loss_on(point: ScalingPoint, text: str) -> float:
    """Nats per token on one of the evaluation sets."""
    sums = point.eval[text]
    return float(sums["sum"] or 0) / float(sums["count"] or 1)


def rates_rows(points: Sequence[ScalingPoint], methods: Sequence[str]) -> list[list[str]]:
    """The corners of the grid at each peak learning rate: what the fixed rate of the study costs."""
    rows = []
    for d1, d2 in sorted({(p.base_tokens, p.tokens) for m in methods for p in ends(points, m)}):
        cells = {
            p.peak_lr: p.loss
            for m in methods
            for p in ends(points, m)
            if (p.base_tokens, p.tokens) == (d1, d2) and p.seed == 1 and p.peak_lr
        }
        if len(cells) > 1:
            told = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in sorted(cells.items()))
            rows.append([format_count(d1), format_count(d2), told])
    return rows


def section(title: str, make: Callable[[], str]) -> str:
    """A part of the page; where points are missing it says so instead."""
    try:
        return f"## {title}\n\n{make()}\n"
    except (LawError, PointError, IndexError, KeyError, ValueError) as error:
        return f"## {title}\n\nNot to be had from the points so far: {type(error).__name__}: {error}\n"


def page(points: Sequence[ScalingPoint]) -> str:
    """Everything as Markdown."""
    best = best_rates(points)[0]
    methods = methods_of(best)
    grown = [m for m in methods if m in ("stack", "interpose", "identity", "widen-pad", "expand-split")]
    same_size = [m for m in grown if m != "expand-split"]
    levels = [format_count(d1) for d1 in sorted({p.base_tokens for p in ends(best, methods[0])})]
    parts = [
        section(
            "alpha3 of each method",
            lambda: table(
                [
                    "method",
                    "alpha3",
                    "each seed alone",
                    "without the shortest D2",
                    "E",
                    "alpha3 under total tokens",
                    "under effective transfer",
                    "finding",
                ],
                alpha3_rows(best),
            ),
        ),
        section(
            "Does the exponent fall in a straight line of ln D1?",
            lambda: table(["method", *(f"D1 = {d}" for d in levels), "slope", "bend"], exponent_rows(best)),
        ),
        *(
            section(f"Forms: {m}", lambda m=m: form_table(best, m))  # type: ignore[misc]
            for m in methods
        ),
        *(
            section(
                f"Where scratch overtakes: {m}",
                lambda m=m: table(  # type: ignore[misc]
                    ["base, D1", "predicted from the three smallest D2", "predicted from all", "measured, each seed"],
                    crossover_rows(best, m),
                ),
            )
            for m in methods
            if from_scratch(best, ends(best, m)[0])
        ),
        section(
            "At equal FLOPs of the second stage",
            lambda: table(
                [
                    "base, D1",
                    f"D2 of {same_size[0]}",
                    "FLOPs",
                    *same_size,
                    "continue-same",
                    f"{same_size[0]}'s model from scratch",
                    "the same, the base's FLOPs added",
                ],
                equal_flops_rows(best, [*same_size, "continue-same"]),
            ),
        ),
        section("Do growth methods share exponents?", lambda: str(compare_exponents(best, same_size))),
        section("Negative transfer", lambda: table(["method", "cells worse than scratch", "which"], worse_rows(best))),
        section(
            "Recovery after growth",
            lambda: table(
                ["method", "base, D1", "loss after growth less the base's", "tokens that win it back, each seed"],
                recovery_rows(best, grown),
            ),
        ),
        *(
            section(
                f"Forgetting: loss on fiction, {m}",
                lambda m=m: table(  # type: ignore[misc]
                    [
                        "base, D1",
                        "base",
                        *(f"D2 = {format_count(d)}" for d in sorted({p.tokens for p in ends(best, m)})),
                    ],
                    forgetting_rows(best, m),
                ),
            )
            for m in methods
            if ends(best, m)[0].domain != "fiction"
        ),
        section(
            "Was the rate fair?",
            lambda: table(
                ["base, D1", "D2", "loss at each peak rate, seed 1"], rates_rows(points, ["continue", "continue-rates"])
            ),
        ),
    ]
    head = (
        "# Results of the reproduction, in numbers\n\n"
        "Made from the points beside it by `python docs/reproduction/analyse.py`. "
        "Losses are nats per token on held-out text, ± is one standard deviation over seeds, intervals are 95%.\n"
    )
    return "\n".join([head, *parts])


def draw(points: Sequence[ScalingPoint]) -> None:
    """The three panels of every method's law."""
    for method in methods_of(points):
        law = ScalingLaw().fit(points, where={"method": method})
        figures.three_panels(law).savefig(HERE / f"{method}.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    measured = load()
    (HERE / "results.md").write_text(page(measured))
    draw(best_rates(measured)[0])
