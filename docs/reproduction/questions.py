"""What is asked of the points: one function for each table of the results, its rows in words."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from cells import (
    Cells,
    at_flops,
    by_seed,
    crossing,
    crossing_flops,
    curves,
    ends,
    from_scratch,
    home_text,
    loss_on,
    mean_cells,
    methods_of,
    won_back,
)
from words import budget, interval, interval_of, spread, table, within_marks

from hf_bootstrap.laws.evidence import compare_forms
from hf_bootstrap.laws.law import ScalingLaw
from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.profiles import profile
from hf_bootstrap.laws.saturation import saturation_test
from hf_bootstrap.laws.slices import slice_exponents
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.study.points import best_rates
from hf_bootstrap.study.seeds import seed_spread
from hf_bootstrap.units import format_count


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


def forgetting_rows(points: Sequence[ScalingPoint], method: str) -> list[list[str]]:
    """Loss on the base's own text: of the base, and after each second stage on another."""
    bases = {(p.seed, p.tokens): p for p in points if p.method == "scratch" and p.phase == "end"}
    own = ends(points, method)
    home, marks = home_text(points, own), sorted({p.tokens for p in own})
    rows = []
    for d1 in sorted({p.base_tokens for p in own}):
        before = [bases[seed, d1].loss for seed in sorted({p.seed for p in own}) if (seed, d1) in bases]
        after = [[loss_on(p, home) for p in own if (p.base_tokens, p.tokens) == (d1, d2)] for d2 in marks]
        rows.append([format_count(d1), spread(before), *(spread(losses) if losses else "–" for losses in after)])
    return rows


def rates_rows(points: Sequence[ScalingPoint], methods: Sequence[str]) -> list[list[str]]:
    """The corners of the grid at each peak learning rate: what the fixed rate of the study costs."""
    return [
        [
            format_count(d1),
            format_count(d2),
            ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in sorted(losses.items())),
        ]
        for (d1, d2), losses in sorted(_corners(points, methods).items())
    ]


def rate_rows(points: Sequence[ScalingPoint], methods: Sequence[str], rate: float) -> list[list[str]]:
    """alpha3 from the four corners alone, above the floor of the method's law: at the study's rate, and at the best."""
    rows = []
    for method in methods:
        corners = sorted(_corners(points, [method, f"{method}-rates"]).items())
        floor = ScalingLaw().fit(best_rates(points)[0], where={"method": method}).params_["E"]
        at_rate = _alpha3_of_corners({cell: losses[rate] for cell, losses in corners}, floor)
        at_best = _alpha3_of_corners({cell: min(losses.values()) for cell, losses in corners}, floor)
        best = ", ".join(f"{min(losses, key=losses.__getitem__):g}" for _, losses in corners)
        rows.append([method, f"{floor:.2f}", f"{at_rate:+.4f}", f"{at_best:+.4f}", best])
    return rows


def lower_rows(points: Sequence[ScalingPoint], methods: Sequence[str], rate: float) -> list[list[str]]:
    """The law of a whole grid, seed 1, at the study's rate and where each cell has the best of all its rates."""
    rows = []
    for method in methods:
        lower = [replace(p, method=method) for p in ends(points, f"{method}-lower")]
        fixed = [p for p in ends(points, method) if p.seed == 1 and p.peak_lr == rate]
        best = best_rates([*fixed, *lower])[0]
        fresh = [p for p in from_scratch(points, fixed[0]) if p.seed == 1 and p.peak_lr == rate]
        chosen = Counter(p.peak_lr for p in best)
        for what, cells in ((f"{rate:g}", fixed), ("the best of each cell", best)):
            law = ScalingLaw().fit([*cells, *fresh], where={"method": method})
            floor = law.params_["E"]
            slices = slice_exponents(Points.read(cells), floor=floor, resamples=20).exponent
            nulls = [interval((null.null_low, null.null_high)) for null in saturation_test(law, n=200).nulls]
            found = compare_forms([*cells, *fresh], where={"method": method})
            remain = [
                f"{s.form} {s.leave_base_out:.2%}" for s in found.scores if s.form in (found.confidence_set or ())
            ]
            rates = "" if cells is fixed else ", ".join(f"{r:g}: {chosen[r]}" for r in sorted(chosen))
            alpha3 = f"{law.params_['alpha3']:+.4f} {interval(law.interval('alpha3'))}"
            exponents = ", ".join(f"{value:.3f}" for value in slices)
            rows.append([method, what, alpha3, f"{floor:.2f}", exponents, *nulls, ", ".join(remain), rates])
    return rows


def _alpha3_of_corners(losses: Cells, floor: float) -> float:
    """How much the exponent of D2 falls with ln D1, between two D1 and two D2."""
    (low, high), (short, long) = (sorted({cell[i] for cell in losses}) for i in (0, 1))
    fall = {d1: np.log((losses[d1, short] - floor) / (losses[d1, long] - floor)) for d1 in (low, high)}
    return float((fall[low] - fall[high]) / np.log(long / short) / np.log(high / low))


def _corners(points: Sequence[ScalingPoint], methods: Sequence[str]) -> dict[tuple[int, int], dict[float, float]]:
    """(D1, D2) -> peak rate -> loss, seed 1, of the cells that were trained at several rates."""
    found: dict[tuple[int, int], dict[float, float]] = {}
    for p in (p for m in methods for p in ends(points, m) if p.seed == 1 and p.peak_lr):
        found.setdefault((p.base_tokens, p.tokens), {})[p.peak_lr] = p.loss
    return {cell: losses for cell, losses in found.items() if len(losses) > 1}


def at_equal(measured: Sequence[Sequence[tuple[float, float]]], flops: float) -> str:
    """The loss of each seed's curve at a number of FLOPs, in words."""
    known = [loss for curve in measured if (loss := at_flops(curve, flops)) is not None]
    return spread(known) if known else "–"


def replay_rows(points: Sequence[ScalingPoint], without: str, replayed: str, home: str) -> list[list[str]]:
    """Losses on the new text and on the base's own, with and without replay of it."""
    rows = []
    arms = [ends(points, method) for method in (without, replayed)]
    for d1, d2 in sorted({(p.base_tokens, p.tokens) for p in arms[1]}):
        cells = [[p for p in arm if (p.base_tokens, p.tokens) == (d1, d2)] for arm in arms]
        new, old = ([spread([read(p) for p in cell]) for cell in cells] for read in (_own_loss, _loss_on(home)))
        rows.append([format_count(d1), format_count(d2), *new, *old])
    return rows


def _own_loss(point: ScalingPoint) -> float:
    return point.loss


def _loss_on(text: str) -> Callable[[ScalingPoint], float]:
    return lambda point: loss_on(point, text)


def size_rows(points: Sequence[ScalingPoint], method: str) -> list[list[str]]:
    """The law of each model size by itself, then one law with a term of size for all."""
    own = [p for p in points if p.method == method and p.phase == "end" and p.tokens and p.base_tokens]
    sizes = sorted({p.n_params_non_embedding or 0 for p in own})
    rows = []
    for size in sizes:
        chosen = [p for p in own if p.n_params_non_embedding == size]
        rows.append([format_count(size), str(len(chosen)), *_law_cells(ScalingLaw().fit(chosen))])
    if len(sizes) > 2:
        rows.append(["all, bootstrap_n", str(len(own)), *_law_cells(ScalingLaw("bootstrap_n").fit(own))])
    return rows


def _law_cells(law: ScalingLaw) -> list[str]:
    """Parameters of a law in words, and how far it misses its points."""
    params, points = law.params_, law.points_
    size = {"n_params": points.n_params} if "beta" in params else {}
    told = law.predict(base_tokens=points.base_tokens, tokens=points.tokens, **size).value
    return [
        f"{params['alpha3']:+.4f} {interval(law.interval('alpha3'))}",
        f"{params['alpha2'] - params['alpha3'] * np.log(1e6):.3f}",
        "–" if "beta" not in params else f"{params['beta']:.3f} {interval(law.interval('beta'), '{:.3f}')}",
        f"{params['E']:.2f} {interval(law.interval('E'), '{:.2f}')}",
        f"{np.mean(np.abs(told / points.loss - 1)):.2%}",
    ]


def small_model_rows(points: Sequence[ScalingPoint], grown: str, small: str) -> list[list[str]]:
    """FLOPs of the second stage from which on growth beats the small model trained on: predicted, then measured."""
    own = ends(points, grown)
    seeds = {p.seed for p in own}
    points = [p for p in points if p.seed in seeds]
    rival = ends(points, small)
    marks = sorted({p.tokens for p in own})
    per_token = [fmean((p.flops or 0) / p.tokens for p in part) for part in (own, rival)]
    laws = [
        [ScalingLaw().fit([p for p in points if p.tokens <= most], where={"method": m}) for m in (grown, small)]
        for most in (marks[2], marks[-1])
    ]
    rows = []
    for d1 in sorted({p.base_tokens for p in own}):
        told = [_predicted_crossing(pair, per_token, d1) for pair in laws]
        both = zip(curves(own, d1), curves(rival, d1), strict=True)
        met = [crossing_flops(first, second) for first, second in both]
        rows.append([format_count(d1), *map(_flops, told), ", ".join(map(_flops, met))])
    return rows


def _predicted_crossing(laws: Sequence[ScalingLaw], per_token: Sequence[float], d1: int) -> float:
    """As `crossing_flops`, of two laws, over four decades around the marks."""
    flops = np.geomspace(1e10, 1e14, 4001)
    losses = [
        np.asarray(law.predict(base_tokens=d1, tokens=flops / cost, extrapolate=True).value)
        for law, cost in zip(laws, per_token, strict=True)
    ]
    below = np.flatnonzero(losses[0] < losses[1])
    return float("inf") if not len(below) else 0.0 if below[0] == 0 else float(flops[below[0]])


def _flops(value: float) -> str:
    return "at once" if value == 0 else "never" if value == np.inf else f"{value:.1e}"


def control_rows(points: Sequence[ScalingPoint], controls: Sequence[str], beside: Sequence[str]) -> list[list[str]]:
    """Losses of the controls beside those of what they control, cell by cell, on the seeds of the controls."""
    seeds = {p.seed for m in controls for p in ends(points, m)}
    chosen = [p for p in points if p.seed in seeds]
    cells = {m: mean_cells(ends(chosen, m)) for m in (*controls, *beside)}
    asked = sorted({cell for m in controls for cell in cells[m]})
    return [
        [
            format_count(d1),
            format_count(d2),
            *(f"{cells[m][d1, d2]:.3f}" if (d1, d2) in cells[m] else "–" for m in (*controls, *beside)),
        ]
        for d1, d2 in asked
    ]


def ridge_rows(points: Sequence[ScalingPoint]) -> list[list[str]]:
    """What the floor does to alpha3: each method's joint profile of the two, a few points of its ridge."""
    rows = []
    for method in methods_of(points):
        found = profile(ScalingLaw().fit(points, where={"method": method}))
        rows.append([method, *(f"{a:+.3f} with E = {e:.2f}, {more:+.0%}" for a, e, more in found.ridge())])
    return rows
