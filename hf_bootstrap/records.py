"""The two records everything else speaks of: `RunSpec` (what was asked) and `ScalingPoint` (what was measured).

`docs/formats.md` is their specification. Both are frozen and validated when made, so code that holds
one never checks it again. Files are the business of `store`.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Self

from .errors import PointError, RecordError, did_you_mean
from .fields import as_plain_json, brief, build, settle, settled_fields
from .sealing import canonical_json

__all__ = ["AUTOCAST", "OPTIMIZERS", "PHASES", "SCHEMA", "RunSpec", "ScalingPoint"]

SCHEMA = 1
PHASES = ("warmup", "stable", "decay", "end")
OPTIMIZERS = ("reset", "grow")
AUTOCAST = ("no", "bf16")  # of runs; a point may come from anywhere and say fp16
_LATER_FIELDS = {"lora": None, "optimizer": "reset", "autocast": "no"}


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """What one run measured at one moment: exact token counts and a loss on held-out text.

    `None` means not known. Tokens are raw counts, losses nats per token, logs natural.

    Attributes:
        run_id: one `Trainer.train()`; a decay branched from a stable run is a run of its own.
        parent_run_id: the run whose checkpoint this one resumed, if any.
        base_run_id: the trunk the base model came from, shared by all its marks.
        base_checkpoint_id: the base model itself: trunk and step.
        base_decayed: whether the base's learning rate had been decayed.
        phase: where the learning-rate schedule stood: warmup, stable, decay, or end of the run.
        base_tokens: D1, trained tokens behind the base; 0 from scratch.
        tokens: D2, trained tokens (those that carry loss) of this stage, decay included.
        tokens_seen: tokens that were not padding; token_slots: all positions, padding included.
        n_params, n_params_non_embedding, n_params_active: of the model; n_params_base: total of the base.
        flops: spent in this stage; `flops_formula` says how they were counted.
        loss: nats per token on the primary evaluation set.
        eval: per set, `sum` (nats), `count` (tokens) and `bytes` (UTF-8 bytes, or None).
        peak_lr, lr, schedule, rewarm_tokens, optimizer_reset: how the learning rate went.
        batch_tokens: trained tokens of one optimizer step, all ranks.
        sequence_length: trained tokens of one block.
        dtype: of the weights; autocast: what products are computed in where not in that, "no", "bf16" or "fp16".
        hashes: of `data`, `tokenizer` and `eval_set`.
    """

    run_id: str
    tokens: int
    loss: float
    base_tokens: int = 0
    method: str = "continue"
    phase: str = "end"
    schema: int = SCHEMA
    parent_run_id: str | None = None
    base_run_id: str | None = None
    base_checkpoint_id: str | None = None
    base_decayed: bool | None = None
    domain: str | None = None
    seed: int | None = None
    step: int | None = None
    tokens_seen: int | None = None
    token_slots: int | None = None
    n_params: int | None = None
    n_params_non_embedding: int | None = None
    n_params_active: int | None = None
    n_params_base: int | None = None
    flops: float | None = None
    flops_formula: str | None = None
    bits_per_byte: float | None = None
    eval: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    lr: float | None = None
    peak_lr: float | None = None
    schedule: str | None = None
    rewarm_tokens: int | None = None
    optimizer_reset: bool | None = None
    batch_tokens: int | None = None
    sequence_length: int | None = None
    packing: str | None = None
    replay_ratio: float | None = None
    attention: str | None = None
    attention_reason: str | None = None
    world_size: int | None = None
    dtype: str | None = None
    autocast: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    tokens_per_second: float | None = None
    mfu: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no law may see."""
        # The sign of the loss is judged below, in words that fit a loss.
        settle(self, PointError, signed=("seed", "loss"))
        _check_schema(self.schema, PointError)
        where = f"run {brief(self.run_id)} at {self.tokens:,} tokens"
        if not self.run_id:
            raise PointError(f"a point at {self.tokens:,} tokens has an empty run_id. Name the run it belongs to.")
        if self.loss <= 0:
            raise PointError(
                f"{where} has loss {self.loss}; a law needs a positive, finite loss. "
                "Did training diverge? Look at the run, or leave it out."
            )
        if self.phase not in PHASES:
            raise PointError(f"{where} has phase {brief(self.phase)}. {did_you_mean(self.phase, PHASES)}")
        object.__setattr__(self, "eval", {name: _checked_sums(where, name, sums) for name, sums in self.eval.items()})

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types, without `crc32`."""
        return as_plain_json(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Make a point from a record read elsewhere.

        Raises:
            PointError: unknown or missing keys, another schema version, wrong types or values.
        """
        fields = settled_fields(cls, record, signed=("seed", "loss"))
        if fields is None or not _is_plain_point(fields):
            return build(cls, record, PointError, SCHEMA)
        point = object.__new__(cls)
        point.__dict__.update(fields)
        return point


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What one run was asked to do, complete enough to do it again; its id is the hash of its content.

    A run starts in one of three ways: `start` is None (from scratch, with the config in `model`); `start`
    names a checkpoint and `resume` is False (weights only: a new stage, after `growth` if there is one);
    or `resume` is True (a branch: model, optimizer, token counts and data position all go on).

    Attributes:
        method: as in `ScalingPoint`.
        domain: name of the text trained on.
        model: config of a model made from scratch, as `PreTrainedConfig.to_dict` writes it.
        start: ``<run_id>/<checkpoint folder>`` in the same study, a folder, or a Hub name (``name@revision``).
        growth: fields of a `GrowthConfig`, applied to `start`.
        lora: a low-rank adapter trained in place of the weights: `r`, `alpha` (2 r if left out), `dropout` (0) and
            `target_modules` (None: every linear layer but the head); None trains all of the model.
        optimizer: "reset": Adam starts without moments; "grow": with those of the checkpoint `start`, grown with it.
        data: tokens to train on, a file under the study's folder; `data_offset` blocks are left out first.
        eval_sets: name -> file of held-out tokens; the one named as `domain` is the primary one.
        hashes: content of `data`, `tokenizer` and `eval_set`.
        tokens: trained tokens of the whole stage when the run ends, decay included.
        warmup_tokens, decay_tokens: lengths of the rise from 0 to `peak_lr` and of the fall to 0 at `tokens`.
        batch_size: blocks of one optimizer step; sequence_length: trained tokens of one block.
        checkpoints: token counts at which a checkpoint is kept for others to start from.
        marks: token counts at which a point is measured; the end always is.
        dtype: of the weights; autocast: "bf16" computes products in bfloat16 beside them, "no" in theirs.
    """

    method: str
    domain: str
    seed: int
    data: str
    eval_sets: Mapping[str, str]
    tokens: int
    peak_lr: float
    batch_size: int
    sequence_length: int
    schema: int = SCHEMA
    model: Mapping[str, Any] | None = None
    start: str | None = None
    resume: bool = False
    growth: Mapping[str, Any] | None = None
    lora: Mapping[str, Any] | None = None
    optimizer: str = "reset"
    base_tokens: int = 0
    base_run_id: str | None = None
    base_checkpoint_id: str | None = None
    base_decayed: bool | None = None
    data_offset: int = 0
    tokenizer: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    warmup_tokens: int = 0
    decay_tokens: int = 0
    weight_decay: float = 0.1
    adam_betas: tuple[float, ...] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    checkpoints: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    attention: str | None = None
    dtype: str = "float32"
    autocast: str = "no"

    def __post_init__(self) -> None:
        """Refuse a run that could not be carried out."""
        settle(self, RecordError, signed=("seed",))
        _check_schema(self.schema, RecordError)
        self._check_start()
        self._check_stage()
        self._check_amounts()
        # JSON objects have no order, so the primary set is known by its name.
        if self.domain not in self.eval_sets:
            raise RecordError(
                f"eval_sets holds {brief(sorted(self.eval_sets))} but the domain is {brief(self.domain)}; a loss is "
                "that on held-out text of the same domain. Name one set after the domain."
            )
        for what, path in (("data", self.data), ("tokenizer", self.tokenizer), *self.eval_sets.items()):
            if path is not None and (path in ("", ".") or _leads_out(path) or path.startswith("/")):
                raise RecordError(
                    f"{what} is {brief(path)}, which is not a file under the study's folder. "
                    "Put it there and give its path from that folder."
                )

    def _check_start(self) -> None:
        if (self.start is None) == (self.model is None):
            raise RecordError(
                f"run of method {self.method!r} has start={brief(self.start)} and model={brief(self.model)}; exactly "
                "one of them says where the weights come from. Give a checkpoint, or the config of a new model."
            )
        if self.start is not None and (not self.start or _leads_out(self.start)):
            raise RecordError(
                f"start is {brief(self.start)}, which leads out of the study's folder. "
                "Give <run_id>/<checkpoint>, a whole path, or a Hub name."
            )
        if self.resume and (self.start is None or self.growth is not None):
            raise RecordError("a branch (resume=True) goes on from a checkpoint as it is: give start, and no growth.")
        if self.resume and not re.fullmatch("[^/]+/[^/]+", self.start or ""):
            raise RecordError(
                f"a branch resumes {brief(self.start)}, but only a run of the same study can be resumed. "
                "Give start as <run_id>/<checkpoint>, or resume=False to take the weights alone."
            )

    def _check_stage(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise RecordError(f"optimizer is {brief(self.optimizer)}. {did_you_mean(self.optimizer, OPTIMIZERS)}")
        if self.autocast not in AUTOCAST:
            raise RecordError(f"autocast is {brief(self.autocast)}. {did_you_mean(self.autocast, AUTOCAST)}")
        if self.lora is not None:
            # Whole, so that equal requests have equal names.
            object.__setattr__(self, "lora", _whole_lora(self.lora))
        if self.start is None and (self.lora is not None or self.optimizer == "grow"):
            raise RecordError(
                "a run from scratch has lora or optimizer: grow, but there are no trained weights for an adapter to "
                "stand beside, and no moments to carry over. Give start, or leave them out."
            )
        if self.lora is not None and self.optimizer == "grow":
            raise RecordError(
                "lora and optimizer: grow are both given, but an adapter begins with this run: the moments of the base "
                "belong to weights that it freezes. Leave one of them out."
            )

    def _check_amounts(self) -> None:
        if self.batch_tokens < 1 or self.tokens < 1 or self.tokens % self.batch_tokens:
            raise RecordError(
                f"{self.tokens:,} tokens are not whole steps of {self.batch_tokens:,}. "
                f"Ask for {max(self.tokens // max(self.batch_tokens, 1), 1) * self.batch_tokens:,}."
            )
        if self.warmup_tokens + self.decay_tokens > self.tokens:
            raise RecordError(
                f"warm-up of {self.warmup_tokens:,} and decay of {self.decay_tokens:,} tokens do not fit into "
                f"{self.tokens:,} tokens. Shorten them or train longer."
            )
        for what, counts in (("checkpoints", self.checkpoints), ("marks", self.marks)):
            if counts and max(counts) > self.tokens:
                raise RecordError(
                    f"{what} asks for {max(counts):,} tokens, but the run ends at {self.tokens:,}. "
                    "Remove it or train longer."
                )
        if self.peak_lr <= 0:
            raise RecordError(f"peak_lr is {self.peak_lr}; such a run learns nothing. Give a positive rate.")
        if len(self.adam_betas) != 2 or not all(beta < 1 for beta in self.adam_betas):
            raise RecordError(f"adam_betas are {self.adam_betas}; AdamW needs two numbers in [0, 1). Use (0.9, 0.95).")

    @property
    def batch_tokens(self) -> int:
        """Trained tokens of one optimizer step."""
        return self.batch_size * self.sequence_length

    @property
    def parent_run_id(self) -> str | None:
        """The run whose checkpoint this one resumes."""
        return self.start.partition("/")[0] if self.resume and self.start else None

    @cached_property
    def run_id(self) -> str:
        """Readable start and content hash, such as ``continue-code-131072-524288-1f0c9a2b4d``."""
        digest = hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()[:10]
        words = [self.method, self.domain, str(self.base_tokens), str(self.tokens)]
        return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word)[:40] for word in words) + f"-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types; `lora`, `optimizer` and `autocast` are left out where they say nothing."""
        record = as_plain_json(self)
        # A run is named by the hash of this. Fields that came after the first runs must not rename those that do not
        # use them, or every study would be trained again.
        for name, default in _LATER_FIELDS.items():
            if record[name] == default:
                del record[name]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Make a spec from a record read elsewhere.

        Raises:
            RecordError: unknown or missing keys, another schema version, wrong types or values.
        """
        return build(cls, record, RecordError, SCHEMA)


def _whole_lora(lora: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of a LoRA, with what is left out at its default."""
    known = ("r", "alpha", "dropout", "target_modules")
    for key in lora:
        if key not in known:
            raise RecordError(f"lora has no key {brief(key)}. {did_you_mean(key, known)}")
    rank = lora.get("r")
    if type(rank) is not int or rank < 1:
        raise RecordError(f"lora.r is {brief(rank)}; a LoRA needs a rank of at least 1. 16 is usual.")
    alpha, dropout, targets = lora.get("alpha"), lora.get("dropout", 0), lora.get("target_modules")
    if not _is_number(2 * rank if alpha is None else alpha) or (alpha is not None and alpha <= 0):
        raise RecordError(f"lora.alpha is {brief(alpha)}; it must be a number above 0. Left out it is 2 r.")
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise RecordError(f"lora.dropout is {brief(dropout)}; it must be a number from 0 to below 1. Left out it is 0.")
    if targets is not None and not (
        isinstance(targets, list) and targets and all(type(name) is str and name for name in targets)
    ):
        raise RecordError(
            f"lora.target_modules is {brief(targets)}; it must be a list of names such as q_proj. Left out it is every "
            "linear layer but the head."
        )
    return {
        "r": rank,
        "alpha": float(2 * rank if alpha is None else alpha),
        "dropout": float(dropout),
        "target_modules": None if targets is None else sorted(set(targets)),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_plain_point(fields: Mapping[str, Any]) -> bool:
    """What `__post_init__` would accept as it is, for fields of the right types."""
    if not (fields["loss"] > 0 and fields["run_id"] and fields["phase"] in PHASES and fields["schema"] == SCHEMA):
        return False
    for sums in fields["eval"].values():
        if sums.keys() != {"sum", "count", "bytes"} or type(sums["sum"]) is not float:
            return False
        if not all(type(sums[name]) is int and 1 <= sums[name] < 2**63 for name in ("count", "bytes")):
            return False
        if not 0 <= sums["sum"] < math.inf:
            return False
    return True


def _check_schema(version: int, error: type[RecordError]) -> None:
    if version != SCHEMA:
        raise error(f"schema is {version}; this release writes and reads {SCHEMA}. Leave it out.")


def _checked_sums(where: str, name: str, sums: Mapping[str, float | None]) -> dict[str, float | int | None]:
    """One evaluation set of a point: nats, a whole count of tokens, and bytes where they are known."""
    if not {"sum", "count"} <= sums.keys() <= {"sum", "count", "bytes"}:
        raise PointError(
            f"{where} has eval[{brief(name)}] with the keys {brief(sorted(sums))}; it must hold sum (nats), "
            "count (tokens) and, if known, bytes. Correct the writer of this record."
        )
    nats, count, size = sums["sum"], sums["count"], sums.get("bytes")
    if nats is None or count is None or count < 1 or count % 1 or (size is not None and (size < 1 or size % 1)):
        raise PointError(
            f"{where} has eval[{brief(name)}] = {brief(dict(sums))}; count and bytes must be whole and at least 1, and "
            "sum and count must be known. Correct the writer of this record."
        )
    return {"sum": nats, "count": int(count), "bytes": None if size is None else int(size)}


def _leads_out(path: str) -> bool:
    return ".." in PurePosixPath(path).parts or "\0" in path
