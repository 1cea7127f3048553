"""From a study file and the facts of its text to the runs it takes, and from a folder to the runs that exist."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecordError, StudyError
from ..records import RunSpec
from ..store import COMPLETE, RunFolder, read_json, write_json
from .config import BaseConfig, MethodConfig, StudyConfig
from .corpora import train_name
from .grid import Corpus, Grid, Method
from .stages import Known

__all__ = ["grids", "known_runs", "note_runs", "noted_runs", "study_runs"]

# Beside text.json: which runs of the folder are the study's.
_NOTE = "study.json"


def study_runs(config: StudyConfig, facts: Mapping[str, Any], known: Known | None = None) -> list[RunSpec]:
    """Every run of a study, each after the runs it starts from, none twice.

    Args:
        facts: of its text, as `corpora.prepare_text` returns them.
        known: runs that exist, to go on from.

    Raises:
        StudyError: a grid that cannot be laid out.
    """
    try:
        found = {spec.run_id: spec for grid in grids(config, facts) for spec in grid.specs(known)}
    except RecordError as error:
        raise StudyError(f"The study {config.name!r} asks for a run that cannot be: {error}") from error
    except StudyError as error:
        raise StudyError(f"The study {config.name!r} cannot be laid out: {error}") from error
    return list(found.values())


def grids(config: StudyConfig, facts: Mapping[str, Any]) -> list[Grid]:
    """One grid for each base and seed: seeds differ in the order of their data."""
    return [_grid(config, facts, base, seed) for base, seed in itertools.product(config.bases, config.seeds)]


def known_runs(folder: str | Path) -> Known:
    """What the runs of a folder have begun, done and lost.

    Raises:
        StoreError: a run.json that cannot be read, or was changed.
    """
    specs: list[RunSpec] = []
    done: set[str] = set()
    lost: set[str] = set()
    for path in sorted(Path(folder).glob("runs/*/run.json")):
        run = RunFolder(path.parent)
        spec = run.spec()
        specs.append(spec)
        if run.is_done():
            done.add(run.path.name)
            places = [f"checkpoint-{count // spec.batch_tokens}" for count in spec.checkpoints]
            lost.update(f"{run.path.name}/{place}" for place in places if not (run.path / place / COMPLETE).exists())
    return Known(specs, done, lost)


def note_runs(folder: str | Path, name: str, specs: Sequence[RunSpec]) -> None:
    """Write down which runs a study has as its file and its text are now, all methods and seeds; for `noted_runs`."""
    note = {"name": name, "runs": [spec.run_id for spec in specs]}
    path = Path(folder) / _NOTE
    if not path.exists() or read_json(path) != note:
        write_json(path, note)


def noted_runs(folder: str | Path) -> frozenset[str] | None:
    """The ids that `note_runs` wrote last; None in a folder of runs that were never prepared from a study file."""
    path = Path(folder) / _NOTE
    return frozenset(read_json(path).get("runs", ())) if path.exists() else None


def _grid(config: StudyConfig, facts: Mapping[str, Any], base: BaseConfig, seed: int) -> Grid:
    training = config.training
    trained_here = config.vocab_size is not None
    return Grid(
        model=None if base.model is None else config.model(base.model),
        corpus=_corpus(config, facts, base.text, seed),
        base_tokens=base.tokens,
        bases=base.checkpoints,
        methods=tuple(
            _method(config, facts, method, base, seed)
            for method in config.methods
            if not method.seeds or seed in method.seeds
        ),
        peak_lr=training.peak_lr,
        batch_size=training.batch_size,
        sequence_length=training.sequence_length,
        warmup_steps=training.warmup_steps,
        rewarm_steps=training.rewarm_steps,
        decay_share=training.decay_share,
        reserve_tokens=base.reserve_tokens,
        seeds=(seed,),
        tokenizer="tokenizer" if trained_here else None,
        tokenizer_hash=facts[base.text]["held_out"]["tokenizer_hash"],
        attention=training.attention,
        dtype=training.dtype,
        autocast=training.autocast,
    )


def _method(config: StudyConfig, facts: Mapping[str, Any], method: MethodConfig, base: BaseConfig, seed: int) -> Method:
    scratch = config.scratch_of(method, base)
    return Method(
        name=method.name,
        corpus=_corpus(config, facts, method.text, seed, method.name if method.replay_ratio else ""),
        tokens=method.tokens,
        scratch=None if scratch is None else config.model(scratch),
        growth=method.growth,
        lora=None if method.lora is None else method.lora.to_spec(),
        optimizer=method.optimizer,
        peak_lrs=method.peak_lr,
        scratch_peak_lr=method.scratch_peak_lr,
        scratch_tokens=method.scratch_tokens,
        from_base=method.from_base,
        base_decayed=method.base_decayed,
        base_tokens=method.base_tokens,
        rewarm_steps=method.rewarm_steps,
    )


def _corpus(config: StudyConfig, facts: Mapping[str, Any], domain: str, seed: int, replay_for: str = "") -> Corpus:
    """A domain to train on, scored on its own held-out text first and on others' beside it."""
    others = [name for name in (config.eval_texts or config.texts) if name != domain]
    train = facts[domain][train_name(seed, replay_for)]
    return Corpus(
        domain=domain,
        data=train["file"],
        data_hash=train["hash"],
        eval_sets={name: facts[name]["held_out"]["file"] for name in (domain, *others)},
        eval_hash=facts[domain]["held_out"]["hash"],
    )
