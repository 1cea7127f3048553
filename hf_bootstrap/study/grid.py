"""From a grid (bases x methods x token marks x seeds) to the runs it takes, as `RunSpec`s that share what they can.

One trunk gives all bases, one second stage gives all its marks: a mark costs only the decay that is
branched off before it. Pure: no torch, no files; ids are hashes of content, so every run can name the
runs it starts from before any exists.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StudyError
from ..records import RunSpec
from .stages import Known, Laid, lay_out

__all__ = ["Checkpoint", "Corpus", "Grid", "Method", "start_run_id"]


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
class Checkpoint:
    """A model trained elsewhere, and what is known of it.

    Attributes:
        path: of a folder, or a Hub name; in a study file one that starts with a dot, or is there, is beside the file.
        revision: branch, tag or commit of a Hub name; checkpoints of one training are often revisions of one name.
        tokens: D1, the tokens it was trained on.
        decayed: whether its learning rate had been decayed; left out where nobody knows.
        run: name of the training it came from; checkpoints of one training share it, and intervals rest on how
            many there are. Left out, every path is a training of its own.
    """

    path: str
    tokens: int
    revision: str | None = None
    decayed: bool | None = None
    run: str | None = None

    @property
    def name(self) -> str:
        """As runs start from it and points name it: the path, a revision behind @."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to reuse a base, and the model it is to be compared with.

    Attributes:
        name: as points carry it: "continue", "stack", ...
        corpus: what the second stage trains on.
        tokens: D2 marks, decay included.
        scratch: config of the same model made from scratch, for the rows with D1 = 0; None for no such rows.
        growth: fields of a `GrowthConfig`; None leaves the model's size as it is.
        lora, optimizer: of the second stage, as in `RunSpec`.
        peak_lrs: of the second stage, each trained; empty takes the grid's.
        scratch_peak_lr: of the run from scratch; None takes the grid's.
        scratch_tokens: marks of the run from scratch; empty takes `tokens`.
        from_base: False leaves only the run from scratch.
        base_decayed: whether a base is the decayed model at a mark, or the trunk itself.
        base_tokens: marks of the bases to use; empty takes all.
        rewarm_steps: of the second stage; None takes the grid's.
    """

    name: str
    corpus: Corpus
    tokens: tuple[int, ...]
    scratch: Mapping[str, Any] | None
    growth: Mapping[str, Any] | None = None
    lora: Mapping[str, Any] | None = None
    optimizer: str = "reset"
    peak_lrs: tuple[float, ...] = ()
    scratch_peak_lr: float | None = None
    scratch_tokens: tuple[int, ...] = ()
    from_base: bool = True
    base_decayed: bool = True
    base_tokens: tuple[int, ...] = ()
    rewarm_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a study varies and what it holds fixed. All counts are trained tokens.

    Attributes:
        model: config of the base model, as `PreTrainedConfig.to_dict` writes it; None where `bases` are given.
        corpus: what the base is trained on.
        base_tokens: D1 marks; at each the trunk's rate is decayed, and the decayed model is the base.
        bases: models trained elsewhere, instead of a trunk.
        methods: what is done with every base.
        peak_lr: of every stage that does not state its own.
        batch_size, sequence_length: blocks a step and trained tokens a block. Marks are rounded down to whole steps.
        warmup_steps: optimizer steps of warm-up from scratch; rewarm_steps: of a second stage, which
            starts with a fresh optimizer unless its method keeps it.
        decay_share: last part of every mark over which the rate falls to 0, rounded down to whole steps.
        reserve_tokens: a second stage on the base's own text begins behind this many; None: behind the largest mark.
        seeds: one trunk each.
        tokenizer, tokenizer_hash: the tokenizer's folder under the study's, and its hash.
        attention, dtype, autocast: as in `RunSpec`.
    """

    model: Mapping[str, Any] | None
    corpus: Corpus
    base_tokens: tuple[int, ...] = ()
    bases: tuple[Checkpoint, ...] = ()
    methods: tuple[Method, ...] = ()
    peak_lr: float = 4e-3
    batch_size: int = 4
    sequence_length: int = 128
    warmup_steps: int = 40
    rewarm_steps: int = 20
    decay_share: float = 0.2
    reserve_tokens: int | None = None
    seeds: tuple[int, ...] = (0,)
    tokenizer: str | None = None
    tokenizer_hash: str | None = None
    attention: str | None = None
    dtype: str = "float32"
    autocast: str = "no"

    def __post_init__(self) -> None:
        """Refuse a grid that cannot be laid out."""
        marks = [self.base_tokens] * (not self.bases) + [method.tokens for method in self.methods]
        if not all(marks) or not self.seeds:
            raise StudyError(
                "A grid needs at least one base mark, one mark for each method and one seed. Add what is missing."
            )
        if not 0 < self.decay_share < 1:
            raise StudyError(
                f"decay_share is {self.decay_share}; it is the share of every run over which the rate falls, "
                "above 0 and below 1. 0.2 is usual."
            )
        if self.batch_tokens < 1:
            raise StudyError(
                f"A step of {self.batch_size} blocks of {self.sequence_length} tokens trains nothing. "
                "Make both positive."
            )
        if not self.bases:
            self._check_marks("the base", self.base_tokens, self.warmup_steps, "warmup_steps")
        for method in self.methods:
            where = f"method {method.name!r}"
            if method.from_base:
                self._check_marks(where, method.tokens, self._rewarm_steps(method), "rewarm_steps")
            if method.scratch is not None:
                marks_from_scratch = method.scratch_tokens or method.tokens
                alone = f"{where}, its run from scratch"
                self._check_marks(alone, marks_from_scratch, self.warmup_steps, "warmup_steps")

    def _rewarm_steps(self, method: Method) -> int:
        return self.rewarm_steps if method.rewarm_steps is None else method.rewarm_steps

    def _check_marks(self, where: str, marks: Sequence[int], warmup: int, warmup_key: str) -> None:
        """Refuse a stage whose shortest mark has no room for its warm-up, its decay, and something between them."""
        shortest = min(marks)
        steps = shortest // self.batch_tokens
        if steps * self.decay_share < 1:
            raise StudyError(
                f"{where}: a mark of {shortest:,} tokens is {steps} steps, too short to decay over "
                f"{self.decay_share:.0%} of it. Train longer or make the batch smaller."
            )
        if warmup > steps - int(self.decay_share * steps + 1e-9):
            raise StudyError(
                f"{where}: a mark of {shortest:,} tokens is {steps} steps; a warm-up of {warmup} ({warmup_key}) and "
                f"a decay over {self.decay_share:.0%} leave nothing between them. Train longer or warm up for less."
            )

    @property
    def batch_tokens(self) -> int:
        """Trained tokens of one step."""
        return self.batch_size * self.sequence_length

    def specs(self, known: Known | None = None) -> list[RunSpec]:
        """Every run of the study, each after the runs it starts from, none twice.

        Args:
            known: runs that exist, to go on from.

        Raises:
            RecordError: a run that no `RunSpec` can hold.
        """
        found = known or Known()
        return list({spec.run_id: spec for seed in self.seeds for spec in self._of_seed(seed, found)}.values())

    def _of_seed(self, seed: int, known: Known) -> Iterator[RunSpec]:
        origins: dict[bool, list[dict[str, Any]]] = {}
        if self.bases:
            origins[True] = origins[False] = [_origin_elsewhere(base) for base in self.bases]
        else:
            undecayed = any(method.from_base and not method.base_decayed for method in self.methods)
            also = [step * self.batch_tokens for step in self._steps(self.base_tokens)] if undecayed else []
            facts = self._facts(self.corpus, seed, "scratch", self.peak_lr, self.warmup_steps)
            # The decayed checkpoint at each mark is a base, so a branch of the trunk keeps its last one.
            trunk = self._stage({**facts, "model": self.model}, self.base_tokens, known, also=also, keep_ends=True)
            yield from trunk.runs
            origins[True] = [self._origin(trunk, end.tokens, self._last_checkpoint(end)) for end in trunk.decays]
            origins[False] = [self._origin(trunk, count, trunk.at[count], decayed=False) for count in also]
        for method in self.methods:
            yield from self._of_method(method, seed, origins[method.base_decayed], known)

    def _of_method(
        self, method: Method, seed: int, origins: Sequence[Mapping[str, Any]], known: Known
    ) -> Iterator[RunSpec]:
        # A second stage on the base's own text goes on behind the last token any base has seen; the
        # runs from scratch it is compared with read the same blocks.
        same_text = method.corpus.data == self.corpus.data and not self.bases
        last = max((step * self.batch_tokens for step in self._steps(self.base_tokens)), default=0)
        reserved = -(-(last if self.reserve_tokens is None else self.reserve_tokens) // self.sequence_length)
        if same_text and reserved * self.sequence_length < last:
            raise StudyError(
                f"reserve_tokens is {self.reserve_tokens:,} but a base sees {last:,} tokens of the text. Reserve more."
            )
        unseen = {"data_offset": reserved if same_text else 0}
        if method.scratch is not None:
            peak = method.scratch_peak_lr or self.peak_lr
            facts = self._facts(method.corpus, seed, "scratch", peak, self.warmup_steps)
            marks = method.scratch_tokens or method.tokens
            yield from self._stage({**facts, **unseen, "model": method.scratch}, marks, known).runs
        # Marks of a trunk were rounded down to whole steps; a checkpoint from elsewhere is where it is.
        rounded = {step * self.batch_tokens for step in self._steps(method.base_tokens)}
        chosen = set(method.base_tokens) if self.bases else rounded
        wanted = [o for o in origins if method.from_base and (not chosen or o["base_tokens"] in chosen)]
        for origin, peak in itertools.product(wanted, method.peak_lrs or (self.peak_lr,)):
            facts = self._facts(method.corpus, seed, method.name, peak, self._rewarm_steps(method))
            # marks (0,): the loss before any second-stage token, for the recovery after growth
            stage = {"growth": method.growth, "lora": method.lora, "optimizer": method.optimizer}
            start = {**origin, **stage, "marks": (0,)}
            yield from self._stage({**facts, **unseen, **start}, method.tokens, known).runs

    def _last_checkpoint(self, run: RunSpec) -> str:
        return f"{run.run_id}/checkpoint-{run.tokens // self.batch_tokens}"

    def _origin(self, trunk: Laid, count: int, start: str, *, decayed: bool = True) -> dict[str, Any]:
        return {
            "start": start,
            "base_tokens": count,
            "base_run_id": trunk.root,
            "base_checkpoint_id": f"{trunk.root}/step-{count // self.batch_tokens}",
            "base_decayed": decayed,
        }

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
            "warmup_tokens": warmup_steps * self.batch_tokens,
            "batch_size": self.batch_size,
            "sequence_length": self.sequence_length,
            "tokenizer": self.tokenizer,
            "hashes": hashes if self.tokenizer_hash is None else {**hashes, "tokenizer": self.tokenizer_hash},
            "attention": self.attention,
            "dtype": self.dtype,
            "autocast": self.autocast,
        }

    def _stage(
        self,
        facts: Mapping[str, Any],
        marks: Sequence[int],
        known: Known,
        *,
        also: Sequence[int] = (),
        keep_ends: bool = False,
    ) -> Laid:
        """One run at a constant rate that stops where the last decay starts, and a decay for each mark."""
        steps = self._steps(marks)
        decays = [int(self.decay_share * count + 1e-9) for count in steps]
        ends = [
            ((count - decay) * self.batch_tokens, count * self.batch_tokens)
            for count, decay in zip(steps, decays, strict=True)
        ]
        return lay_out(RunSpec(**facts, tokens=ends[-1][0]), ends, known, also=also, keep_ends=keep_ends)

    def _steps(self, marks: Sequence[int]) -> list[int]:
        return sorted({mark // self.batch_tokens for mark in marks})


def _origin_elsewhere(base: Checkpoint) -> dict[str, Any]:
    return {
        "start": base.name,
        "base_tokens": base.tokens,
        "base_run_id": base.run or base.path,
        "base_checkpoint_id": base.name,
        "base_decayed": base.decayed,
    }


def start_run_id(spec: RunSpec) -> str | None:
    """The run whose checkpoint a spec starts from, as far as its `start` can tell.

    A folder or a Hub name has the same shape, so look the answer up among the runs of the study.
    """
    return spec.start.partition("/")[0] if spec.start else None
