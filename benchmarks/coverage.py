"""How often a nominal 95% interval holds the truth: the two-stage law on simulated studies of 12 and of 6 bases.

Bases at 6 levels of D1, each continued to 6 marks of D2, 1.5 decades per axis, 0.3% noise per run and, where the
bases have luck of their own, 0.3% more per base. Every study is fitted and resampled as `ScalingLaw.fit` does it.
Seeded: the same replicate gives the same answer. With --outliers it asks instead how much wider one row 5% off makes
the intervals, and whether they still hold the truth. Prints tables for docs/benchmarks.md.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hf_bootstrap import FORMS
from hf_bootstrap.laws.fitted import FittedLaw, fit_law
from hf_bootstrap.laws.points import Points
from hf_bootstrap.laws.prediction import predict

NOISE = 0.003
LEVELS = MARKS = 131_072 * np.geomspace(1, 10**1.5, 6)
# Close to what the miniature runs of continued pretraining gave: alpha3 and E are identified.
TRUTH = {"A": 1.37e4, "alpha1": 0.387, "alpha2": 0.655, "alpha3": 0.0247, "E": 1.71}
# Predictions at the middle of the data, at its two ends, and at four times the largest of both.
ASKED = {
    "middle": (131_072 * 10**0.75, 131_072 * 10**0.75),
    "smallest": (LEVELS[0], MARKS[0]),
    "largest": (LEVELS[-1], MARKS[-1]),
    "4x/4x": (4 * LEVELS[-1], 4 * MARKS[-1]),
}


def study(bases_per_level: int, luck: float, seed: int) -> Points:
    """One simulated study; every base is a trunk of its own."""
    form = FORMS["bootstrap"]
    rng = np.random.default_rng([seed, bases_per_level, round(luck * 1e6)])
    d1 = np.repeat(LEVELS, bases_per_level * len(MARKS))
    base = np.repeat(np.arange(len(LEVELS) * bases_per_level), len(MARKS))
    d2 = np.tile(MARKS, len(LEVELS) * bases_per_level)
    log_loss = form.log_loss({"base_tokens": np.log(d1), "tokens": np.log(d2)}, form.to_theta(TRUTH)[None])[0]
    log_loss = log_loss + NOISE * rng.standard_normal(len(d1)) + luck * rng.standard_normal(base[-1] + 1)[base]
    return Points(
        base_tokens=d1,
        tokens=d2,
        loss=np.exp(log_loss),
        base_run_id=np.array([f"base-{i}" for i in base], dtype=object),
    )


def answers(law: FittedLaw) -> npt.NDArray[np.float64]:
    """(quantities, 3): value, low and high of alpha3, E and the predictions."""
    found = [(law.params()[name], *(law.interval(name) or (np.nan, np.nan))) for name in ("alpha3", "E")]
    for d1, d2 in ASKED.values():
        told = predict(law, {"base_tokens": d1, "tokens": d2}, level=0.95, extrapolate=True)
        found.append((told.value, told.low, told.high))  # type: ignore[arg-type]
    return np.array(found, dtype=float)


def truth() -> npt.NDArray[np.float64]:
    """The quantities of `answers` in the law that makes the points."""
    form, (d1, d2) = FORMS["bootstrap"], np.log(np.array(list(ASKED.values()))).T
    loss = np.exp(form.log_loss({"base_tokens": d1, "tokens": d2}, form.to_theta(TRUTH)[None])[0])
    return np.array([TRUTH["alpha3"], TRUTH["E"], *loss])


def spoiled(points: Points, seed: int) -> Points:
    """The same study with one row, drawn at random, 5% too high or too low."""
    rng = np.random.default_rng([seed, 5])
    loss = points.loss.copy()
    loss[rng.integers(len(loss))] *= 1 + 0.05 * rng.choice([-1, 1])
    return replace(points, loss=loss)


def compare_outliers(seeds: range, resamples: int) -> None:
    """How much wider one outlier makes the intervals of 12 independent bases, and how often they hold the truth."""
    print(f"{len(seeds)} studies of 12 independent bases, clean and with one row 5% off; {resamples} resamples\n")
    print(f"| objective | wider intervals, by | {' | '.join(['alpha3', 'E', *ASKED])} |")
    print("|---" * 8 + "|")
    for objective in ("huber", "lsq"):
        found = []
        for seed in seeds:
            clean = study(2, 0.0, seed)
            laws = [
                fit_law(FORMS["bootstrap"], points, objective=objective, resamples=resamples)[0]
                for points in (clean, spoiled(clean, seed))
            ]
            found.append([answers(law) for law in laws])
        _, low, high = np.moveaxis(np.array(found), 3, 0)  # (studies, clean and spoiled, quantities)
        ratio = (high - low)[:, 1] / (high - low)[:, 0]
        held = np.mean((low <= truth()) & (truth() <= high), axis=0)
        for what, numbers, style in (
            ("median", np.median(ratio, axis=0), ".2f"),
            ("nine in ten at most", np.quantile(ratio, 0.9, axis=0), ".2f"),
            ("at most", ratio.max(axis=0), ".2f"),
            ("1.3 or less in", np.mean(ratio <= 1.3, axis=0), ".1%"),
            ("truth held, clean", held[0], ".1%"),
            ("truth held, one row off", held[1], ".1%"),
        ):
            print(f"| {objective} | {what} | {' | '.join(f'{x:{style}}' for x in numbers)} |", flush=True)


def main() -> None:
    """Simulate and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the first study")
    parser.add_argument("--outliers", action="store_true", help="compare studies with and without an outlier")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.replicates)
    if options.outliers:
        compare_outliers(seeds, options.resamples)
        return
    names = ["alpha3", "E", *ASKED]
    print(f"{options.replicates} studies each, {options.resamples} cluster resamples; the share of intervals that hold")
    print("the truth, and (the median width over 3.92 standard deviations of the estimate)\n")
    print(f"| bases | luck of the base | {' | '.join(names)} | CPU s |")
    print("|---" * (len(names) + 3) + "|")
    for bases_per_level in (2, 1):
        for luck in (0.0, NOISE):
            began = time.process_time()
            found = []
            for seed in seeds:
                points = study(bases_per_level, luck, seed)
                found.append(answers(fit_law(FORMS["bootstrap"], points, resamples=options.resamples)[0]))
            value, low, high = np.moveaxis(np.array(found), 2, 0)
            held = np.mean((low <= truth()) & (truth() <= high), axis=0)
            width = np.median(high - low, axis=0) / (3.92 * value.std(axis=0))
            cells = " | ".join(f"{h:.1%} ({w:.2f})" for h, w in zip(held, width, strict=True))
            taken = time.process_time() - began
            print(f"| {6 * bases_per_level} | {luck:.1%} | {cells} | {taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
