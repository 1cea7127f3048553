"""The two records everything else speaks of: `RunSpec` (what was asked) and `ScalingPoint` (what was measured).

`docs/formats.md` is their specification. Both are frozen and validated when made, so code that holds
one never checks it again. Files are the business of `store`.
"""

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from .errors import PointError, RecordError, did_you_mean

__all__ = ["PHASES", "SCHEMA", "RunSpec", "ScalingPoint", "canonical_json", "seal", "unseal"]

T = TypeVar("T")

SCHEMA = 1
PHASES = ("warmup", "stable", "decay", "end")


def canonical_json(record: Mapping[str, Any]) -> str:
    """The one way a record is written: sorted keys, no spaces, ASCII, no NaN or infinity."""
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(f"A record cannot be written as JSON: {error}. Use finite numbers and text only.") from error


def seal(record: Mapping[str, Any]) -> str:
    """One line of a points file: canonical JSON with `crc32`, the CRC-32 of the line without it."""
    bare = {key: value for key, value in record.items() if key != "crc32"}
    return canonical_json({**bare, "crc32": zlib.crc32(canonical_json(bare).encode())})


def unseal(line: str) -> dict[str, Any]:
    """Read one sealed line and check its CRC.

    Returns:
        The record without `crc32`.

    Raises:
        PointError: not JSON, not an object, without a checksum, or with a wrong one.
    """
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PointError(
            f"The line is not JSON ({error}). It was cut short or edited; remove it or log the point again."
        ) from error
    if not isinstance(record, dict):
        raise PointError(f"The line holds a {type(record).__name__}, not an object. Every line is one JSON object.")
    stated = record.pop("crc32", None)
    if stated is None:
        raise PointError(
            "The line has no crc32, so it cannot be trusted. Write points with hf_bootstrap.store.append_point."
        )
    actual = zlib.crc32(canonical_json(record).encode())
    if stated != actual:
        raise PointError(
            f"The line says crc32 {stated} but its content gives {actual}. It was changed after it was written."
        )
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")


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
    hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    tokens_per_second: float | None = None
    mfu: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no law may see."""
        _check_types(self, PointError)
        where = f"run {self.run_id!r} at {self.tokens:,} tokens"
        if not (math.isfinite(self.loss) and self.loss > 0):
            raise PointError(
                f"{where} has loss {self.loss}; a law needs a positive, finite loss. "
                "Did training diverge? Look at the run, or leave it out."
            )
        if self.phase not in PHASES:
            raise PointError(f"{where} has phase {self.phase!r}. {did_you_mean(self.phase, PHASES)}")

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types, without `crc32`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Make a point from a record read elsewhere.

        Raises:
            PointError: unknown or missing keys, another schema version, wrong types or values.
        """
        return _from_dict(cls, record, PointError)


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
        start: ``<run_id>/<checkpoint folder>`` in the same study, a folder, or a Hub name.
        growth: fields of a `GrowthConfig`, applied to `start`.
        data: tokens to train on, a file under the study's folder; `data_offset` blocks are left out first.
        eval_sets: name -> file of held-out tokens; the first is the primary one.
        hashes: content of `data`, `tokenizer` and `eval_set`.
        tokens: trained tokens of the whole stage when the run ends, decay included.
        warmup_tokens, decay_tokens: lengths of the rise from 0 to `peak_lr` and of the fall to 0 at `tokens`.
        batch_size: blocks of one optimizer step; sequence_length: trained tokens of one block.
        checkpoints: token counts at which a checkpoint is kept for others to start from.
        marks: token counts at which a point is measured; the end always is.
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

    def __post_init__(self) -> None:
        """Refuse a run that could not be carried out."""
        object.__setattr__(self, "adam_betas", tuple(self.adam_betas))
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        object.__setattr__(self, "marks", tuple(self.marks))
        _check_types(self, RecordError)
        if (self.start is None) == (self.model is None):
            raise RecordError(
                f"run of method {self.method!r} has start={self.start!r} and model={self.model!r}; exactly one of them "
                "says where the weights come from. Give a checkpoint, or the config of a model from scratch."
            )
        if self.resume and (self.start is None or self.growth is not None):
            raise RecordError("a branch (resume=True) goes on from a checkpoint as it is: give start, and no growth.")
        if not self.eval_sets:
            raise RecordError("a run without eval_sets measures nothing. Name at least one held-out set.")
        if self.warmup_tokens + self.decay_tokens > self.tokens:
            raise RecordError(
                f"warm-up of {self.warmup_tokens:,} and decay of {self.decay_tokens:,} tokens do not fit into "
                f"{self.tokens:,} tokens. Shorten them or train longer."
            )
        if self.batch_tokens < 1 or self.tokens % self.batch_tokens:
            raise RecordError(
                f"{self.tokens:,} tokens are not whole steps of {self.batch_tokens:,}. "
                f"Ask for {self.tokens // max(self.batch_tokens, 1) * self.batch_tokens:,}."
            )

    @property
    def batch_tokens(self) -> int:
        """Trained tokens of one optimizer step."""
        return self.batch_size * self.sequence_length

    @property
    def parent_run_id(self) -> str | None:
        """The run whose checkpoint this one resumes."""
        return self.start.partition("/")[0] if self.resume and self.start else None

    @property
    def run_id(self) -> str:
        """Readable start and content hash, such as ``continue-code-131072-524288-1f0c9a2b4d``."""
        digest = hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()[:10]
        words = [self.method, self.domain, str(self.base_tokens), str(self.tokens)]
        return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in words) + f"-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return {
            **dataclasses.asdict(self),
            **{k: list(getattr(self, k)) for k in ("adam_betas", "checkpoints", "marks")},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Make a spec from a record read elsewhere.

        Raises:
            RecordError: unknown or missing keys, another schema version, wrong types or values.
        """
        return _from_dict(cls, record, RecordError)


def _from_dict(cls: type[T], record: Mapping[str, Any], error: type[RecordError]) -> T:
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    version = record.get("schema", SCHEMA)
    if version != SCHEMA:
        raise error(
            f"{cls.__name__} has schema {version!r}; this release reads {SCHEMA}. Use a release that writes it."
        )
    for key in record:
        if key not in known:
            raise error(f"{cls.__name__} has no field {key!r}. {did_you_mean(str(key), known)}")
    for name, f in known.items():
        if name not in record and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise error(
                f"{cls.__name__} needs the field {name!r}, which is missing. Known here: {', '.join(sorted(record))}."
            )
    return cls(**record)


def _check_types(record: Any, error: type[RecordError]) -> None:
    """Every field has the type its annotation names; numbers are finite, counts not negative."""
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise error(
                f"{type(record).__name__}.{name} is {value!r}; it must be {_spell(hint)}. Correct the writer of this record."
            )
        if isinstance(value, float) and not math.isfinite(value) and name != "loss":
            raise error(f"{type(record).__name__}.{name} is {value}; write None where a number is not known.")
        if isinstance(value, int | float) and value < 0 and name not in ("seed", "loss"):
            raise error(f"{type(record).__name__}.{name} is {value}; it cannot be negative. Check the sign.")


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is types.UnionType:
        return any(_fits(value, option) for option in args)
    if hint is None or hint is type(None):
        return value is None
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, args[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spell(hint: Any) -> str:
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(_spell(option) for option in typing.get_args(hint))
    return (
        getattr(hint, "__name__", str(hint))
        if typing.get_origin(hint) is None
        else str(hint).replace("collections.abc.", "")
    )
