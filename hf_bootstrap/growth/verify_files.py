"""`verify_checkpoint`: holds a grown checkpoint folder against its source, in the memory of one layer.

Names, shapes, hashes, finite numbers, whether the shares of every weight add up, and what the two compute: logits, loss
and gradients, block by block. Live models are for `verify`.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CorruptFileError, GrowthError, UnsupportedModelError, VerificationError
from ..store import read_json
from .blockwise import BlockwiseModel
from .checkpoint import Checkpoint, open_checkpoint
from .config import GrowthConfig
from .drift import Drift, compare_logits
from .gradients import GradientReach, reach
from .hub_layout import Box
from .job import GROWTH_FILE, GrowthJob, prepare_growth
from .probe_text import probe_ids
from .recipe import Recipe
from .tensors import TORCH_DTYPES, StoredTensors
from .verify import allowed_drift, copies_apart
from .verify_report import VerifyReport, conclude
from .writer import check_values, equal_bytes, hash_file

__all__ = ["verify_checkpoint"]

_NOT_RUN = (
    "logits, loss and gradients are not known: the weights are quantised, and were compared byte for byte with those "
    "of their source layers"
)


def verify_checkpoint(
    source: str | os.PathLike[str],
    grown: str | os.PathLike[str],
    text: str | Sequence[int] | None = None,
    *,
    config: GrowthConfig | None = None,
    gradients: bool = True,
    allow_pickle: bool = False,
) -> VerifyReport:
    """Compare a grown checkpoint with its source on disk; one layer of one model is in memory at a time.

    Args:
        source: the folder before growth; grown: the folder after.
        text: text or token ids to compare logits and loss on, at most 512 tokens of a text; default: a built-in text,
            or random tokens where the source has no tokenizer.
        config: how it was grown; default: what `config.json` of `grown` says. A method that is an object stands in no
            file, so a growth by one needs it.
        gradients: run one backward pass as well and see which tensors it reaches.
        allow_pickle: read a source of pickled weights, as `grow_checkpoint` does.

    Returns:
        What was found. An architecture that cannot be run block by block is compared by its tensors alone, and
        `notes` says so.

    Raises:
        VerificationError: a promise was not kept; the message holds the report.
        GrowthError: `grown` does not say how it was grown, or a tensor is missing, misshapen or not finite.
        StoreError: a file cannot be read, or is damaged.
    """
    grown = Path(grown)
    after = open_checkpoint(grown)
    job = prepare_growth(source, config or _recorded_growth(grown), allow_pickle=allow_pickle)
    _check_names(job, after)
    check_values(after, after.entries.values())
    hashes, notes = _compare_hashes(after)
    ids, origin = probe_ids(job.checkpoint.folder, job.plan.source_config, text)
    shapes = {name: recipe.shape for name, recipe in job.recipes.items()}
    stored = StoredTensors(checkpoint=after, parts=job.target.parts, entries=after.entries, shapes=shapes)
    allowed: float | None = None
    with job.source, stored:
        if job.quantisation is not None:
            worst, wrong, differ = *_compare_bytes(job, after), True
            drift, reached, more = None, None, [_NOT_RUN]
        else:
            worst, wrong, differ = _compare_weights(job, stored)
            drift, reached, more = _compare_functions(job, stored, ids, gradients)
            dtype = _rounded(job) or TORCH_DTYPES[job.source.dtype(job.plan.recipes[0].source)]
            allowed = allowed_drift(job.plan, dtype, worst)
    report = conclude(
        job.plan,
        tensors=len(after.entries),
        weight_error=worst,
        wrong=tuple(wrong),
        copies_differ=differ if job.plan.growth.grows_width else None,
        finite=True,  # every number was looked at
        ties_kept=True,  # the names say so: a tied tensor is stored once
        drift=drift,
        allowed=allowed,
        reach=reached,
        hashes_match=hashes,
        n_tokens=0 if drift is None else ids.numel(),
        text=origin,
        precision=str(_precision(job)).removeprefix("torch."),
        notes=(*notes, *more),
    )
    if not report.passed:
        raise VerificationError(f"The grown checkpoint is not what its method promises. Do not train it:\n{report}")
    return report


def _recorded_growth(grown: Path) -> GrowthConfig:
    history = read_json(grown / "config.json").get("hf_bootstrap")
    steps = history.get("growth") if isinstance(history, dict) else None
    if not isinstance(steps, list) or not steps or not isinstance(steps[-1], dict) or "recipe" not in steps[-1]:
        raise GrowthError(
            f"{grown / 'config.json'} does not say how the model was grown, so there is nothing to check. "
            "Name a folder that `grow` made."
        )
    try:
        return GrowthConfig.from_dict(steps[-1]["recipe"])
    except GrowthError as error:
        raise GrowthError(
            f"{grown / 'config.json'} names a growth that is not known here: {error} If it was made by an object of "
            "your own, give it: verify_checkpoint(source, grown, config=GrowthConfig(...))."
        ) from error


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


def _compare_bytes(job: GrowthJob, after: Checkpoint) -> tuple[float, list[str]]:
    """(0 where every tensor is its source's byte for byte, else infinity; those that are not)."""
    wrong = [
        name
        for name, recipe in job.recipes.items()
        if not equal_bytes(after, after.entries[name], job.checkpoint, job.match.entries[recipe.source])
    ]
    return math.inf if wrong else 0.0, wrong


def _compare_weights(job: GrowthJob, after: StoredTensors) -> tuple[float, list[str], bool]:
    """(largest relative error of summed shares, tensors beyond rounding, whether copies differ)."""
    worst, wrong, differ = 0.0, [], True
    for name, recipe in job.recipes.items():
        error, epsilon, apart = _tensor_error(job.source, after, recipe)
        worst = max(worst, error) if not math.isnan(error) else error
        differ = differ and apart
        if not error <= 4 * epsilon:
            wrong.append(name)
    return worst, wrong, differ


def _tensor_error(source: StoredTensors, after: StoredTensors, recipe: Recipe) -> tuple[float, float, bool]:
    """(largest relative error, what one unit of rounding is, whether copies differ or there is nothing to differ)."""
    worst, epsilon, apart, weight = 0.0, 0.0, False, False
    for block in recipe.blocks():
        before = source.box(recipe.source, block)
        epsilon = torch.finfo(recipe.dtype or before.dtype).eps if before.is_floating_point() else 0.0
        if not recipe.shape:
            found, expected = after.tensor(recipe.target).double(), recipe.expected_sum(before)
        else:
            found, expected, differ = _fold(recipe, before, block, after)
            apart, weight = apart or differ, weight or bool((before != 0).any())
        if before.numel():
            size = max(before.double().abs().max().item(), abs(recipe.offset), torch.finfo(torch.float64).tiny)
            worst = max(worst, (found - expected).abs().max().item() / size)
    reads = recipe.reads is not None and recipe.index(recipe.reads) is not None and not recipe.fills
    return worst, epsilon, apart or not reads or not weight


def _fold(recipe: Recipe, before: Tensor, block: Box, after: StoredTensors) -> tuple[Tensor, Tensor, bool]:
    """Of what comes from a block of the source.

    Returns:
        The summed shares; what these should be; both float64. And whether copies of an input differ in them.
    """
    positions, expected = recipe.expected_block(before, block)
    span = tuple((int(units[0]), int(units[-1]) + 1) for units in positions)
    grown = after.box(recipe.target, span)
    for axis, (units, (first, last)) in enumerate(zip(positions, span, strict=True)):
        if len(units) != last - first:
            grown = grown.index_select(axis, units - first)
    index, apart = None if recipe.reads is None else recipe.index(recipe.reads), False
    if recipe.reads is not None and index is not None:
        apart = copies_apart(grown, recipe.reads, index[positions[recipe.reads]])
    return recipe.fold_block(grown, block), expected, apart


def _rounded(job: GrowthJob) -> torch.dtype | None:
    return None if job.plan.growth.dtype is None else getattr(torch, job.plan.growth.dtype)


def _precision(job: GrowthJob) -> torch.dtype:
    """What both models are computed in: what holds every weight, so that drift shows structure and not rounding."""
    dtypes = {job.source.dtype(recipe.source) for recipe in job.plan.recipes}
    return torch.float64 if "F64" in dtypes else torch.float32


def _compare_functions(
    job: GrowthJob, after: StoredTensors, ids: Tensor, gradients: bool
) -> tuple[Drift | None, GradientReach | None, list[str]]:
    """(drift, gradient reach, why one of them is None)."""
    precision = _precision(job)
    try:
        grown = BlockwiseModel(job.plan.target_config, after, precision)
        # A growth that changes the dtype converts first: what it keeps is the converted source.
        source = BlockwiseModel(job.plan.source_config, job.source, precision, _rounded(job))
        drift = compare_logits(source.logits(ids), grown.logits(ids), ids)
    except UnsupportedModelError as error:
        return None, None, [f"logits, loss and gradients are not known: {error}"]
    if not gradients:
        return drift, None, ["gradients were not asked for"]
    try:
        return drift, reach(job.plan, grown.reached(ids), lambda: source.reached(ids)), []
    except UnsupportedModelError as error:
        return drift, None, [f"gradients are not known: {error}"]
