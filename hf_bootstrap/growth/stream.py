"""`grow_checkpoint`: a checkpoint folder in, a grown one out, without either ever being in memory.

The whole job on one page: open, plan, lay out, write beside the target, prove, and only then show it under its name.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, GrowthError
from ..store import lock, read_json, write_atomic, write_json
from ..units import format_bytes, format_count, format_duration
from .bootstrap import growth_history
from .checkpoint import Entry, open_checkpoint
from .config import GrowthConfig
from .job import GROWTH_FILE, GrowthJob, prepare_growth
from .layout import INDEX_NAME, shard_index
from .staging import check_target, publish, sweep, work_folder, working_in
from .writer import write_shards

__all__ = ["GrowthReport", "grow_checkpoint"]


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
        learning_rate: what it should become, and why; as data in the plan.
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
    learning_rate: str = ""
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
            "  checked         every name, dtype and shape; every float of the source is finite",
        ]
        lines.append(f"  learning rate   {self.learning_rate}")
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
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> GrowthReport:
    """Grow a checkpoint folder on disk; memory does not grow with the model.

    The target appears under its name when it is complete, and not before: files are written into a hidden folder
    beside it, synced, hashed, and renamed at the end. A call that was killed is finished by the next one with the
    same arguments. Same source, config and seed give the same bytes. No code of the checkpoint is run unless asked for.

    Args:
        source: a folder with safetensors weights, which is only read, or a name on the Hub, which is fetched.
        target: a folder that does not exist, or is empty; folders above it are made.
        config: what growth.
        max_shard_size: of one weight file, in bytes or such as "5GB".
        overwrite: replace a target that an earlier growth wrote.
        revision: of a name on the Hub: branch, tag or commit.
        trust_remote_code: run the modelling code that came with the checkpoint; needs a name on the Hub and a
            revision that is a commit (40 hexadecimal digits).
        allow_pickle: read pickled weights (`pytorch_model.bin`) with torch's `weights_only` guard.
        on_progress: told after each tensor how many bytes of weights are written, and of how many.

    Raises:
        GrowthError: the request or the weights make no sense; nothing is left behind.
        UnsupportedModelError: the architecture cannot be grown so, or not on disk; the message names the reason.
        StoreError: the disk is full or failing, or another process is growing into the same target.
    """
    began = time.monotonic()
    target = Path(os.path.abspath(target))
    check_target(Path(os.path.abspath(source)), target)
    job = prepare_growth(
        source,
        config,
        max_shard_size=max_shard_size,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    hidden = work_folder(target)
    if (finished := _finished(job, target)) is not None:
        if hidden.exists():  # killed between showing the target and tidying up
            with lock(hidden):
                sweep(hidden)
        return finished
    if (target / GROWTH_FILE).is_file() and not overwrite:
        raise GrowthError(
            f"{target} exists and holds another growth. overwrite=True (--overwrite) replaces it; or choose another "
            "target."
        )
    with working_in(hidden, target, job) as work:
        folder = work / "model"
        folder.mkdir(exist_ok=True)
        hashes = write_shards(job, folder, on_progress)
        report = _report(job, target, hashes)
        _write_the_rest(job, folder, report)
        _check_structure(job, folder)
        publish(folder, target, work)
    return GrowthReport(**{**vars(report), "seconds": time.monotonic() - began})


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


def _report(job: GrowthJob, target: Path, hashes: dict[str, str]) -> GrowthReport:
    notes = ["logits were not compared, for that needs both models in memory: hf-bootstrap verify does"]
    if job.quantisation is not None:
        method = job.quantisation.get("quant_method", "unnamed")
        notes.append(
            f"quantised ({method}): every tensor is a copy of its source layer's, byte for byte; names were held "
            "against the architecture's, and the deeper model was not built by its quantiser"
        )
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
        learning_rate=str(job.plan.learning_rate),
        notes=tuple(notes),
    )


def _write_the_rest(job: GrowthJob, folder: Path, report: GrowthReport) -> None:
    for name in job.carried:
        write_atomic(folder / name, job.checkpoint.path(name).read_bytes())
    if (index := shard_index(job.shards)) is not None:
        write_json(folder / INDEX_NAME, index)
    config = job.plan.target_config
    config.architectures = job.plan.source_config.architectures
    found = {"finite": True, "structure": True, "logit_drift": None, "notes": list(report.notes)}
    config.hf_bootstrap = growth_history(job.plan, found)
    if job.quantisation is not None:
        config.quantization_config = dict(job.quantisation)
    write_atomic(folder / "config.json", config.to_json_string(use_diff=True))
    record = {
        "schema": 1,
        "kind": "growth",
        "fingerprint": job.fingerprint,
        "plan": job.plan.to_dict(),
        "source_files": {name: os.stat(job.checkpoint.path(name)).st_size for name in job.checkpoint.files},
        "files": {shard.name: {"bytes": shard.size, "sha256": report.files[shard.name]} for shard in job.shards},
        "report": {**report.to_dict(), "target": None},
    }
    write_json(folder / GROWTH_FILE, record)


def _check_structure(job: GrowthJob, folder: Path) -> None:
    """What lies on the disk, read anew, is what was laid out."""
    planned: dict[str, Entry] = {entry.name: entry for shard in job.shards for entry in shard.entries}
    if dict(open_checkpoint(folder).entries) != planned:
        raise CorruptFileError(f"The files in {folder} are not what was written there. Is the disk failing?")
