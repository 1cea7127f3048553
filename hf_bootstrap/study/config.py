"""`StudyConfig`: what a scaling study varies and what it holds fixed, as one YAML file says it.

Loads without torch. Which runs it takes is worked out in `runs`, what they cost in `plan`; `corpora` makes the
text ready.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ..errors import GrowthError, StudyError, did_you_mean
from ..growth.config import GrowthConfig
from ..records import OPTIMIZERS
from ..sealing import canonical_json
from .grid import Checkpoint
from .possible import check_possible
from .reading import json_schema, load_yaml, plain_fields, read_fields

__all__ = ["BaseConfig", "LoraConfig", "MethodConfig", "StudyConfig", "TextConfig", "TrainingConfig"]

_SOURCES = ("documentation", "python-code")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Where the text of one domain comes from; exactly one of the two.

    Attributes:
        source: text of this machine: "documentation" (docstrings of the standard library, numpy and scipy) or
            "python-code" (the standard library's code without comments).
        files: patterns of .txt, .txt.gz, .jsonl or .parquet files under the folder of corpora.
    """

    source: str | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse text from nowhere, or from two places."""
        if (self.source is None) == (not self.files):
            raise StudyError("a text has either a source or files. Give one of them.")
        if self.source is not None and self.source not in _SOURCES:
            raise StudyError(f"there is no source {self.source!r}. {did_you_mean(self.source, _SOURCES)}")
        if any(".." in Path(pattern).parts or pattern.startswith("/") for pattern in self.files):
            raise StudyError(f"files {list(self.files)} lead out of the folder of corpora. Give patterns inside it.")


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The first stage: a model trained here to several marks, or checkpoints trained elsewhere.

    Attributes:
        model: name of the model to train, one of `models`; left out where `checkpoints` are given.
        text: what it is (or was) trained on, one of `texts`.
        tokens: D1 marks of a base trained here.
        reserve_tokens: a second stage on the base's own text begins behind this many tokens. The largest mark if left
            out; set it beforehand where a larger mark may be added later, since moving it renames those runs.
        checkpoints: models trained elsewhere.
    """

    text: str
    model: str | None = None
    tokens: tuple[int, ...] = ()
    reserve_tokens: int | None = None
    checkpoints: tuple[Checkpoint, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a base that is both or neither."""
        trained = self.model is not None and bool(self.tokens)
        partly = self.model is not None or bool(self.tokens)
        if trained == bool(self.checkpoints) or (self.checkpoints and partly):
            raise StudyError("a base is either a model with tokens (marks), or checkpoints. Give one of the two.")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """A low-rank adapter that is trained beside a base's weights, which stay as they are.

    Attributes:
        r: rank of its two matrices.
        alpha: its scale is alpha / r; 2 r if left out.
        dropout: on what it reads.
        target_modules: names of the layers it stands beside; every linear layer but the head if left out.
    """

    r: int
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()

    def to_spec(self) -> dict[str, Any]:
        """As `RunSpec.lora`."""
        return {**vars(self), "target_modules": self.target_modules or None}


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """One way to reuse every base, or (with `from_base` false) a model from scratch on its own.

    Attributes:
        name: as points carry it: continue, stack, expand-split ...; each law is fitted to one name.
        text: what the second stage trains on, one of `texts`.
        tokens: D2 marks, decay included.
        growth: fields of a GrowthConfig; left out, the model keeps its size.
        lora: an adapter that the second stage trains; left out, it trains the whole model.
        optimizer: of the second stage: "reset" begins Adam without moments, "grow" with those of the base, grown with
            it where that is exact.
        scratch: the same model from scratch, one of `models`, trained to the same marks: the rows with D1 = 0. With
            bases of several sizes a list, one for each base in their order. Left out, there are none.
        scratch_tokens: marks of the run from scratch instead of `tokens`, such as those of equal FLOPs.
        from_base: false for a method that is nothing but its run from scratch.
        base_decayed: whether bases are the trunk's decayed models (as released ones are) or the trunk itself.
        base_tokens: only bases at these D1 marks; all if left out.
        seeds: only these seeds; all of the study's if left out.
        rewarm_steps: optimizer steps of warm-up of the second stage; the study's if left out.
        peak_lr: of the second stage; several are all trained, and the best at each cell is the point: how a sweep is
            done. The study's if left out.
        scratch_peak_lr: of the run from scratch; the study's if left out.
        replay_text: text mixed into the second stage, one of `texts`.
        replay_ratio: the share of the characters that text has.
    """

    name: str
    text: str
    tokens: tuple[int, ...]
    growth: Mapping[str, Any] | None = None
    lora: LoraConfig | None = None
    optimizer: str = "reset"
    scratch: tuple[str, ...] = ()
    scratch_tokens: tuple[int, ...] = ()
    from_base: bool = True
    base_decayed: bool = True
    base_tokens: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    rewarm_steps: int | None = None
    peak_lr: tuple[float, ...] = ()
    scratch_peak_lr: float | None = None
    replay_text: str | None = None
    replay_ratio: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be a method; one name of a model is a list of one."""
        if not isinstance(self.scratch, tuple):
            one = self.scratch
            object.__setattr__(self, "scratch", () if one is None else (one,) if isinstance(one, str) else tuple(one))
        where = f"method {self.name!r}"
        if not self.tokens:
            raise StudyError(f"{where} has no tokens; a method needs at least one D2 mark.")
        if not self.from_base and not self.scratch:
            raise StudyError(f"{where} has from_base: false and no scratch, so there is nothing to run. Give scratch.")
        if (self.replay_text is None) != (self.replay_ratio == 0) or self.replay_ratio >= 1:
            raise StudyError(
                f"{where} has replay_text {self.replay_text!r} and replay_ratio {self.replay_ratio}; give both, with a "
                "ratio above 0 and below 1, or neither."
            )
        growth = GrowthConfig()
        if self.growth is not None:
            try:
                growth = GrowthConfig.from_dict(self.growth)
            except GrowthError as error:
                raise StudyError(f"{where} cannot grow: {error}") from error
        self._check_optimizer(where, growth)

    def _check_optimizer(self, where: str, growth: GrowthConfig) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise StudyError(f"{where} has optimizer {self.optimizer!r}. {did_you_mean(self.optimizer, OPTIMIZERS)}")
        grown = self.optimizer == "grow"
        if not self.from_base and (grown or self.lora is not None):
            raise StudyError(
                f"{where} has from_base: false, so there is no base whose moments could be kept or beside which an "
                "adapter could stand. Leave lora and optimizer out."
            )
        if grown and self.lora is not None:
            raise StudyError(
                f"{where} has lora and optimizer: grow, but the base's moments belong to weights that a LoRA freezes. "
                "Leave one of them out."
            )
        if grown and not growth.keeps_moments:
            raise StudyError(
                f"{where} has optimizer: grow, but no exact rule is known for Adam's moments under this growth. Grow "
                "width by clone or depth by identity, or leave optimizer out."
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What all runs of a study have in common.

    Attributes:
        peak_lr: of every stage that does not state its own.
        batch_size, sequence_length: blocks a step and trained tokens a block; marks are rounded down to whole steps.
        warmup_steps: optimizer steps of warm-up from scratch.
        rewarm_steps: of warm-up of a second stage, which starts with a fresh optimizer unless its method keeps it.
        decay_share: last part of every mark over which the rate falls to 0.
        attention: implementation; the machine's choice if left out.
        dtype: of the weights.
        autocast: what matrix products are computed in: "no" (as the weights are) or "bf16", which is faster for large
            models on a GPU, and lets FlashAttention run.
    """

    peak_lr: float = 4e-3
    batch_size: int = 4
    sequence_length: int = 128
    warmup_steps: int = 40
    rewarm_steps: int = 20
    decay_share: float = 0.2
    attention: str | None = None
    dtype: str = "float32"
    autocast: str = "no"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A whole study. `docs/guides/studies.md` explains it by example.

    Attributes:
        name: of the study.
        texts: the domains, by name.
        models: configs of models made from scratch, by name, as PreTrainedConfig.to_dict writes them; a field `like`
            names another model whose fields are taken first.
        bases: first stages.
        methods: what is done with every base.
        training: what all runs have in common.
        seeds: one trunk each; a seed changes initialisation and data order. What is held out is the same for all.
        vocab_size: entries of the tokenizer that is trained on all texts; left out with `tokenizer`.
        tokenizer: folder or Hub name of a tokenizer to use as it is.
        held_out_characters: of each text, scored by every run.
        eval_texts: held-out text of these domains is scored by every run, beside that of its own; all if left out.
        budget_flops: of the whole study; a plan beyond it says so.
    """

    name: str
    texts: Mapping[str, TextConfig]
    bases: tuple[BaseConfig, ...]
    models: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[MethodConfig, ...] = ()
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seeds: tuple[int, ...] = (0,)
    vocab_size: int | None = None
    tokenizer: str | None = None
    held_out_characters: int = 120_000
    eval_texts: tuple[str, ...] = ()
    budget_flops: float | None = None

    def __post_init__(self) -> None:
        """Refuse names that lead nowhere."""
        if not self.seeds or not self.bases:
            raise StudyError(
                f"a study needs at least one base and one seed; it has {len(self.bases)} and "
                f"{len(self.seeds)}. Add them."
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise StudyError(
                f"seeds are {list(self.seeds)}, one of them twice, which would be one trunk. Give each once."
            )
        if (self.vocab_size is None) == (self.tokenizer is None):
            raise StudyError(
                "give either vocab_size (a tokenizer is trained) or tokenizer (one is taken); they are "
                f"{self.vocab_size} and {self.tokenizer!r}."
            )
        if self.held_out_characters < 1:
            raise StudyError("held_out_characters is 0, so no loss could be measured. Hold out 100,000 or so.")
        check_possible(self)

    def model(self, name: str) -> dict[str, Any]:
        """A model's config with the fields of the one it is `like`.

        Raises:
            StudyError: a model that is like none, or like itself.
        """
        chain: list[str] = []
        fields: dict[str, Any] = {}
        follow: str | None = name
        while follow is not None:
            if follow in chain or follow not in self.models:
                raise StudyError(f"model {name!r} is like {follow!r}, which is itself or no model. Name another.")
            chain.append(follow)
            fields = {**self.models[follow], **fields}
            follow = self.models[follow].get("like")
        fields.pop("like", None)
        return fields

    def scratch_of(self, method: MethodConfig, base: BaseConfig) -> str | None:
        """The model that a method is compared with where it starts from this base; None where with none."""
        if len(method.scratch) < 2:
            return method.scratch[0] if method.scratch else None
        return method.scratch[self.bases.index(base)]

    def narrowed(self, methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> Self:
        """The same study with some of its methods and seeds; empty keeps all.

        Raises:
            StudyError: a method or a seed that the study has not.
        """
        known = [method.name for method in self.methods]
        for name in methods:
            if name not in known:
                raise StudyError(f"there is no method {name!r}. {did_you_mean(name, known)}")
        if extra := sorted(set(seeds) - set(self.seeds)):
            raise StudyError(f"there are no seeds {extra}. The study has {list(self.seeds)}.")
        kept = tuple(seed for seed in self.seeds if not seeds or seed in seeds)
        chosen = [
            replace(method, seeds=tuple(seed for seed in method.seeds if seed in kept))
            for method in self.methods
            if (not methods or method.name in methods) and (not method.seeds or set(method.seeds) & set(kept))
        ]
        return replace(self, methods=tuple(chosen), seeds=kept)

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """Read what a file holds.

        Raises:
            StudyError: it names the place in the file.
        """
        config = read_fields(cls, record, "the study")
        canonical_json({"models": dict(config.models)})  # nothing in it that run.json could not hold
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a YAML (or JSON) file. Nothing in it is ever run: tags are refused.

        Raises:
            StudyError: no such file, not YAML, or not a study.
        """
        record = load_yaml(path)
        try:
            return cls.from_dict(record)._beside(Path(path).absolute().parent)
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from error

    def _beside(self, folder: Path) -> Self:
        """With the paths of bases and tokenizer that name a folder beside the file made absolute."""

        def found(path: str) -> str:
            inside = folder / path
            holds = any((inside / name).exists() for name in ("config.json", "tokenizer.json"))
            return str(inside.resolve()) if path.startswith(".") or holds else path

        bases = [
            replace(base, checkpoints=tuple(replace(one, path=found(one.path)) for one in base.checkpoints))
            for base in self.bases
        ]
        return replace(self, bases=tuple(bases), tokenizer=None if self.tokenizer is None else found(self.tokenizer))

    def to_dict(self) -> dict[str, Any]:
        """What a file of this study holds, fields at their default left out; `from_dict` reads it."""
        return dict(plain_fields(self))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of the file, for editors; `study.schema.json` beside this module holds it."""
        return json_schema(cls, "hf-bootstrap study")
