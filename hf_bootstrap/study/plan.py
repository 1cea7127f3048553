"""What a study will take before anything is trained: runs, tokens, FLOPs, hours, disk, and what it cannot tell.

Loads no torch and no scipy. Which runs there are is the business of `runs`, what each costs that of `costs`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..records import RunSpec
from ..units import format_bytes, format_count, format_duration
from .config import StudyConfig
from .costs import chain_costs, checkpoint_bytes, costs, flops, own_tokens, shapes
from .sizes import why_unknown
from .weaknesses import Weakness, counted, find_weaknesses

__all__ = ["StudyPlan", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study will take. Counts are of all runs, done ones included, unless they say otherwise.

    Attributes:
        name: of the study.
        runs, runs_done: all runs, and those that are done already.
        trunks, stages, decays: runs at constant rate that give bases; others at constant rate; those that end at a
            mark.
        tokens, tokens_to_do: trained tokens, of all and of those not done.
        flops: of training; None where the sizes of a model are not known from the file. flops_to_do: likewise.
        tokens_unshared: what independent runs would train, each mark its own from the start of its stage.
        saved: share of the compute that sharing saves, 0 to 1; None where the sizes of a model are not known.
        hours: at `tokens_per_second` of the first base model on one worker: of all that is to do, `workers` at a time,
            or of the longest line of runs that wait for each other; None where no speed was stated or the sizes of a
            model are not known.
        disk_bytes: checkpoints if none were removed; None where the sizes of a model are not known.
        methods: for each, its runs and its tokens.
        weaknesses: what the grid cannot tell, and the cheapest addition that would.
        is_final: whether run ids are those of the real runs; they are not before the text is ready.
        over_budget: FLOPs beyond the study's budget; None where there is none, or nothing is beyond it.
        unknown: why the sizes of models are not known, in words; empty where all are.
    """

    name: str
    runs: int
    runs_done: int
    trunks: int
    stages: int
    decays: int
    tokens: int
    tokens_to_do: int
    flops: float | None
    flops_to_do: float | None
    tokens_unshared: int
    saved: float | None
    tokens_per_second: float | None
    workers: int
    hours: float | None
    disk_bytes: int | None
    methods: dict[str, dict[str, int]]
    weaknesses: tuple[Weakness, ...]
    is_final: bool
    over_budget: float | None
    unknown: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A page for people."""
        rows = "".join(
            f"  {name:<24} {facts['runs']:>6} runs  {format_count(facts['tokens']):>6} tokens\n"
            for name, facts in self.methods.items()
        )
        cost = "FLOPs not known"
        if self.flops is not None and self.flops_to_do is not None:
            cost = f"{format_count(self.flops)} FLOPs ({format_count(self.flops_to_do)} to do)"
        time = "not known" if self.unknown else "no speed stated: give --tokens-per-second for hours"
        if self.hours is not None:
            speed = f"{format_count(self.tokens_per_second or 0)} tokens/s of the base model"
            time = f"{format_duration(self.hours * 3600)} at {speed} on each of {counted(self.workers, 'worker')}"
        disk = "not known" if self.disk_bytes is None else f"up to {format_bytes(self.disk_bytes)} of checkpoints"
        saves = "saves a share that is not known" if self.saved is None else f"saves {self.saved:.0%} of the compute"
        kinds = ", ".join([counted(self.trunks, "trunk"), counted(self.stages, "stage"), counted(self.decays, "decay")])
        alone = format_count(self.tokens_unshared)
        lines = [
            f"Study {self.name}: {counted(self.runs, 'run')}, {self.runs_done} done ({kinds})",
            rows.rstrip("\n"),
            f"Tokens: {format_count(self.tokens)} ({format_count(self.tokens_to_do)} to do); {cost}",
            f"Sharing: {saves} ({alone} tokens if every mark were trained on its own)",
            f"Time: {time}",
            f"Disk: {disk}",
        ]
        lines += [f"Not known: {why}." for why in self.unknown]
        if self.over_budget is not None:
            lines.append(
                f"Over budget by {format_count(self.over_budget)} FLOPs. hf-bootstrap study design proposes the grid "
                "that tells most for it, by the law of a pilot."
            )
        if not self.is_final:
            lines.append("The text is not prepared yet (or changed), so the ids of the runs are not final.")
        lines += [f"[{number}] {weakness}" for number, weakness in enumerate(self.weaknesses, start=1)]
        return "\n".join(lines)


def make_plan(
    config: StudyConfig,
    specs: Sequence[RunSpec],
    *,
    done: frozenset[str] = frozenset(),
    tokens_per_second: float | None = None,
    workers: int = 1,
    is_final: bool = False,
) -> StudyPlan:
    """Add up what the runs of a study take.

    Args:
        specs: of the study, each after the run it starts from.
        done: ids of runs that are done.
        tokens_per_second: trained tokens of the first model on one worker; larger models are slower by `costs`.
        workers: runs at a time.
        is_final: see `StudyPlan`.
    """
    known, own_costs = shapes(specs), costs(specs)
    to_do = {run_id for run_id in known if run_id not in done}
    spent = {run_id: flops(spec, shape) for run_id, (spec, shape) in known.items()}
    trunks = {spec.base_run_id for spec in specs if spec.base_run_id} & known.keys()
    methods: dict[str, dict[str, int]] = {}
    for spec in specs:
        facts = methods.setdefault(spec.method, {"runs": 0, "tokens": 0})
        facts["runs"] += 1
        facts["tokens"] += own_tokens(spec)
    total, alone = sum(own_costs.values()), _cost_unshared(specs, own_costs)
    first = specs[0]
    seconds_a_cost = 0.0 if not tokens_per_second else own_tokens(first) / own_costs[first.run_id] / tokens_per_second
    left = {run_id: cost if run_id in to_do else 0.0 for run_id, cost in own_costs.items()}
    chains = chain_costs({run_id: spec for run_id, (spec, _) in known.items()}, left)
    waited = max([*chains.values(), sum(left.values()) / workers])
    all_flops, flops_left = _added(spent.values()), _added(spent[run_id] for run_id in to_do)
    beyond = None if all_flops is None or config.budget_flops is None else all_flops - config.budget_flops
    return StudyPlan(
        name=config.name,
        runs=len(known),
        runs_done=len(known) - len(to_do),
        trunks=len(trunks),
        stages=sum(not spec.decay_tokens for spec in specs) - len(trunks),
        decays=sum(spec.decay_tokens > 0 for spec in specs),
        tokens=sum(own_tokens(spec) for spec in specs),
        tokens_to_do=sum(own_tokens(known[run_id][0]) for run_id in to_do),
        flops=all_flops,
        flops_to_do=flops_left,
        tokens_unshared=sum(spec.tokens for spec in specs if spec.decay_tokens),
        saved=None if all_flops is None else 1 - total / alone if alone else 0.0,
        tokens_per_second=tokens_per_second,
        workers=workers,
        hours=waited * seconds_a_cost / 3600 if tokens_per_second and all_flops is not None else None,
        disk_bytes=None if all_flops is None else sum(checkpoint_bytes(*one) for one in known.values()),
        methods=methods,
        weaknesses=tuple(find_weaknesses(config)),
        is_final=is_final,
        over_budget=beyond if beyond is not None and beyond > 0 else None,
        unknown=() if all_flops is not None else tuple(dict.fromkeys(_unknown(config))),
    )


def _cost_unshared(specs: Sequence[RunSpec], own_costs: dict[str, float]) -> float:
    """The cost if every run that ends at a mark had to train its stage from the beginning."""
    return sum(own_costs[spec.run_id] * spec.tokens / own_tokens(spec) for spec in specs if spec.decay_tokens)


def _unknown(config: StudyConfig) -> Iterator[str]:
    """Why FLOPs are not known: of each model, or of bases of which nobody opens the folder for a plan."""
    from_scratch = (name for method in config.methods for name in method.scratch)
    for name in (*(base.model for base in config.bases), *from_scratch):
        if name is not None and (why := why_unknown(config.model(name))):
            yield f"model {name!r} {why}"
    if any(base.checkpoints for base in config.bases):
        yield "a base's model is not in the file: a plan opens no checkpoint trained elsewhere"
    if config.budget_flops is not None:
        yield f"whether {format_count(config.budget_flops)} FLOPs, the budget, suffice"


def _added(numbers: Any) -> float | None:
    found = list(numbers)
    return None if any(number is None for number in found) else float(sum(found))
