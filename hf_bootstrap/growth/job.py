"""`GrowthJob`: a growth on disk worked out in full before a byte is written; carrying it out is for `stream`."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import GrowthError, UnsupportedModelError
from ..records import canonical_json
from ..store import read_json
from .architecture import build_meta, find_ties, named_tensors
from .checkpoint import Checkpoint, Match, check_regular, match_tensors, open_checkpoint
from .config import GrowthConfig
from .layout import INDEX_NAME, Shard, lay_out, shard_limit
from .plan import GrowthPlan, plan_growth
from .recipe import Recipe

__all__ = ["GROWTH_FILE", "GrowthJob", "prepare_growth"]

GROWTH_FILE = "growth.json"

# What travels with the weights unchanged: tokenizers, templates, generation settings, and remote code (never run).
_CARRIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab", ".spm")
_NOT_CARRIED = ("config.json", INDEX_NAME, GROWTH_FILE, "growth_config.json", "trainer_state.json", "complete.json")


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
