"""Findings in plain words: titles, the headline, what decides between reuse and scratch, and what is not known.

Tables and figures are the business of `report`.
"""

from collections.abc import Sequence

from ..laws.decisions import Decision
from ..laws.evidence import Comparison
from ..records import ScalingPoint
from ..units import format_count
from .analysis import Finding, GrowthProof
from .seeds import SeedSpread

__all__ = [
    "about_method",
    "apart_words",
    "crossover_notes",
    "finding_words",
    "floor_words",
    "form_words",
    "growth_words",
    "headline",
    "limits",
    "measured_words",
    "overview",
    "seed_words",
    "with_greek",
]

# Title and one sentence for a method; {domain} is the text of its second stage.
_METHODS = {
    "continue": ("Continued training", "The base as it is, trained further on {domain}."),
    "stack": ("Doubled depth (stacking)", "The base's layers twice over, trained further on unseen {domain}."),
    "expand-split": (
        "Doubled width (splitting)",
        "Each neuron of the base twice, with shares of its weights: the same function, wider. On unseen {domain}.",
    ),
}
_FORMS = {
    "bootstrap": "interaction (under test)",
    "multiplicative": "product without interaction",
    "additive": "sum of two power laws",
    "total_tokens": "total tokens",
    "effective_transfer": "effective transfer",
    "cpt_dynamics": "learning dynamics (shift)",
    "unified": "unified (generalised mean)",
}
_DOMAINS = {"docs": "English documentation", "code": "Python code"}


def about_method(finding: Finding) -> tuple[str, str]:
    """A title and a sentence; a method without words of its own goes by its name."""
    title, about = _METHODS.get(finding.method, (finding.method, "A base, trained further on {domain}."))
    if finding.one_of_sizes:
        title += f", {format_count(finding.n_params or 0)} parameters"
    domain = _DOMAINS.get(finding.domain or "", finding.domain or "its second text")
    size = "" if finding.n_params is None else f" The model has {finding.n_params:,} parameters besides embeddings."
    return title, about.format(domain=domain) + size


def form_words(form: str) -> str:
    """A law's name for people."""
    return _FORMS.get(form, form.replace("_", " "))


def apart_words(comparison: Comparison) -> str:
    """Which laws these points cannot tell apart."""
    left = comparison.confidence_set
    if left is None:
        return "Which laws remain is not known: too few bases to leave out in turn."
    names = _listed([form_words(form) for form in left])
    if len(left) == 1:
        return f"Only one remains: {names}."
    simplest = form_words(comparison.preferred or left[0])
    return (
        f"These points cannot tell apart: {names}. Of the laws within two standard errors of the best, the one with "
        f"the fewest parameters is {simplest}."
    )


def with_greek(sentence: str) -> str:
    """Parameter names as the page writes them."""
    return sentence.replace("alpha", "α")


def headline(findings: Sequence[Finding]) -> str:
    """The answer to the study's question in one or two sentences."""
    told = [finding for finding in findings if finding.verdict is not None]
    if not told:
        return "No law could be fitted to these points, so the question stays open. The reasons are below."
    falls = [finding for finding in told if finding.verdict is not None and finding.verdict.finding == "falls"]
    several = any(finding.one_of_sizes for finding in told)
    ways = "ways and sizes" if several else "ways"
    ways = f"{len(told)} {ways} to reuse a base" if len(told) > 1 else "The one way to reuse a base that was tried"
    if not falls:
        return (
            f"Of {ways}, none shows beyond doubt that longer trained bases gain less from a second stage. "
            if len(told) > 1
            else f"{ways} does not show beyond doubt that longer trained bases gain less from a second stage. "
        ) + "What each shows instead, and how sure that is, stands below."
    names = _listed([about_method(finding)[0].lower() for finding in falls])
    kinds = "methods and sizes" if several else "methods"
    hints = "A hint that longer" if any(_is_a_hint(finding) for finding in falls) else "Longer"
    return (
        f"{hints} trained bases gain less from a second stage with {names} ({len(falls)} of {len(told)} {kinds}): "
        "there the exponent falls, and the laws without saturation do not describe the points. This rests on few bases "
        "of tiny models; see what these data cannot tell."
    )


def overview(points: Sequence[ScalingPoint]) -> str:
    """What was measured, in one sentence."""
    runs = {point.run_id for point in points}
    ends = [point for point in points if point.phase == "end" and point.tokens]
    stages = {point.base_checkpoint_id for point in points if point.base_checkpoint_id}
    sizes = sorted({point.n_params_non_embedding for point in points if point.n_params_non_embedding is not None})
    told = f"{len(runs)} runs, {len(ends)} measured at their end, {_count(len(stages), 'base')}"
    if not sizes:
        return f"{told}."
    span = format_count(sizes[0]) if len(sizes) == 1 else f"{format_count(sizes[0])} to {format_count(sizes[-1])}"
    return f"{told}, models of {span} parameters besides embeddings."


def finding_words(finding: Finding) -> str:
    """The verdict in a few words."""
    if finding.verdict is None:
        return "No law could be fitted"
    label = finding.verdict.finding
    if label == "falls" and _is_a_hint(finding):
        return "A hint of saturation: longer trained bases gain less"
    if label.startswith("cannot be told from "):
        return f"Not settled: {label.removeprefix('cannot be told from ')} explains it as well"
    return {
        "falls": "Saturation: longer trained bases gain less",
        "falls, not tested against nulls": "A falling exponent, not held against other laws",
        "rises": "The opposite: longer trained bases gain more",
        "cannot be told": "Not settled: α3 may be zero",
        "too few bases": "Not settled: too few bases",
    }.get(label, label)


def _is_a_hint(finding: Finding) -> bool:
    """Whether too few bases stand behind a law for more than a hint."""
    return finding.law is not None and finding.law.fitted.replicates.method == "jackknife"


def measured_words(finding: Finding) -> str:
    """What was measured at the largest second-stage budget: from the bases, and from scratch."""
    points = None if finding.law is None else finding.law.points_
    if points is None or points.base_tokens is None:
        return finding.problem or ""
    most = points.tokens[points.base_tokens > 0].max()
    rows = zip(points.base_tokens, points.tokens, points.loss, strict=True)
    losses = {float(d1): float(loss) for d1, tokens, loss in rows if tokens == most}
    shortest, *_, longest = sorted(2 * [d1 for d1 in losses if d1])
    told = f"After {format_count(most)} tokens: {losses[longest]:.3f} from the longest trained base"
    if longest > shortest:
        told += f", {losses[shortest]:.3f} from the shortest"
    return told + (f", {losses[0.0]:.3f} from scratch." if 0.0 in losses else ".")


def crossover_notes(decision: Decision) -> str:
    """How far beyond the data an answer lies, or what takes the place of a number."""
    if decision.value is None or decision.value in (0.0, float("inf")):
        return with_greek(" ".join(decision.notes))
    return f"{decision.reach:.1f} decades beyond the data" if decision.reach else "inside the data"


def floor_words(floor: float, interval: tuple[float, float] | None) -> str:
    """What the fit says of E, with which every exponent trades."""
    if floor < 0.01:
        return (
            "The floor E of the fit has gone to 0: these points show no floor, so the exponents stand in for it and "
            "mean little by themselves."
        )
    told = "of unknown uncertainty" if interval is None else f"[{interval[0]:.2f}, {interval[1]:.2f}]"
    return f"The floor E of the fit is {floor:.2f} {told}; another floor would change the exponents, and α3 with them."


def growth_words(proofs: Sequence[GrowthProof]) -> str:
    """What the growth proofs show."""
    if not proofs:
        return ""
    told = "Logits of base and grown model on random tokens, largest difference over largest logit. "
    if all(proof.keeps_function for proof in proofs):
        told += "The method promises the same function up to rounding, and it was checked on every base."
    else:
        told += "The method does not promise the same function: training has to win back what growth lost."
    worse = [
        format_count(proof.base_tokens)
        for proof in proofs
        if proof.loss_before is not None and proof.loss_end is not None and proof.loss_end > proof.loss_before
    ]
    if worse:
        told += (
            f" From the base of {_listed(worse)} tokens the whole second stage did not win back the loss of the base: "
            "leaving that model alone would have been better."
        )
    return told


def seed_words(seeds: SeedSpread) -> str:
    """How far repeats differ, and what each would say alone; empty with one seed."""
    if seeds.typical is None:
        return ""
    told = f"The standard deviation over seeds is {seeds.typical:.2%} of the loss in the middle of the cells."
    if seeds.alpha3_spread is None:
        return told
    values = ", ".join(f"{value:+.4f} (seed {seed})" for seed, value in seeds.alpha3.items())
    mean, spread = seeds.alpha3_spread
    return f"{told} Each seed alone gives α3 = {values}: {mean:+.4f} on average, standard deviation {spread:.4f}."


def limits(points: Sequence[ScalingPoint]) -> list[str]:
    """What the design of these points leaves open; a sentence each."""
    second = [point for point in points if point.base_tokens and point.phase == "end" and point.tokens]
    sizes: dict[int | None, list[ScalingPoint]] = {}
    for point in second:
        sizes.setdefault(point.n_params_base or point.n_params_non_embedding, []).append(point)
    # Each size has a law of its own, which rests on its own bases.
    trunks = min(({point.base_run_id for point in part} for part in sizes.values()), key=len, default=set())
    bases = min(({point.base_checkpoint_id for point in part} for part in sizes.values()), key=len, default=set())
    marks = {method: _marks(second, method) for method in dict.fromkeys(point.method for point in second)}
    seeds = {point.seed for point in points}
    rates = {point.peak_lr for point in points if point.peak_lr is not None}
    told = []
    if len(trunks) < 6:
        told.append(
            f"{_count(len(trunks), 'trunk').capitalize()}: the bases are moments of the same training. What another "
            "seed or another order of the text would change is not measured, and is in no interval."
        )
    if len(bases) < 6:
        told.append(
            f"{_count(len(bases), 'base').capitalize()}: intervals come from leaving out one base at a time and rest "
            "on that few values. Read them as a hint of the size of the error."
        )
    if marks and min(marks.values()) < 5:
        told.append(
            f"{min(marks.values())} to {max(marks.values())} marks for each base: an exponent read from so short a "
            "line mixes with the floor E, which these points hardly fix."
        )
    if len(seeds) == 1:
        told.append("One seed: noise between repeats is not measured.")
    if len(rates) == 1:
        told.append(
            f"One peak learning rate ({next(iter(rates)):g}) for every size and stage. A rate tuned for each could "
            "move a method against the others, and against scratch."
        )
    told.append("Tiny models and few tokens: what holds here need not hold at a thousand times the size.")
    told.append(
        "Text found on this machine: it differs between releases of Python, numpy and scipy, and so do losses. Compare "
        "losses only where the hashes below are equal."
    )
    return told


def _marks(points: Sequence[ScalingPoint], method: str) -> int:
    return len({point.tokens for point in points if point.method == method})


def _count(number: int, noun: str) -> str:
    words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
    return f"{words.get(number, str(number))} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
