"""`verify_checkpoint`: holds a grown checkpoint folder against its source, in pieces, without loading either model.

Names, shapes, hashes, finite numbers, and whether the shares of every weight add up. Where both models fit in memory
`verify` compares what they compute as well; where they do not, the report says so.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ..errors import CorruptFileError, GrowthError, VerificationError
from ..store import read_json
from ..units import format_bytes
from .checkpoint import Checkpoint, open_checkpoint
from .config import GrowthConfig
from .forecast import free_memory
from .job import GROWTH_FILE, GrowthJob, prepare_growth
from .recipe import Recipe
from .tensors import StoredTensors
from .verify import VerifyReport, verify_growth
from .writer import check_values, hash_file

__all__ = ["FilesReport", "verify_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class FilesReport:
    """What `verify_checkpoint` found. `None` means not known; `notes` then says why.

    Attributes:
        passed: every promise that could be checked was kept.
        tensors: how many were compared.
        hashes_match: every file has the SHA-256 that growth.json gives it.
        weight_error: largest |sum of shares - source| over all tensors, relative to the largest entry of the tensor's
            piece; 0.0 means bit-exact.
        wrong: tensors whose shares do not add up beyond one rounding each, at most five names.
        function: the comparison of logits and loss; None where it was not run.
        notes: what was not checked, and why.
    """

    passed: bool
    tensors: int
    hashes_match: bool | None
    weight_error: float
    wrong: tuple[str, ...]
    function: VerifyReport | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        hashes = {None: "not known", True: "as in growth.json", False: "OTHER than in growth.json"}[self.hashes_match]
        equal = "equal bit for bit" if self.weight_error == 0 else f"differ by {self.weight_error:.1e}"
        lines = [
            f"Files {'passed' if self.passed else 'FAILED'}",
            f"  tensors         {self.tensors}, each named and shaped as planned, ties stored once, all finite",
            f"  hashes          {hashes}",
            f"  weights         {equal} once copies are added up",
            *(f"  WRONG           {name}" for name in self.wrong),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines if self.function is None else [*lines, str(self.function)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        function = None if self.function is None else self.function.to_dict()
        return {**vars(self), "wrong": list(self.wrong), "notes": list(self.notes), "function": function}


def verify_checkpoint(
    source: str | os.PathLike[str], grown: str | os.PathLike[str], text_ids: Sequence[int] | None = None
) -> FilesReport:
    """Compare a grown checkpoint with its source on disk.

    Args:
        source: the folder before growth; grown: the folder after.
        text_ids: token ids to compare logits and loss on; default: random tokens.

    Raises:
        VerificationError: a promise was not kept; the message holds the report.
        GrowthError: `grown` does not say how it was grown, or a tensor is missing, misshapen or not finite.
        StoreError: a file cannot be read, or is damaged.
    """
    source, grown = Path(source), Path(grown)
    after = open_checkpoint(grown)
    job = prepare_growth(source, _recorded_growth(grown))
    _check_names(job, after)
    check_values(after, after.entries.values())
    hashes, notes = _compare_hashes(after)
    shapes = {name: recipe.shape for name, recipe in job.recipes.items()}
    stored = StoredTensors(checkpoint=after, parts=job.target.parts, entries=after.entries, shapes=shapes)
    with job.source, stored:
        worst, wrong = _compare_weights(job, stored)
    function, reason = _compare_functions(job, grown, text_ids)
    report = FilesReport(
        passed=hashes is not False and (not wrong or not job.plan.growth.shares_add_up),
        tensors=len(after.entries),
        hashes_match=hashes,
        weight_error=worst,
        wrong=tuple(wrong[:5]),
        function=function,
        notes=tuple(note for note in (*notes, reason) if note),
    )
    if not report.passed:
        raise VerificationError(f"The grown checkpoint is not what its method promises. Do not train it:\n{report}")
    return report


def _recorded_growth(grown: Path) -> GrowthConfig:
    history = read_json(grown / "config.json").get("hf_bootstrap")
    steps = history.get("growth") if isinstance(history, dict) else None
    if not isinstance(steps, list) or not steps or not isinstance(steps[-1], dict) or "recipe" not in steps[-1]:
        raise GrowthError(
            f"{grown / 'config.json'} does not say how the model was grown, so there is nothing to check."
        )
    return GrowthConfig.from_dict(steps[-1]["recipe"])


def _check_names(job: GrowthJob, after: Checkpoint) -> None:
    planned = {entry.name: (entry.dtype, entry.shape) for shard in job.shards for entry in shard.entries}
    found = {entry.name: (entry.dtype, entry.shape) for entry in after.entries.values()}
    for name in sorted(set(planned) | set(found)):
        if planned.get(name) != found.get(name):
            raise VerificationError(
                f"{name} is {found.get(name, 'missing')} in {after.folder}; planned was {planned.get(name, 'no such')}."
            )


def _compare_hashes(after: Checkpoint) -> tuple[bool | None, list[str]]:
    path = after.folder / GROWTH_FILE
    if not path.is_file():
        return None, [f"there is no {GROWTH_FILE} beside the weights, so their hashes are not known"]
    files = read_json(path).get("files")
    try:
        stated = {str(name): record["sha256"] for name, record in dict(files or {}).items()}
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptFileError(f"{path} states no hashes. It was not written by a growth.") from error
    return stated == {name: hash_file(after.path(name)) for name in after.files}, []


def _compare_weights(job: GrowthJob, after: StoredTensors) -> tuple[float, list[str]]:
    """(largest relative error of summed shares, tensors beyond rounding)."""
    worst, wrong = 0.0, []
    for name, recipe in job.recipes.items():
        error, epsilon = _tensor_error(job.source, after, recipe)
        worst = max(worst, error) if not math.isnan(error) else error
        if not error <= 4 * epsilon:
            wrong.append(name)
    return worst, wrong


def _tensor_error(source: StoredTensors, after: StoredTensors, recipe: Recipe) -> tuple[float, float]:
    worst, epsilon = 0.0, 0.0
    for start, stop in recipe.blocks():
        before = source.rows(recipe.source, start, stop)
        epsilon = torch.finfo(recipe.dtype or before.dtype).eps if before.is_floating_point() else 0.0
        if not recipe.shape:
            found, expected = after.tensor(recipe.target).double(), recipe.expected_sum(before)
        else:
            found, expected = _fold(recipe, before, start, after)
        if before.numel():
            size = max(before.double().abs().max().item(), abs(recipe.offset), torch.finfo(torch.float64).tiny)
            worst = max(worst, (found - expected).abs().max().item() / size)
    return worst, epsilon


def _fold(recipe: Recipe, before: Tensor, start: int, after: StoredTensors) -> tuple[Tensor, Tensor]:
    """(summed shares of the grown rows that come from some rows of the source, what they should sum to); float64."""
    positions, expected = recipe.expected_rows(before, start)
    first, last = int(positions[0]), int(positions[-1]) + 1
    grown = after.rows(recipe.target, first, last)[positions - first].double()
    return recipe.fold_rows(grown, positions, start, len(before)), expected


def _compare_functions(job: GrowthJob, grown: Path, text_ids: Sequence[int] | None) -> tuple[VerifyReport | None, str]:
    """(report, ""), or (None, why the models were not loaded)."""
    # Half-precision weights are compared as float32 copies, so each model may be there twice.
    needed, free = 6 * (job.plan.n_params + job.plan.n_params_source), free_memory()
    if free is None or needed > free // 2:
        room = "an unknown amount is" if free is None else f"{format_bytes(free)} are"
        return None, f"logits and loss were not compared: both models take {format_bytes(needed)}, and {room} free"
    models = [
        AutoModelForCausalLM.from_pretrained(path, local_files_only=True) for path in (job.checkpoint.folder, grown)
    ]
    return verify_growth(models[0], models[1], text_ids, plan=job.plan), ""
