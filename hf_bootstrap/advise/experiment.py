"""The cheapest study that would settle whether to reuse a base: as a study file, with its cost.

Both curves are measured where they are cheap, up to a sixteenth of the budget, and a law carries them the rest of the
way: 1.2 decades. Running it is the business of `study`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..growth.plan import describe_growth
from ..store import write_atomic
from ..study.config import StudyConfig
from ..units import format_count
from .base_tokens import BaseTokens
from .candidates import Candidate

__all__ = ["Experiment", "design_experiment"]

_SHARES = (1 / 128, 1 / 64, 1 / 32, 1 / 16)  # of the budget: four marks, 1.2 decades below it
_STEPS = 200  # of the shortest mark: fewer, and its loss says more of warm-up and decay than of tokens
_DECAY = 0.2  # of each mark, as `TrainingConfig` has it: what marks that share a trunk do not share
_NO_PART = ("id2label", "label2id", "hf_bootstrap", "transformers_version")  # of a model to train from scratch
_PROSE = """\
# Would reusing {model} pay? Written by `hf-bootstrap plan`.
# Both curves, from the base and from scratch, at four marks up to a sixteenth of the budget.
#   hf-bootstrap study plan FILE --corpora DIR      what it takes
#   hf-bootstrap study run FILE --corpora DIR       runs it; stopped, it goes on where it was
# Yours to set: the texts (patterns under DIR), the peak learning rate (give several to sweep it), the batch size.
# One base is one D1: the law has values there, and no intervals. Put two more checkpoints of the same training, each
# with its tokens, under bases (makers of Pythia and OLMo publish them), and it has both.
"""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A study to run before spending the budget.

    Attributes:
        study: the study file as plain values; `StudyConfig.from_dict` reads it.
        model: the base, as it was named.
        tokens: that all its runs train, marks of one curve sharing a trunk.
        flops: of training; None where a candidate's FLOPs are not known.
        share: of the budget's FLOPs; None where they are not known.
        settles: what would be known afterwards.
    """

    study: dict[str, Any]
    model: str
    tokens: int
    flops: float | None
    share: float | None
    settles: str

    def __str__(self) -> str:
        """Cost and use in two sentences."""
        cost = "FLOPs not known" if self.flops is None else f"{format_count(self.flops)} FLOPs"
        part = "" if self.share is None else f", {self.share:.0%} of the budget of one candidate"
        return f"{format_count(self.tokens)} tokens, {cost}{part}. {self.settles}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def write(self, path: str | Path) -> None:
        """Write the study file, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        import yaml

        text = yaml.safe_dump(self.study, sort_keys=False, default_flow_style=None, width=120)
        write_atomic(path, _PROSE.format(model=self.model) + text)


def design_experiment(model: str, base: BaseTokens | None, candidates: Sequence[Candidate]) -> Experiment | None:
    """The study for all candidates that can be done; None where there is none, or D1 is not known.

    Args:
        model: folder or Hub name of the base.
        base: its tokens; the middle of the range stands in the file.
        candidates: costed.
    """
    useful = [c for c in candidates if c.problem is None and c.tokens and c.config is not None]
    if base is None or not useful:
        return None
    path = str(Path(model).resolve()) if Path(model).is_dir() else model
    middle = int(base.marks[len(base.marks) // 2])
    methods: list[dict[str, Any]] = []
    models: dict[str, dict[str, Any]] = {}
    tokens = 0
    costs: list[float | None] = []
    for candidate in useful:
        marks = sorted({max(1, int((candidate.tokens or 0) * share)) for share in _SHARES})
        method: dict[str, Any] = {"name": candidate.name, "text": "second", "tokens": marks}
        if candidate.growth is not None:
            method["growth"] = _stated(candidate.growth)
        methods.append({**method, "scratch": f"{candidate.name}-model"})
        fields = {key: value for key, value in (candidate.config or {}).items() if key not in _NO_PART}
        models[f"{candidate.name}-model"] = fields
        trained = int((1 - _DECAY) * marks[-1] + _DECAY * sum(marks))
        tokens += 2 * trained
        costs.append(None if candidate.flops_per_token is None else 2 * trained * candidate.flops_per_token)
    training = _training(useful[0], min(mark for method in methods for mark in method["tokens"]))
    flops = None if None in costs else sum(cost for cost in costs if cost is not None)
    dearest = max((c.flops or 0 for c in useful), default=0)
    study = {
        "name": "should-i-reuse",
        "texts": {"first": {"files": ["first-stage/*"]}, "second": {"files": ["second-stage/*"]}},
        "tokenizer": path,
        "models": models,
        "bases": [{"text": "first", "checkpoints": [{"path": path, "tokens": middle}]}],
        "methods": methods,
        "training": training,
        "seeds": [0],
    }
    StudyConfig.from_dict(study)  # what is handed out can be read
    return Experiment(
        study=study,
        model=model,
        tokens=tokens,
        flops=flops,
        share=None if flops is None or not dearest else flops / dearest,
        settles=(
            "It measures reuse and scratch at 1/128 to 1/16 of the budget and leaves 1.2 decades to a law. From one "
            "checkpoint that law has values and no intervals: three checkpoints of the base, where its makers "
            "published some, give those too. Fewer methods make it cheaper."
        ),
    )


def _training(candidate: Candidate, shortest: int) -> dict[str, Any]:
    """Steps small enough that the shortest mark has some hundred of them, and warm-ups a tenth of those."""
    config = candidate.config or {}
    most = min(2048, (config.get("max_position_embeddings") or 4096) - 1)  # a block holds one token more
    block = max(1, min(most, shortest // _STEPS))
    batch = max(1, min(512, shortest // (_STEPS * block)))
    steps = max(1, shortest // (block * batch))
    return {
        "peak_lr": 3.0e-4,
        "batch_size": batch,
        "sequence_length": block,
        "warmup_steps": max(1, steps // 10),
        "rewarm_steps": max(1, steps // 10),
        "dtype": config.get("dtype") or "float32",
    }


def _stated(growth: Any) -> dict[str, Any]:
    """The fields of a growth that say something: those that differ from asking for none, and their methods."""
    plain = describe_growth(growth)
    blank = describe_growth(type(growth)())
    kept = {name: value for name, value in plain.items() if value != blank[name]}
    wanted = {"depth_method"} if growth.grows_depth else set()
    wanted |= {"width_method"} if growth.grows_width else set()
    return {**kept, **{name: plain[name] for name in wanted}}
