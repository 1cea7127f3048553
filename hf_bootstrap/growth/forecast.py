"""What a growth on disk will cost, and whether it fits here, said before anything is written."""

import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..units import format_bytes, format_count
from .architecture import build_meta
from .counting import measure_size
from .job import GrowthJob

__all__ = ["GrowthForecast", "forecast_growth", "free_memory", "training_memory"]

# Python, torch and transformers once imported, and the plan (measured: benchmarks/growth.py).
_IMPORTS = 500_000_000
# Bytes in use for each entry of a block at the same time: the source's, its shares, random numbers, the result.
_PER_ENTRY = 40
_ADAM = "weights and gradients in the stored dtype, two float32 moments; no activations, no master weights"
_ADAM_AFTER = "dequantised to 16 bits: weights and gradients, two float32 moments; no activations, no master weights"


@dataclass(frozen=True, kw_only=True)
class GrowthForecast:
    """What `forecast_growth` found; bytes and FLOPs are raw numbers, `None` means not known.

    Attributes:
        n_params_source, n_params: total, tied once; n_params_non_embedding_source, n_params_non_embedding: without
            tables and head; n_params_active_source, n_params_active: used for one token, None where experts hide it.
        bytes_source, bytes_target, bytes_free: of weights, and of the target's disk.
        peak_ram, ram_free: of the growing process, and of this machine; None where the system does not say.
        training_memory: of one rank that trains the whole grown model with Adam, as `training_memory_of` says.
        flops_per_token: to train on one token at `sequence_length`.
        shards: weight files to be.
        tensors: how many tensors are made how.
        fits: whether disk and memory suffice; problems: what does not.
    """

    n_params_source: int
    n_params: int
    n_params_non_embedding_source: int
    n_params_non_embedding: int
    n_params_active_source: int | None
    n_params_active: int | None
    bytes_source: int
    bytes_target: int
    bytes_free: int
    peak_ram: int
    ram_free: int | None
    training_memory: int
    training_memory_of: str
    flops_per_token: float | None
    sequence_length: int
    shards: int
    tensors: dict[str, int]
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice."""
        return not self.problems

    def __str__(self) -> str:
        flops = "not known" if self.flops_per_token is None else format_count(self.flops_per_token)
        ram = "unknown" if self.ram_free is None else format_bytes(self.ram_free)
        weights = f"{format_bytes(self.bytes_source)} -> {format_bytes(self.bytes_target)} in {self.shards} file(s)"
        active = (self.n_params_active_source, self.n_params_active)
        lines = [] if active == (self.n_params_source, self.n_params) else [_spell_active(*active)]
        lines += [
            f"  weights                 {weights}; {format_bytes(self.bytes_free)} free",
            f"  memory to grow          {format_bytes(self.peak_ram)}; {ram} free",
            f"  memory to train         {format_bytes(self.training_memory)} per rank ({self.training_memory_of})",
            f"  FLOPs per trained token {flops} at {self.sequence_length:,} tokens",
            *(f"  DOES NOT FIT: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "problems": list(self.problems), "fits": self.fits}


def forecast_growth(job: GrowthJob, target: str | os.PathLike[str]) -> GrowthForecast:
    """Say what a growth will take.

    Args:
        job: from `prepare_growth`.
        target: where it would go; nothing is written, and the folder need not exist.
    """
    plan = job.plan
    before, after = (
        measure_size(build_meta(config, job.model_class)) for config in (plan.source_config, plan.target_config)
    )
    text = plan.target_config.get_text_config()
    sequence = min(2048, getattr(text, "max_position_embeddings", None) or 2048)
    largest = max((recipe.block_entries for recipe in plan.recipes if not recipe.is_copy), default=0)
    peak = _IMPORTS + _PER_ENTRY * largest
    dtype_bytes = job.size / max(1, plan.n_params) if job.quantisation is None else 2
    place = next(folder for folder in Path(os.path.abspath(target)).parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    ram = free_memory()
    problems = []
    if job.size > free:
        problems.append(f"{format_bytes(job.size)} of weights, {format_bytes(free)} free on the target's disk")
    if ram is not None and peak > ram:
        problems.append(f"{format_bytes(peak)} of memory, {format_bytes(ram)} free")
    return GrowthForecast(
        n_params_source=plan.n_params_source,
        n_params=plan.n_params,
        n_params_non_embedding_source=plan.n_params_non_embedding_source,
        n_params_non_embedding=plan.n_params_non_embedding,
        n_params_active_source=before.active,
        n_params_active=after.active,
        bytes_source=sum(entry.stop - entry.start for entry in job.checkpoint.entries.values()),
        bytes_target=job.size,
        bytes_free=free,
        peak_ram=peak,
        ram_free=ram,
        training_memory=training_memory(plan.n_params, dtype_bytes),
        training_memory_of=_ADAM if job.quantisation is None else _ADAM_AFTER,
        flops_per_token=after.flops_per_token(sequence),
        sequence_length=sequence,
        shards=len(job.shards),
        tensors=dict(Counter(recipe.operator for recipe in plan.recipes)),
        problems=tuple(problems),
    )


def _spell_active(before: int | None, after: int | None) -> str:
    """In the columns of the plan, which says the other sizes."""
    old, new = ("not known" if size is None else format_count(size) for size in (before, after))
    return f"  {'active for one token':<24}{old:>10} -> {new}"


def training_memory(n_params: int, dtype_bytes: float) -> int:
    """Bytes to train all of a model with Adam: weights and gradients as stored, two float32 moments; no activations."""
    return round(n_params * (2 * dtype_bytes + 8))


def free_memory() -> int | None:
    """Bytes of memory that programs could still take; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
