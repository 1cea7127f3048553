"""`grow_checkpoint`: a checkpoint folder in, a grown one out, without either ever being in memory.

The whole job on one page: open, plan, lay out, write beside the target, prove, and only then show it under its name.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import CorruptFileError, GrowthError, StoreError, UnsupportedModelError
from ..records import canonical_json
from ..store import lock, read_json, sync_folder, write_atomic, write_json
from ..units import format_bytes, format_count, format_duration
from .architecture import build_meta, find_ties, named_tensors
from .bootstrap import growth_history
from .checkpoint import Checkpoint, Entry, Match, check_regular, match_tensors, open_checkpoint
from .config import GrowthConfig
from .layout import INDEX_NAME, Shard, lay_out, shard_index, shard_limit
from .plan import GrowthPlan, plan_growth
from .recipe import Recipe
from .writer import PROGRESS, write_shards

__all__ = ["GROWTH_FILE", "GrowthJob", "GrowthReport", "grow_checkpoint", "prepare_growth"]

GROWTH_FILE = "growth.json"

# What travels with the weights unchanged: tokenizers, templates, generation settings, and remote code (never run).
_CARRIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab", ".spm")
_NOT_CARRIED = ("config.json", INDEX_NAME, GROWTH_FILE, "growth_config.json", "trainer_state.json", "complete.json")
_RESERVE = 2**24  # bytes beyond the weights: tokenizer, configs, the file system's own


@dataclass(frozen=True, kw_only=True)
class GrowthJob:
    """A growth on disk, worked out in full before a byte is written.

    Attributes:
        checkpoint, match: the source and which of its entries are which tensors.
        plan: the growth; recipes: its recipes by the name of the tensor on disk; shards: the files it will fill.
        carried, left_behind: names of the source's other files that will be copied, and that will not.
        fingerprint: SHA-256 of everything that decides the result.
    """

    checkpoint: Checkpoint
    match: Match
    plan: GrowthPlan
    recipes: Mapping[str, Recipe]
    shards: tuple[Shard, ...]
    carried: tuple[str, ...]
    left_behind: tuple[str, ...]
    fingerprint: str

    @property
    def size(self) -> int:
        """Bytes of the grown weights."""
        return sum(shard.size for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class GrowthReport:
    """What `grow_checkpoint` did.

    Attributes:
        target: the grown checkpoint.
        n_params_source, n_params: parameters before and after, tied ones once.
        keeps_function: whether the method promises the same logits up to rounding.
        bytes_written: of weights.
        files: SHA-256 of every weight file, read back from the disk.
        finite: no NaN or infinity in the source.
        structure: every tensor on disk has the name, dtype and shape the architecture builds.
        logit_drift: always None: comparing logits needs the models in memory; `notes` says so.
        notes: what was left out, and what was not checked.
        seconds: wall time of this call.
    """

    target: str
    n_params_source: int
    n_params: int
    keeps_function: bool
    bytes_written: int
    files: dict[str, str]
    finite: bool = True
    structure: bool = True
    logit_drift: float | None = None
    notes: tuple[str, ...] = ()
    seconds: float | None = None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f" in {format_duration(self.seconds)}"
        size = format_bytes(self.bytes_written)
        lines = [
            f"Grown to {self.target}{took}",
            f"  parameters      {format_count(self.n_params_source)} -> {format_count(self.n_params)}",
            f"  written         {size} in {len(self.files)} file(s), each hashed in {GROWTH_FILE}",
            f"  function        {'kept, by the method' if self.keeps_function else 'changed, or not promised'}",
            "  checked         every name, dtype and shape; every number of the source is finite",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


def grow_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
) -> GrowthReport:
    """Grow a checkpoint folder on disk; memory does not grow with the model.

    The target appears under its name when it is complete, and not before: files are written into a hidden folder
    beside it, synced, hashed, and renamed at the end. A call that was killed is finished by the next one with the
    same arguments. Same source, config and seed give the same bytes. No code of the checkpoint is run.

    Args:
        source: a local folder with safetensors weights; it is only read.
        target: a folder that does not exist, or is empty.
        config: what growth.
        max_shard_size: of one weight file, in bytes or such as "5GB".
        overwrite: replace a target that an earlier growth wrote.

    Raises:
        GrowthError: the request or the weights make no sense; nothing is left behind.
        UnsupportedModelError: the architecture cannot be grown so, or not on disk; the message names the reason.
        StoreError: the disk is full or failing, or another process is growing into the same target.
    """
    began = time.monotonic()
    source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    _check_target(source, target)
    job = prepare_growth(source, config, max_shard_size=max_shard_size)
    work_folder = target.parent / f".{target.name[:100]}.growing"
    if (finished := _finished(job, target)) is not None:
        if work_folder.exists():  # killed between showing the target and tidying up
            with lock(work_folder):
                _sweep(work_folder)
        return finished
    if target.exists() and any(target.iterdir()) and not (overwrite and (target / GROWTH_FILE).is_file()):
        ours = (target / GROWTH_FILE).is_file()
        way_out = "overwrite=True (--overwrite) replaces it" if ours else "It was not written by a growth, so it stays"
        raise GrowthError(f"{target} exists and holds something else. {way_out}; or choose another target.")
    with _working_in(work_folder, target, job) as work:
        folder = work / "model"
        folder.mkdir(exist_ok=True)
        hashes = write_shards(job.checkpoint, job.match, job.plan, job.recipes, job.shards, folder, job.fingerprint)
        report = _report(job, target, hashes)
        _write_the_rest(job, folder, report)
        _check_structure(job, folder)
        _publish(folder, target, work)
    return GrowthReport(**{**vars(report), "seconds": time.monotonic() - began})


def prepare_growth(
    source: str | os.PathLike[str], config: GrowthConfig, *, max_shard_size: str | int = "5GB"
) -> GrowthJob:
    """Work out a growth on disk: open the source, plan, match every tensor, lay out every byte. Writes nothing.

    Raises:
        GrowthError, UnsupportedModelError, StoreError: as `grow_checkpoint`.
    """
    limit = shard_limit(max_shard_size)
    if not config.grows:
        raise GrowthError("GrowthConfig() asks for no growth, so there is nothing to write. Try depth=2 or width=2.")
    checkpoint = open_checkpoint(Path(source))
    model_config = _open_config(checkpoint.folder)
    plan = plan_growth(model_config, config)
    model = build_meta(model_config)
    names, grown_names = _names_on_disk(model), _names_on_disk(build_meta(plan.target_config))
    found = match_tensors(
        checkpoint,
        {names[name]: tuple(tensor.shape) for name, tensor in named_tensors(model).items()},
        {names[name]: names[first] for name, first in find_ties(model).items()},
        prefix=model.base_model_prefix,
        ignored=model._keys_to_ignore_on_load_unexpected or (),
    )
    match = replace(found, entries={name: found.entries[names[name]] for name in named_tensors(model)})
    recipes = {grown_names[recipe.target]: recipe for recipe in plan.recipes}
    shards = lay_out(((name, match.entries[r.source].dtype, r.shape) for name, r in recipes.items()), limit)
    carried, left_behind = _other_files(checkpoint)
    return GrowthJob(
        checkpoint=checkpoint,
        match=match,
        plan=plan,
        recipes=recipes,
        shards=shards,
        carried=carried,
        left_behind=left_behind,
        fingerprint=_fingerprint(checkpoint, plan, shards, carried),
    )


def _open_config(folder: Path) -> PreTrainedConfig:
    check_regular(folder / "config.json")
    record = read_json(folder / "config.json")
    if record.get("quantization_config"):
        raise UnsupportedModelError(
            f"{folder} is quantised; the shares of a quantised weight cannot add up to it. Take the original weights."
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a config class may refuse a value in any way it likes
        raise UnsupportedModelError(f"{folder / 'config.json'} cannot be used: {error}") from error
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{folder} is an encoder-decoder; growth is for decoder-only language models.")
    return config


def _names_on_disk(model: PreTrainedModel) -> dict[str, str]:
    """The name `save_pretrained` gives to each tensor, tied ones included.

    Raises:
        UnsupportedModelError: on disk the architecture has other tensors than in memory, not only other names, and
            growth is planned for those in memory.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, revert_weight_conversion

    transforms = get_model_conversion_mapping(model, add_legacy=False)
    if converters := [t for t in transforms if isinstance(t, WeightConverter)]:
        raise UnsupportedModelError(
            f"{model.config.model_type} is stored in another layout than it runs in ({converters[0].source_patterns[0]}"
            f" becomes {converters[0].target_patterns[0]}), which growth on disk does not handle. "
            "bootstrap_from_pretrained grows it in memory."
        )
    marks = {name: torch.empty(0, device="meta") for name in (*named_tensors(model), *find_ties(model))}
    stored = {id(mark): name for name, mark in revert_weight_conversion(model, dict(marks)).items()}
    return {name: stored[id(mark)] for name, mark in marks.items()}


def _other_files(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    carried: list[str] = []
    left_behind: list[str] = []
    for item in sorted(checkpoint.folder.iterdir()):
        name = item.name
        if name in checkpoint.files or name in _NOT_CARRIED or name.startswith("."):
            continue
        is_ours = item.is_file() and not item.is_symlink() and item.suffix in _CARRIED
        # Another index speaks of weights that are not carried.
        (carried if is_ours and not name.endswith(".index.json") else left_behind).append(name)
    return tuple(carried), tuple(left_behind)


def _fingerprint(checkpoint: Checkpoint, plan: GrowthPlan, shards: tuple[Shard, ...], carried: tuple[str, ...]) -> str:
    facts = [(name, os.stat(checkpoint.folder / name)) for name in (*checkpoint.files, *carried)]
    digest = hashlib.sha256(canonical_json(plan.to_dict()).encode())
    digest.update(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in facts]).encode())
    for shard in shards:
        digest.update(shard.name.encode() + shard.header)
    return digest.hexdigest()


def _check_target(source: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise StoreError(f"{target.parent} is not a folder; make it first, or choose another target.")
    inside = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if inside[0] == inside[1] or inside[0] in inside[1].parents or inside[1] in inside[0].parents:
        raise GrowthError(f"The target {target} and the source {source} are in one another; choose another target.")


def _finished(job: GrowthJob, target: Path) -> GrowthReport | None:
    """The report of a target that an earlier call with the same arguments has completed."""
    if not (target / GROWTH_FILE).is_file():
        return None
    try:
        record = read_json(target / GROWTH_FILE)
        if record["fingerprint"] != job.fingerprint:
            return None
        report = record["report"]
        return GrowthReport(**{**report, "target": str(target), "notes": tuple(report["notes"])})
    except (CorruptFileError, KeyError, TypeError):
        return None


@contextmanager
def _working_in(work: Path, target: Path, job: GrowthJob) -> Iterator[Path]:
    """Hold a hidden folder beside the target for this process alone; it stays only where a later call can go on."""
    needed = job.size + _RESERVE
    with lock(work):
        _keep_what_counts(work, job)
        written = sum(f.stat().st_blocks * 512 for f in (work / "model").glob("*") if f.is_file())
        try:
            free = shutil.disk_usage(work).free
            if needed - written > free:
                raise StoreError(
                    f"The grown checkpoint takes {format_bytes(needed)}, and {format_bytes(free)} are free in "
                    f"{target.parent}. Free some space or choose another disk."
                )
            yield work
        except OSError as error:
            _sweep(work)
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{target} could not be written: {error}. It needs {format_bytes(needed)}, "
                f"{format_bytes(shutil.disk_usage(target.parent).free)} are free now. Nothing is left behind, and the "
                "source is untouched."
            ) from error
        except Exception:
            _sweep(work)
            raise
        _sweep(work)


def _keep_what_counts(work: Path, job: GrowthJob) -> None:
    """Of what an earlier call left behind, keep the shards of the same growth, and nothing else."""
    try:
        same = read_json(work / PROGRESS).get("fingerprint") == job.fingerprint
    except StoreError:
        same = False
    shards = {shard.name for shard in job.shards} if same else set()
    for file in (work / "model").glob("*"):
        if file.name not in shards:
            file.unlink()


def _sweep(work: Path) -> None:
    for part in ("model", "replaced"):
        shutil.rmtree(work / part, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def _report(job: GrowthJob, target: Path, hashes: dict[str, str]) -> GrowthReport:
    notes = ["logits were not compared, for that needs both models in memory: hf-bootstrap verify does"]
    if job.left_behind:
        notes.append(f"not carried over: {', '.join(job.left_behind)}")
    if job.match.left_out:
        notes.append(f"left out, as transformers does: {', '.join(job.match.left_out)}")
    if job.match.aliases:
        notes.append(f"stored once, for they are tied: {', '.join(alias.name for alias, _ in job.match.aliases)}")
    return GrowthReport(
        target=str(target),
        n_params_source=job.plan.n_params_source,
        n_params=job.plan.n_params,
        keeps_function=job.plan.growth.keeps_function,
        bytes_written=job.size,
        files=hashes,
        notes=tuple(notes),
    )


def _write_the_rest(job: GrowthJob, folder: Path, report: GrowthReport) -> None:
    for name in job.carried:
        write_atomic(folder / name, (job.checkpoint.folder / name).read_bytes())
    if (index := shard_index(job.shards)) is not None:
        write_json(folder / INDEX_NAME, index)
    config = job.plan.target_config
    config.architectures = job.plan.source_config.architectures
    found = {"finite": True, "structure": True, "logit_drift": None, "notes": list(report.notes)}
    config.hf_bootstrap = growth_history(job.plan, found)
    write_atomic(folder / "config.json", config.to_json_string(use_diff=True))
    record = {
        "schema": 1,
        "kind": "growth",
        "fingerprint": job.fingerprint,
        "plan": job.plan.to_dict(),
        "source_files": {name: os.stat(job.checkpoint.folder / name).st_size for name in job.checkpoint.files},
        "files": {shard.name: {"bytes": shard.size, "sha256": report.files[shard.name]} for shard in job.shards},
        "report": {**report.to_dict(), "target": None},
    }
    write_json(folder / GROWTH_FILE, record)


def _check_structure(job: GrowthJob, folder: Path) -> None:
    """What lies on the disk, read anew, is what was laid out."""
    planned: dict[str, Entry] = {entry.name: entry for shard in job.shards for entry in shard.entries}
    if dict(open_checkpoint(folder).entries) != planned:
        raise CorruptFileError(f"The files in {folder} are not what was written there. Is the disk failing?")


def _publish(folder: Path, target: Path, work: Path) -> None:
    sync_folder(folder)
    if (target / GROWTH_FILE).is_file():
        os.rename(target, work / "replaced")
    os.rename(folder, target)
    sync_folder(target.parent)
