"""Write the results of every study from its points: `python docs/reproduction/analyse.py [FOLDER]`.

FOLDER holds `points-<study>.jsonl`; it is the one of this file if left out. What `hf-bootstrap study report` says of
each method stands there; here stand the questions that cut across methods and studies. `results.md` is the main
study's, `results-gpt2.md` and the like those of the others.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cells import core_hours, ends, from_scratch, home_text, load, methods_of
from questions import (
    alpha3_rows,
    control_rows,
    crossover_rows,
    equal_flops_rows,
    exponent_rows,
    forgetting_rows,
    form_table,
    lower_rows,
    rate_rows,
    rates_rows,
    recovery_rows,
    replay_rows,
    ridge_rows,
    size_rows,
    small_model_rows,
    worse_rows,
)
from recovery import draw_recovery
from words import table

from hf_bootstrap.errors import LawError, PointError
from hf_bootstrap.laws import figures
from hf_bootstrap.laws.across import compare_exponents
from hf_bootstrap.laws.law import ScalingLaw
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.study.points import best_rates
from hf_bootstrap.units import format_count

MAIN = "reproduction"
GROWN = ("stack", "interpose", "identity", "widen-pad", "expand-split")
Points = Sequence[ScalingPoint]


def section(title: str, make: Callable[[], str]) -> str:
    """A part of a page; where points are missing it says so instead."""
    try:
        return f"## {title}\n\n{make()}\n"
    except (LawError, PointError, IndexError, KeyError, ValueError) as error:
        return f"## {title}\n\nNot to be had from the points so far: {type(error).__name__}: {error}\n"


def parts_of_every_study(points: Points) -> Iterable[str]:
    """What is asked of each method by itself."""
    methods = methods_of(points)
    levels = [f"D1 = {format_count(d1)}" for d1 in sorted({p.base_tokens for p in ends(points, methods[0])})]
    nulls = ["alpha3 under total tokens", "under effective transfer"]
    head = ["method", "alpha3", "each seed alone", "without the shortest D2", "E", *nulls, "finding"]
    yield section("alpha3 of each method", lambda: table(head, alpha3_rows(points)))
    yield section(
        "What the floor does to alpha3: the ridge of their joint profile",
        lambda: table(
            ["method", "alpha3, the best E beside it, and how much worse it fits", *[""] * 4], ridge_rows(points)
        ),
    )
    yield section(
        "Does the exponent fall in a straight line of ln D1?",
        lambda: table(["method", *levels, "slope", "bend"], exponent_rows(points)),
    )
    for m in methods:
        yield section(f"Forms: {m}", lambda m=m: form_table(points, m))  # type: ignore[misc]
    head_of_crossover = [
        "base, D1",
        "predicted from the three smallest D2",
        "predicted from all",
        "measured, each seed",
    ]
    for m in methods:
        if from_scratch(points, ends(points, m)[0]):
            yield section(
                f"Where scratch overtakes: {m}",
                lambda m=m: table(head_of_crossover, crossover_rows(points, m)),  # type: ignore[misc]
            )
    yield section(
        "Negative transfer", lambda: table(["method", "cells worse than scratch", "which"], worse_rows(points))
    )
    grown = [m for m in methods if m in GROWN]
    if grown:
        head_of_growth = [
            "method",
            "base, D1",
            "loss after growth less the base's",
            "tokens that win it back, each seed",
        ]
        yield section("Recovery after growth", lambda: table(head_of_growth, recovery_rows(points, grown)))
    for m in methods:
        home = home_text(points, ends(points, m))
        if ends(points, m)[0].domain != home:
            marks = [f"D2 = {format_count(d)}" for d in sorted({p.tokens for p in ends(points, m)})]
            yield section(
                f"Forgetting: loss on {home}, {m}",
                lambda m=m, marks=marks: table(["base, D1", "base", *marks], forgetting_rows(points, m)),  # type: ignore[misc]
            )


def parts_of_main(points: Points, studies: Mapping[str, Points]) -> Iterable[str]:
    """What is asked across methods and studies."""
    grown = [m for m in methods_of(points) if m in GROWN and m != "expand-split"]
    first = grown[0]
    head = ["base, D1", f"D2 of {first}", "FLOPs", *grown, "continue-same", f"{first}'s model from scratch"]
    yield section(
        "At equal FLOPs of the second stage",
        lambda: table([*head, "the same, the base's FLOPs added"], equal_flops_rows(points, [*grown, "continue-same"])),
    )
    head_of_small = ["base, D1", "predicted from the three smallest D2", "predicted from all", "measured, each seed"]
    for m in grown:
        yield section(
            f"FLOPs of the second stage beyond which {m} beats the small model trained on",
            lambda m=m: table(head_of_small, small_model_rows(points, m, "continue-same")),  # type: ignore[misc]
        )
    all_seeds = {p.seed for p in points}
    whole = [m for m in grown if {p.seed for p in ends(points, m)} == all_seeds]
    yield section("Do growth methods share exponents?", lambda: str(compare_exponents(points, whole)))
    if whole != grown:
        yield section(
            "The same with the methods of one seed",
            lambda: str(compare_exponents(under_one_name([p for p in points if p.seed == 1]), grown)),
        )
    yield from parts_of_controls(points, studies)


def under_one_name(points: Points) -> list[ScalingPoint]:
    """Bases that were trained again on another day, equal to the last digit, under one name."""
    return [replace(p, base_checkpoint_id=f"seed {p.seed}, D1 = {p.base_tokens}") for p in points]


def parts_of_controls(points: Points, studies: Mapping[str, Points]) -> Iterable[str]:
    """Preserving or not, copies that know nothing, copies that never part, replay, rates, sizes."""
    one_seed = [p for p in points if p.seed == 1]
    grown = [m for m in methods_of(points) if m in GROWN]
    yield section(
        "Preserving and not preserving, seed 1",
        lambda: table(["base, D1", "D2", *grown], control_rows(one_seed, grown, [])),
    )
    shuffled = [*one_seed, *studies.get("reproduction-shuffled", ())]
    for control, beside in (("stack-shuffled", "stack"), ("expand-clone", "expand-split")):
        others = [m for m in (beside, "continue-same") if ends(points, m)]
        if ends(shuffled, control):
            yield section(
                f"Control: {control}, seed 1",
                lambda c=control, o=others: table(["base, D1", "D2", c, *o], control_rows(shuffled, [c], o)),  # type: ignore[misc]
            )
    yield section(
        "What replay does",
        lambda: table(
            ["base, D1", "D2", "loss on German, no replay", "5%", "loss on fiction, no replay", "5%"],
            replay_rows(points, "continue-german", "continue-german-replay", "fiction"),
        ),
    )
    swept = [m for m in methods_of(points) if ends(studies[MAIN], f"{m}-rates")]
    for m in swept:
        yield section(
            f"Was the rate fair? {m}",
            lambda m=m: table(  # type: ignore[misc]
                ["base, D1", "D2", "loss at each peak rate, seed 1"], rates_rows(studies[MAIN], [m, f"{m}-rates"])
            ),
        )
    yield section(
        "What the rate does to alpha3, seed 1",
        lambda: table(
            [
                "method",
                "E",
                "alpha3 of the corners at 0.002",
                "at the best rate of each",
                "best rates, in the order above",
            ],
            rate_rows(studies[MAIN], swept, 0.002),
        ),
    )
    repeated = [m for m in methods_of(points) if ends(studies[MAIN], f"{m}-lower")]
    head_of_lower = ["method", "rate", "alpha3", "E", "exponents, D1 rising", "alpha3 under total tokens"]
    head_of_lower += ["under effective transfer", "forms that remain", "cells at each rate"]
    yield section(
        "What the rate does to a whole grid, seed 1",
        lambda: table(head_of_lower, lower_rows(studies[MAIN], repeated, 0.002)),
    )
    sizes = [p for name in (MAIN, f"{MAIN}-30k", f"{MAIN}-400k", f"{MAIN}-10m") for p in studies.get(name, ())]
    head = ["N", "points", "alpha3", "alpha2 at D1 = 1M", "beta", "E", "mean error"]
    yield section("Continued training at each size", lambda: table(head, size_rows(sizes, "continue")))


def page(name: str, studies: Mapping[str, Points]) -> str:
    """One study's results as Markdown."""
    measured = studies[name]
    points = best_rates(measured)[0]
    title = "Results of the reproduction, in numbers" + ("" if name == MAIN else f": {name}.yaml")
    head = (
        f"# {title}\n\nMade from `points-{name}.jsonl` by `python docs/reproduction/analyse.py`. "
        "Losses are nats per token on held-out text, ± is one standard deviation over seeds, intervals are 95%. "
        f"{len(measured)} points of {len({p.run_id for p in measured})} runs, by the speeds they state "
        f"{core_hours(measured):.1f} hours of one {'process on a GPU' if any(p.mfu for p in measured) else 'core'}.\n"
    )
    across = parts_of_main(points, studies) if name == MAIN else ()
    return "\n".join([head, *parts_of_every_study(points), *across])


def draw(name: str, points: Points, folder: Path) -> None:
    """The three panels of every method's law."""
    points = best_rates(points)[0]
    of_study = name.removeprefix(MAIN).strip("-")
    for method in methods_of(points):
        law = ScalingLaw().fit(points, where={"method": method})
        file = "-".join(part for part in (method, of_study) if part)
        figures.three_panels(law).savefig(folder / f"{file}.png", dpi=110, bbox_inches="tight")


def write(folder: Path) -> None:
    """A page of each study that has laws, and their figures."""
    studies = load(folder)
    for study, points in studies.items():
        if methods_of(points):
            (folder / f"results{study.removeprefix(MAIN)}.md").write_text(page(study, studies))
            draw(study, points, folder)
    draw_recovery(studies[MAIN], folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
