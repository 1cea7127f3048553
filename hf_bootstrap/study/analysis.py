"""What a study's points say: for each method its law, its rivals, the nulls, its seeds, and where scratch would win.

Asks the laws; showing the answers is the business of `report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LawError, PointError
from ..laws.across import compare_exponents
from ..laws.decisions import Decision
from ..laws.evidence import Comparison, compare_forms
from ..laws.law import ScalingLaw
from ..laws.saturation import NullTest, SaturationTest, Verdict, saturation_test
from ..records import RunSpec, ScalingPoint
from ..store import RunFolder, read_json
from ..units import format_count
from .seeds import SeedSpread, seed_spread

__all__ = ["Finding", "GrowthProof", "across_methods", "across_sizes", "analyse"]


@dataclass(frozen=True, kw_only=True)
class GrowthProof:
    """What a growth did to one base before any training.

    Attributes:
        base_tokens: D1 of the base.
        keeps_function: whether the method promises the same logits.
        logit_drift: largest difference of logits over the largest logit; tolerance: what is allowed, where promised.
        loss_before, loss_after: of the base, and of the grown model before any step, on the second stage's held-out
            text in nats per token; None where it was not measured.
        tokens, loss_end: the longest second stage measured from this base, and its loss.
    """

    base_tokens: int
    keeps_function: bool
    logit_drift: float
    tolerance: float | None
    loss_before: float | None
    loss_after: float | None
    tokens: int | None
    loss_end: float | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the points of one method say, at one size of its model.

    Attributes:
        method, domain: of its second stages.
        n_params: non-embedding parameters; None where not known.
        base_tokens: D1 of its bases, rising.
        n_points: end points of its own; n_scratch: those of the same model from scratch on the same text.
        law: the two-stage law; None where it cannot be fitted, then `problem` says why.
        saturation: what alpha3 means; comparison: of all forms; crossovers: by D1. None or empty where there is no law.
        growth: one proof per base that was grown.
        seeds: how far repeats differ.
        one_of_sizes: whether the study has the method at other sizes too.
    """

    method: str
    domain: str | None
    n_params: int | None
    base_tokens: tuple[int, ...]
    n_points: int
    n_scratch: int
    seeds: SeedSpread
    law: ScalingLaw | None = None
    problem: str | None = None
    saturation: SaturationTest | None = None
    comparison: Comparison | None = None
    crossovers: tuple[tuple[int, Decision], ...] = ()
    growth: tuple[GrowthProof, ...] = ()
    one_of_sizes: bool = False

    @property
    def name(self) -> str:
        """Of the method, with the size behind it where there are several."""
        return f"{self.method}-{format_count(self.n_params or 0)}" if self.one_of_sizes else self.method

    @property
    def verdict(self) -> Verdict | None:
        """What may be said about saturation."""
        return None if self.saturation is None else self.saturation.verdict

    @property
    def nulls(self) -> tuple[NullTest, ...]:
        """What laws without saturation would give."""
        return () if self.saturation is None else self.saturation.nulls


def analyse(folder: str | Path, points: Sequence[ScalingPoint], draws: int = 200) -> list[Finding]:
    """Fit and question the law of every method in the points of a study.

    Args:
        folder: of the study; the proofs of growth are read from its runs.
        points: as `run_study` returns them.
        draws: of each null test; 200 tell p = 0.05 from p = 0.1.

    Returns:
        One finding for each method other than "scratch" and each size of its model, in the order of the points.
    """
    return [
        _finding(Path(folder), _of_size(points, size) if len(sizes) > 1 else points, method, len(sizes) > 1, draws)
        for method, sizes in _sizes_of_methods(points).items()
        for size in sizes
    ]


def across_sizes(points: Sequence[ScalingPoint]) -> list[str]:
    """For each method measured at three sizes or more one law with a term of size, in words."""
    told = []
    for method, sizes in _sizes_of_methods(points).items():
        if len(sizes) > 2 and None not in sizes:
            own = [point for point in points if point.method == method and point.base_tokens]
            try:
                law = ScalingLaw(form="bootstrap_n").fit(own, where={"method": method})
                beta, ends = law.params_["beta"], law.interval("beta")
                known = "not known" if beta is None else f"{beta:.3f}"
                known += f", at 95% [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
                told.append(f"{method}: in one law of its {len(sizes)} sizes the exponent of N is {known}.")
            except (LawError, PointError) as error:
                told.append(f"{method}: its {len(sizes)} sizes have no law together. {error}")
    return told


def _sizes_of_methods(points: Sequence[ScalingPoint]) -> dict[str, list[int | None]]:
    """The sizes of each method's models, non-embedding parameters, rising; those 1% apart are one."""
    found: dict[str, list[int | None]] = {}
    for point in points:
        if point.base_tokens:
            sizes = found.setdefault(point.method, [])
            if not any(_same_size(size, point.n_params_non_embedding) for size in sizes):
                sizes.append(point.n_params_non_embedding)
    return {method: sorted(sizes, key=lambda size: size or 0) for method, sizes in found.items()}


def across_methods(points: Sequence[ScalingPoint], findings: Sequence[Finding]) -> list[str]:
    """Whether methods of one text and one size share their exponents, in words; those that stand alone are left out."""
    told = []
    groups: list[list[Finding]] = []
    for finding in findings:
        if finding.law is not None and finding.n_params is not None:
            alike = (g for g in groups if g[0].domain == finding.domain and _same_size(g[0].n_params, finding.n_params))
            group = next(alike, None)
            if group is None:
                groups.append([finding])
            else:
                group.append(finding)
    for group in groups:
        methods = [finding.method for finding in group]
        if len(methods) > 1:
            try:
                told.append(str(compare_exponents(_of_size(points, group[0].n_params), methods)))
            except LawError as error:
                told.append(f"The exponents of {' and '.join(methods)} were not compared. {error}")
    return told


def _of_size(points: Sequence[ScalingPoint], size: int | None) -> list[ScalingPoint]:
    return [point for point in points if _same_size(point.n_params_non_embedding, size)]


def _same_size(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= 0.01 * min(one, other)


def _finding(folder: Path, points: Sequence[ScalingPoint], method: str, one_of_sizes: bool, draws: int) -> Finding:
    """What the points of one size say of a method."""
    every = [point for point in points if point.method == method]
    own = [point for point in every if point.phase == "end" and point.tokens]
    kinds = {(point.domain, point.n_params_non_embedding) for point in every}
    scratch = [
        point
        for point in points
        if not point.base_tokens and point.phase == "end" and (point.domain, point.n_params_non_embedding) in kinds
    ]
    domain, n_params = next(iter(kinds)) if len(kinds) == 1 else (None, None)
    known: dict[str, Any] = {
        "method": method,
        "domain": domain,
        "n_params": n_params,
        "base_tokens": tuple(sorted({point.base_tokens for point in every})),
        "n_points": len(own),
        "n_scratch": len(scratch),
        "seeds": seed_spread([*own, *scratch], method),
        "growth": tuple(_growth_proofs(folder, points, every)),
        "one_of_sizes": one_of_sizes,
    }
    try:
        law = ScalingLaw(form="bootstrap").fit(points, where={"method": method})
        comparison = compare_forms(points, where={"method": method})
    except (LawError, PointError) as error:
        return Finding(**known, problem=str(error))
    crossovers: tuple[tuple[int, Decision], ...] = ()
    if law.fitted.form.covers_scratch:
        crossovers = tuple((d1, law.crossover(base_tokens=d1)) for d1 in known["base_tokens"])
    return Finding(
        **known, law=law, saturation=saturation_test(law, n=draws), comparison=comparison, crossovers=crossovers
    )


def _growth_proofs(folder: Path, points: Sequence[ScalingPoint], own: Sequence[ScalingPoint]) -> list[GrowthProof]:
    """One proof for each run that grew its start and recorded what verification found."""
    proofs = []
    for run_id in dict.fromkeys(point.run_id for point in own):
        run = RunFolder(folder / "runs" / run_id)
        growth = read_json(run.path / "done.json").get("growth") if run.is_done() else None
        found = growth.get("verification") if growth else None
        if found is not None:
            before, after = _losses_around(points, run.spec())
            d1 = run.spec().base_tokens
            ends = [p for p in own if p.base_tokens == d1 and p.phase == "end" and p.seed == run.spec().seed]
            last = max(ends, key=lambda point: point.tokens, default=None)
            proofs.append(
                GrowthProof(
                    base_tokens=d1,
                    keeps_function=found["keeps_function"],
                    logit_drift=found["logit_drift"],
                    tolerance=found["tolerance"],
                    loss_before=before,
                    loss_after=after,
                    tokens=last.tokens if last else None,
                    loss_end=last.loss if last else None,
                )
            )
    return sorted(proofs, key=lambda proof: proof.base_tokens)


def _losses_around(points: Sequence[ScalingPoint], spec: RunSpec) -> tuple[float | None, float | None]:
    """The base's loss on the second stage's held-out text, and the grown model's before any step."""
    base, _, checkpoint = str(spec.start).partition("/checkpoint-")
    before = [p for p in points if p.run_id == base and str(p.step) == checkpoint]
    after = [p for p in points if p.run_id == spec.run_id and p.tokens == 0]
    sums = before[0].eval.get(spec.domain) if before else None
    loss = sums["sum"] / sums["count"] if sums and sums["sum"] is not None and sums["count"] else None
    return loss, after[0].loss if after else None
