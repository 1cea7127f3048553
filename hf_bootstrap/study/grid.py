"""From a grid (bases x methods x token marks x seeds) to the runs it takes, as `RunSpec`s that share what they can.

One trunk gives all bases, one second stage gives all its marks: a mark costs only the decay that is
branched off before it. Pure: no torch, no files; ids are hashes of content, so every run can name the
runs it starts from before any exists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import StudyError
from ..records import RunSpec

__all__ = ["Corpus", "Grid", "Method", "costs", "start_run_id", "tokens_needed"]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text as the runs of a study know it: packed tokens to train on and tokens held out.

    Attributes:
        domain: short name, such as "docs".
        data: token file under the study's folder.
        data_hash: hash of its content.
        eval_sets: name -> file of held-out tokens; the one named as `domain` is the primary one.
        eval_hash: hash of the primary one.
    """

    domain: str
    data: str
    data_hash: str
    eval_sets: Mapping[str, str]
    eval_hash: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to reuse a base, and the model it is to be compared with.

    Attributes:
        name: as points carry it: "continue", "stack", ...
        corpus: what the second stage trains on.
        tokens: D2 marks, decay included.
        scratch: config of the same model made from scratch, for the rows with D1 = 0.
        growth: fields of a `GrowthConfig`; None leaves the model's size as it is.
        peak_lr, scratch_peak_lr: of the second stage and of the run from scratch; None takes the grid's.
    """

    name: str
    corpus: Corpus
    tokens: tuple[int, ...]
    scratch: Mapping[str, Any]
    growth: Mapping[str, Any] | None = None
    peak_lr: float | None = None
    scratch_peak_lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a study varies and what it holds fixed. All counts are trained tokens.

    Attributes:
        model: config of the base model, as `PreTrainedConfig.to_dict` writes it.
        corpus: what the base is trained on.
        base_tokens: D1 marks; at each the trunk's rate is decayed, and the decayed model is the base.
        methods: what is done with every base.
        peak_lr: of every stage that does not state its own.
        batch_size, sequence_length: blocks a step and trained tokens a block. Marks are rounded down to whole steps.
        warmup_steps: optimizer steps of warm-up from scratch; rewarm_steps: of a second stage, which
            starts with a fresh optimizer.
        decay_share: last part of every mark over which the rate falls to 0, rounded down to whole steps.
        seeds: one trunk each.
        tokenizer, tokenizer_hash: the tokenizer's folder under the study's, and its hash.
        attention, dtype: as in `RunSpec`.
    """

    model: Mapping[str, Any]
    corpus: Corpus
    base_tokens: tuple[int, ...]
    methods: tuple[Method, ...] = ()
    peak_lr: float = 4e-3
    batch_size: int = 4
    sequence_length: int = 128
    warmup_steps: int = 40
    rewarm_steps: int = 20
    decay_share: float = 0.2
    seeds: tuple[int, ...] = (0,)
    tokenizer: str | None = None
    tokenizer_hash: str | None = None
    attention: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse a grid that cannot be laid out."""
        marks = [self.base_tokens, *(method.tokens for method in self.methods)]
        if not all(marks) or not self.seeds:
            raise StudyError("A grid needs at least one base mark, one mark for each method and one seed.")
        if not 0 < self.decay_share < 1:
            raise StudyError(
                f"decay_share is {self.decay_share}; it is the share of every run over which the rate falls, "
                "above 0 and below 1. 0.2 is usual."
            )
        shortest = min(map(min, marks))
        steps = shortest // self._batch_tokens
        if steps * self.decay_share < 1:
            raise StudyError(
                f"A mark of {shortest:,} tokens is {steps} steps, too short to decay over {self.decay_share:.0%} "
                "of it. Train longer or make the batch smaller."
            )

    def specs(self) -> list[RunSpec]:
        """Every run of the study, each after the runs it starts from, none twice.

        Raises:
            RecordError: a mark too short for its warm-up and decay.
        """
        runs = {spec.run_id: spec for seed in self.seeds for spec in self._of_seed(seed)}
        return list(runs.values())

    def _of_seed(self, seed: int) -> Iterator[RunSpec]:
        # The decayed checkpoint at each mark is a base, so a branch of the trunk keeps its last one.
        facts = self._facts(self.corpus, seed, "scratch", self.peak_lr, self.warmup_steps)
        trunk, *bases = self._stage({**facts, "model": self.model}, self.base_tokens, keep_ends=True)
        yield from (trunk, *bases)
        for method in self.methods:
            scratch_peak, peak = method.scratch_peak_lr or self.peak_lr, method.peak_lr or self.peak_lr
            # A second stage on the base's own text goes on behind the last token any base has seen; the
            # runs from scratch it is compared with read the same blocks.
            same_text = method.corpus.data == self.corpus.data
            unseen = {"data_offset": bases[-1].tokens // self.sequence_length if same_text else 0}
            facts = self._facts(method.corpus, seed, "scratch", scratch_peak, self.warmup_steps)
            yield from self._stage({**facts, **unseen, "model": method.scratch}, method.tokens)
            facts = self._facts(method.corpus, seed, method.name, peak, self.rewarm_steps)
            for base in bases:
                step = base.tokens // base.batch_tokens
                origin = {
                    "start": f"{base.run_id}/checkpoint-{step}",
                    "growth": method.growth,
                    "base_tokens": base.tokens,
                    "base_run_id": trunk.run_id,
                    "base_checkpoint_id": f"{trunk.run_id}/step-{step}",
                    "base_decayed": True,
                    "marks": (0,),  # the loss before any second-stage token, for the recovery after growth
                }
                yield from self._stage({**facts, **unseen, **origin}, method.tokens)

    def _facts(self, corpus: Corpus, seed: int, method: str, peak_lr: float, warmup_steps: int) -> dict[str, Any]:
        """What all runs of one stage have in common, apart from where their weights come from."""
        hashes = {"data": corpus.data_hash, "eval_set": corpus.eval_hash}
        return {
            "method": method,
            "domain": corpus.domain,
            "seed": seed,
            "data": corpus.data,
            "eval_sets": corpus.eval_sets,
            "peak_lr": peak_lr,
            "warmup_tokens": warmup_steps * self._batch_tokens,
            "batch_size": self.batch_size,
            "sequence_length": self.sequence_length,
            "tokenizer": self.tokenizer,
            "hashes": hashes if self.tokenizer_hash is None else {**hashes, "tokenizer": self.tokenizer_hash},
            "attention": self.attention,
            "dtype": self.dtype,
        }

    def _stage(self, facts: Mapping[str, Any], marks: Sequence[int], keep_ends: bool = False) -> list[RunSpec]:
        """One run at a constant rate that stops where the last decay starts, and a decay for each mark."""
        steps = sorted({mark // self._batch_tokens for mark in marks})
        decays = [int(self.decay_share * count + 1e-9) * self._batch_tokens for count in steps]
        ends = [count * self._batch_tokens for count in steps]
        starts = [end - decay for end, decay in zip(ends, decays, strict=True)]
        stable = RunSpec(**facts, tokens=starts[-1], checkpoints=tuple(starts))
        stable_id = stable.run_id
        return [stable] + [
            replace(
                stable,
                model=None,
                growth=None,
                start=f"{stable_id}/checkpoint-{start // self._batch_tokens}",
                resume=True,
                tokens=end,
                decay_tokens=decay,
                checkpoints=(end,) if keep_ends else (),
                marks=(),
            )
            for start, end, decay in zip(starts, ends, decays, strict=True)
        ]

    @property
    def _batch_tokens(self) -> int:
        return self.batch_size * self.sequence_length


def start_run_id(spec: RunSpec) -> str | None:
    """The run whose checkpoint a spec starts from, as far as its `start` can tell.

    A folder or a Hub name has the same shape, so look the answer up among the runs of the study.
    """
    return spec.start.partition("/")[0] if spec.start else None


def tokens_needed(specs: Sequence[RunSpec]) -> dict[str, int]:
    """For each token file, the trained tokens it must hold from its beginning, skipped blocks included."""
    needed: dict[str, int] = {}
    for spec in specs:
        end = spec.data_offset * spec.sequence_length + spec.tokens
        needed[spec.data] = max(needed.get(spec.data, 0), end)
    return needed


def costs(specs: Sequence[RunSpec]) -> dict[str, float]:
    """Relative compute of each run, by run id: tokens it trains itself times the cost of one token.

    A token costs its weights in matrix products plus 80,000 for every layer and once more: what a layer
    costs in overheads at these sizes on one CPU thread (33, 56 and 62 microseconds a token measured at
    hidden 64, twice the layers, twice the width). The overheads vanish for large models. A start that is
    no run of the study counts as a model of the reference size.
    """
    shapes: dict[str, Mapping[str, Any]] = {}
    found: dict[str, float] = {}
    for spec in specs:
        run_id = spec.run_id
        shapes[run_id] = spec.model or _grown(shapes.get(start_run_id(spec) or "", {}), spec.growth or {})
        before = int(spec.start.rpartition("-")[2]) * spec.batch_tokens if spec.resume and spec.start else 0
        found[run_id] = (spec.tokens - before) * _token_cost(shapes[run_id])
    return found


def _grown(shape: Mapping[str, Any], growth: Mapping[str, Any]) -> dict[str, Any]:
    factors = {"num_hidden_layers": growth.get("depth"), "hidden_size": growth.get("width")}
    factors["intermediate_size"] = factors["hidden_size"]
    return {**shape, **{key: shape[key] * (by or 1) for key, by in factors.items() if key in shape}}


def _token_cost(shape: Mapping[str, Any]) -> float:
    layers, hidden = shape.get("num_hidden_layers", 2), shape.get("hidden_size", 64)
    inner, vocabulary = shape.get("intermediate_size", 3 * hidden), shape.get("vocab_size", 512)
    weights = layers * (4 * hidden * hidden + 3 * hidden * inner) + hidden * vocabulary
    return float(weights + 80_000 * (layers + 1))
