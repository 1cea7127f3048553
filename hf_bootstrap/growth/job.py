"""`GrowthJob`: a growth on disk worked out in full before a byte is written; carrying it out is for `stream`."""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import GrowthError, UnsupportedModelError
from ..sealing import canonical_json
from .architecture import build_meta, named_tensors
from .carried import CARRIED, files_below, is_real
from .checkpoint import Checkpoint, Match, match_tensors
from .config import GrowthConfig
from .depth import find_layers
from .hub_layout import HubLayout, Part
from .layout import INDEX_NAME, Shard, lay_out, shard_limit
from .layout_cache import known_layout
from .pickled import open_weights
from .plan import GrowthPlan, plan_growth
from .quantised import LayerCopies, check_only_copies, copy_layers, read_quantisation
from .recipe import Recipe
from .source import check_depth, find_source, open_config, remote_class
from .tensors import StoredTensors

__all__ = ["GROWTH_FILE", "MERGE_FILE", "GrowthJob", "prepare_growth"]

GROWTH_FILE = "growth.json"
MERGE_FILE = "merge.json"  # beside weights that an adapter was merged into, see `merging`

# Written anew for the grown model, or no part of it.
_NOT_CARRIED = (
    "config.json",
    INDEX_NAME,
    GROWTH_FILE,
    MERGE_FILE,
    "growth_config.json",
    "trainer_state.json",
    "complete.json",
)
# As safetensors spells them.
_FLOATS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}


@dataclass(frozen=True, kw_only=True)
class GrowthJob:
    """A growth on disk, worked out in full before a byte is written.

    Attributes:
        checkpoint, match: the source and which of its entries are which tensors on disk.
        source: its tensors by the names they have in memory; target: where those of the grown model go on disk.
        model_class: the class a trusted checkpoint brings with it; None for one of transformers' own.
        plan: the growth; recipes: its recipes by the name of the grown tensor in memory; shards: the files it fills.
        quantisation: the config's `quantization_config` of the grown model; None where weights are not quantised.
        carried, left_behind: names of the source's other files that will be copied, and that will not.
        fingerprint: SHA-256 of everything that decides the result.
    """

    checkpoint: Checkpoint
    match: Match
    source: StoredTensors
    target: HubLayout
    model_class: type[PreTrainedModel] | None
    plan: GrowthPlan
    recipes: Mapping[str, Recipe]
    quantisation: Mapping[str, Any] | None
    shards: tuple[Shard, ...]
    carried: tuple[str, ...]
    left_behind: tuple[str, ...]
    fingerprint: str

    @property
    def size(self) -> int:
        """Bytes of the grown weights."""
        return sum(shard.size for shard in self.shards)


def prepare_growth(
    source: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    max_shard_size: str | int = "5GB",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> GrowthJob:
    """Work out a growth on disk: open the source, plan, match every tensor, lay out every byte. Writes nothing.

    Raises:
        GrowthError, UnsupportedModelError, StoreError: as `grow_checkpoint`.
    """
    limit = shard_limit(max_shard_size)
    if not config.grows:
        raise GrowthError("GrowthConfig() asks for no growth, so there is nothing to write. Try depth=2 or width=2.")
    folder = find_source(source, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    checkpoint = open_weights(folder, allow_pickle=allow_pickle)
    check_depth(checkpoint)
    if (quantisation := read_quantisation(folder)) is not None:
        check_only_copies(folder, quantisation, config)
    model_config = open_config(folder, trust_remote_code=trust_remote_code, quantised=quantisation is not None)
    model_class = remote_class(folder, model_config) if trust_remote_code else None
    plan = plan_growth(model_config, config, model_class=model_class)
    model, grown = build_meta(model_config, model_class), build_meta(plan.target_config, model_class)
    if quantisation is None:
        match, source_layout, target = _matched(checkpoint, model, grown)
        shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    else:
        plan, copies = _copied(checkpoint, quantisation, plan, model, grown)
        match, source_layout, target = (
            Match(entries=copies.entries, left_out=copies.left_out),
            copies.source,
            copies.target,
        )
        shapes, quantisation = {name: entry.shape for name, entry in copies.entries.items()}, copies.settings
    tensors = StoredTensors(checkpoint=checkpoint, parts=source_layout.parts, entries=match.entries, shapes=shapes)
    if quantisation is None:
        _check_floats(tensors, model)
    recipes = {recipe.target: recipe for recipe in plan.recipes}
    dtype_of = functools.cache(tensors.dtype)  # one look for each tensor, and not for each of its hundreds of experts
    shards = lay_out(
        ((name, _dtype(name, target, recipes, dtype_of), shape) for name, shape in target.shapes.items()), limit
    )
    carried, left_behind = _other_files(checkpoint)
    return GrowthJob(
        checkpoint=checkpoint,
        match=match,
        source=tensors,
        model_class=model_class,
        target=target,
        plan=plan,
        recipes=recipes,
        quantisation=quantisation,
        shards=shards,
        carried=carried,
        left_behind=left_behind,
        fingerprint=_fingerprint(checkpoint, plan, quantisation, shards, carried),
    )


def _matched(
    checkpoint: Checkpoint, model: PreTrainedModel, grown: PreTrainedModel
) -> tuple[Match, HubLayout, HubLayout]:
    """(which entry is which tensor, where the source's tensors lie, where those of the grown model will)."""
    layout, target = _accepted(known_layout(model), checkpoint), known_layout(grown)
    match = match_tensors(
        checkpoint,
        layout.shapes,
        layout.ties,
        prefix=model.base_model_prefix,
        ignored=model._keys_to_ignore_on_load_unexpected or (),
    )
    return match, layout, target


def _copied(
    checkpoint: Checkpoint,
    quantisation: dict[str, Any],
    plan: GrowthPlan,
    model: PreTrainedModel,
    grown: PreTrainedModel,
) -> tuple[GrowthPlan, LayerCopies]:
    """(the plan with a recipe for each stored tensor, where they lie) of a quantised checkpoint."""
    if odd := next((recipe for recipe in plan.recipes if not recipe.is_copy), None):
        raise UnsupportedModelError(
            f"{checkpoint.folder} holds quantised weights, and the deeper model's {odd.target} is no copy. "
            "Grow the original weights and quantise the result."
        )
    copies = copy_layers(
        checkpoint,
        quantisation,
        known_layout(model),
        known_layout(grown),
        find_layers(plan.source_config, type(model)),
        plan.layer_map,
        model._keys_to_ignore_on_load_unexpected or (),
    )
    return replace(plan, recipes=copies.recipes), copies


def _check_floats(tensors: StoredTensors, model: PreTrainedModel) -> None:
    """Numbers that the architecture takes for floats are stored as floats."""
    for name, tensor in named_tensors(model).items():
        if tensor.is_floating_point() and not (dtype := tensors.dtype(name)).startswith(("F", "BF")):
            raise GrowthError(
                f"{name} is stored as {dtype}, and {model.config.model_type} computes with it as a float. Convert the "
                "checkpoint to bfloat16, or take the original weights."
            )


def _dtype(stored: str, target: HubLayout, recipes: Mapping[str, Recipe], dtype_of: Callable[[str], str]) -> str:
    made = [recipes[part.tensor] for part in target.stored[stored]]
    found = {_stored_dtype(recipe, dtype_of(recipe.source)) for recipe in made}
    if len(found) > 1:
        raise GrowthError(
            f"{stored} is made of tensors of different dtypes ({', '.join(sorted(found))}). Convert them to one first."
        )
    return found.pop()


def _stored_dtype(recipe: Recipe, dtype: str) -> str:
    """What a grown tensor is stored in: as its source, unless the growth asks for another type of float."""
    return _FLOATS[recipe.dtype] if recipe.dtype is not None and dtype in _FLOATS.values() else dtype


def _accepted(layout: HubLayout, checkpoint: Checkpoint) -> HubLayout:
    """The layout of a source: a tensor that lies there under the name and in the shape it has in memory is taken so."""
    parts = dict(layout.parts)
    for name, found in layout.parts.items():
        if name in checkpoint.entries and not any(part.stored in checkpoint.entries for part in found):
            box = tuple((0, length) for length in checkpoint.entries[name].shape)
            parts[name] = (Part(tensor=name, stored=name, box=box),)
    shapes = {part.stored: layout.shapes.get(part.stored, part.shape) for found in parts.values() for part in found}
    return replace(layout, parts=parts, shapes=shapes)


def _other_files(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the source's other files that travel with the weights, and what stays behind)."""
    carried, left_behind = files_below(checkpoint.folder)
    for item in sorted(checkpoint.folder.iterdir()):
        name = item.name
        if name in checkpoint.files or name in _NOT_CARRIED or name.startswith("."):
            continue
        if item.is_dir() and not item.is_symlink():
            continue  # looked through by `files_below`
        is_ours = item.suffix in CARRIED and is_real(item)
        # Another index speaks of weights that are not carried.
        (carried if is_ours and not name.endswith(".index.json") else left_behind).append(name)
    return tuple(sorted(carried)), tuple(sorted(left_behind))


def _fingerprint(
    checkpoint: Checkpoint,
    plan: GrowthPlan,
    quantisation: Mapping[str, Any] | None,
    shards: tuple[Shard, ...],
    carried: tuple[str, ...],
) -> str:
    facts = [(name, os.stat(checkpoint.path(name))) for name in (*checkpoint.files, *carried)]
    digest = hashlib.sha256(canonical_json(plan.to_dict()).encode())
    if quantisation is not None:
        digest.update(canonical_json(dict(quantisation)).encode())
    digest.update(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in facts]).encode())
    for shard in shards:
        digest.update(shard.name.encode() + shard.header)
    return digest.hexdigest()
