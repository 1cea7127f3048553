"""LoRA adapters (PEFT folders) grow with their base: base and adapter together compute what they computed.

A layer with an adapter computes W x + s B A x. A reads what W reads, so its input axis is shared among copies as that
of W is; B writes what W writes, so its output axis is gathered as that of W is. Ranks stay. What W is scaled by, B is
scaled by. Merging an adapter into its base is for `merging`.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import GrowthError, StoreError, UnsupportedModelError
from ..store import read_json, sync_folder, write_json
from .anatomy import Segment
from .checkpoint import read_header
from .config import GrowthConfig
from .lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TABLE, LoraAdapter, open_adapter
from .operators import width_method
from .plan import GrowthPlan, plan_growth
from .quantised import check_only_copies, read_quantisation
from .recipe import Recipe
from .source import open_config

__all__ = ["AdapterReport", "GrownAdapter", "grow_adapter", "prepare_adapter"]


@dataclass(frozen=True, kw_only=True)
class AdapterReport:
    """What `grow_adapter` did.

    Attributes:
        target: the grown adapter.
        modules_source, modules: how many modules of the base had an adapter, and have one.
        keeps_function: whether grown base and grown adapter are promised to compute what both computed.
        notes: what a user must know.
    """

    target: str
    modules_source: int
    modules: int
    keeps_function: bool
    notes: tuple[str, ...]

    def __str__(self) -> str:
        kept = "kept, with the base grown by the same config" if self.keeps_function else "changed, or not promised"
        lines = [f"Adapter grown to {self.target}", f"  modules         {self.modules_source} -> {self.modules}"]
        return "\n".join([*lines, f"  function        {kept}", *(f"  note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True, kw_only=True)
class GrownAdapter:
    """A grown adapter, made and perhaps not written yet.

    Attributes:
        tensors, settings: of its two files.
        report: what was done.
    """

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    report: AdapterReport

    def write(self) -> AdapterReport:
        """Write it where it goes; an earlier call that wrote the same has done so.

        Raises:
            GrowthError: something else is there.
            StoreError: it cannot be written.
        """
        if not self.is_there():
            _write(Path(self.report.target), self.tensors, self.settings)
        return self.report

    def is_there(self) -> bool:
        """Whether an earlier call has written it.

        Raises:
            GrowthError: something else is in its place.
        """
        from safetensors.torch import load_file

        target = Path(self.report.target)
        if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
            return False
        if all((target / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
            read_header(target / ADAPTER_WEIGHTS)
            found = load_file(target / ADAPTER_WEIGHTS)
            same = set(found) == set(self.tensors) and all(torch.equal(found[n], self.tensors[n]) for n in found)
            if same and read_json(target / ADAPTER_CONFIG) == json.loads(json.dumps(self.settings)):
                return True
        raise GrowthError(
            f"{target} exists and is not an empty folder, nor this adapter grown before; choose another target."
        )


def grow_adapter(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    base: str | os.PathLike[str],
    grown_base: str | None = None,
) -> AdapterReport:
    """Grow a LoRA adapter as its base is grown, and write it: `prepare_adapter` and `GrownAdapter.write`."""
    return prepare_adapter(source, target, config, base=base, grown_base=grown_base).write()


def prepare_adapter(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    base: str | os.PathLike[str],
    grown_base: str | None = None,
) -> GrownAdapter:
    """Make a grown adapter and write nothing, so that what cannot be is refused before hours of growth.

    Args:
        source: the adapter's folder, as PEFT writes it; it is only read.
        target: a folder that does not exist, is empty, or holds what an earlier call with the same arguments wrote.
        config: the growth of the base; the same seed gives shares of the same kind.
        base: the folder of the base before growth; only its config is read.
        grown_base: what `base_model_name_or_path` becomes; default: it stays, and the report says so.

    Raises:
        UnsupportedModelError: another method than LoRA, or a kind of it that cannot be carried over, and why.
        GrowthError: the adapter is not one of this base, or the target holds something else.
        StoreError: a file is missing.
    """
    adapter = open_adapter(source)
    if (quantisation := read_quantisation(Path(base))) is not None:
        check_only_copies(Path(base), quantisation, config)
    plan = plan_growth(open_config(Path(base), quantised=True), config)
    if width_method(config.width_method).next_layer and config.grows_width:
        raise UnsupportedModelError(
            "aki takes new units from the next layer, whose adapter has other ranks, so no pair of factors gives their "
            "sum. Merge the adapter into its base first (merge_adapter, --merge-adapter), or choose split."
        )
    tensors, origins, left_out = _grown_tensors(adapter, plan)
    settings = _grown_settings(adapter, plan, origins)
    notes = [f"not in the grown model, so left out: {', '.join(left_out)}"] if left_out else []
    if grown_base is None:
        notes.append("base_model_name_or_path still names the base before growth; load the adapter onto the grown one")
    else:
        settings["base_model_name_or_path"] = grown_base
    report = AdapterReport(
        target=os.path.abspath(target),
        modules_source=len(adapter.matrices),
        modules=len(origins),
        keeps_function=config.keeps_function,
        notes=(*notes, *plan.deviations),
    )
    made = GrownAdapter(tensors=tensors, settings=settings, report=report)
    made.is_there()  # refuses a target that holds something else
    return made


def _grown_tensors(adapter: LoraAdapter, plan: GrowthPlan) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """(tensors by name in the file, source module by grown module, modules without a place in the grown model)."""
    tensors: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    known: set[str] = set()
    recipes = {recipe.target: recipe for recipe in plan.recipes}
    # A tied head is read as the table is, but by its own name.
    heads = {
        name: replace(recipes[first], target=name, source=name) for name, first in plan.ties.items() if first in recipes
    }
    for recipe in (*plan.recipes, *heads.values()):
        module = recipe.source.removesuffix(".weight")
        known.add(module)
        if module not in adapter.matrices or recipe.source == module:
            continue
        target = recipe.target.removesuffix(".weight")
        for leaf, factor in adapter.matrices[module].items():
            name = f"base_model.model.{target}.{leaf}" + ("" if "embedding" in leaf else ".weight")
            made = _factor_recipe(recipe, leaf, name, factor, tied_head=recipe.target in heads)
            grown = made.grow(factor, plan.operator, plan.growth.seed)
            if grown.shape != made.shape:
                raise GrowthError(
                    f"{name} would be {list(grown.shape)}, not {list(made.shape)}. "
                    "The adapter is of another base; name its own."
                )
            tensors[name] = grown
        origins[target] = module
    by_module = {recipe.target.removesuffix(".weight"): recipe for recipe in (*plan.recipes, *heads.values())}
    for name, table in adapter.tables.items():
        # The table of the base itself, so it grows as it does there, by the same random numbers.
        made = by_module[TABLE.fullmatch(name)["module"]]  # type: ignore[index]
        own = recipes.get(made.target) or recipes[plan.ties[made.target]]
        tensors[name] = own.grow(table, plan.operator, plan.growth.seed)
    left_out = sorted(set(adapter.matrices) - set(origins.values()))
    if strange := [module for module in left_out if module not in known]:
        sources = {recipe.source.removesuffix(".weight") for recipe in plan.recipes}
        raise GrowthError(
            f"The adapter adapts {strange[0]}, which the base does not have (it has {len(sources)} tensors, such as "
            f"{min(sources)}). Is it an adapter of this base?"
        )
    return tensors, origins, left_out


def _factor_recipe(recipe: Recipe, leaf: str, name: str, factor: Tensor, *, tied_head: bool) -> Recipe:
    """How a factor grows, from how its weight grows."""
    plain = Recipe(
        target=name, source=name, shape=tuple(factor.shape), factors=recipe.factors, kv_heads=recipe.kv_heads
    )
    scaled = replace(plain, scale=recipe.scale)
    if not recipe.axes or all(recipe.index(axis) is None for axis in range(len(recipe.axes))):
        _check_width(recipe, leaf, factor, recipe.shape)
        return plain if leaf.endswith("A") else scaled
    length = [sum(segment.length for segment in axis) for axis in recipe.axes]
    _check_width(recipe, leaf, factor, tuple(length))
    rank = (Segment(dimension=None, length=factor.shape[0 if leaf.endswith("A") else 1]),)
    if tied_head:
        # The head reads whole copies, and the norm before it makes up for their number: so does A.
        if leaf == "lora_B":
            return plain
        fills = ("copy", "zero") if recipe.fills else ()
        shape = (factor.shape[0], recipe.shape[1])
        return replace(scaled, shape=shape, axes=(rank, recipe.axes[1]), fills=fills)
    reads = 1 if recipe.reads is None else recipe.reads
    if leaf == "lora_embedding_A":
        return plain
    if leaf == "lora_A":
        fills = ("copy", "zero") if recipe.fills else ()
        shape = (factor.shape[0], recipe.shape[reads])
        return replace(
            plain,
            shape=shape,
            axes=(rank, recipe.axes[reads]),
            reads=1,
            operator=recipe.operator,
            fills=fills,
        )
    writes = 1 if leaf == "lora_embedding_B" else 1 - reads
    silent = "mean" if recipe.fills and recipe.fills[writes] == "mean" else "zero"
    fills = (silent, "copy") if recipe.fills else ()
    shape = (recipe.shape[writes], factor.shape[1])
    return replace(scaled, shape=shape, axes=(recipe.axes[writes], rank), fills=fills)


def _check_width(recipe: Recipe, leaf: str, factor: Tensor, shape: tuple[int, ...]) -> None:
    width = factor.shape[1 if leaf.endswith("A") else 0]
    if len(shape) != 2 or width not in shape:
        raise GrowthError(
            f"The adapter's {leaf} for {recipe.source} is {list(factor.shape)}, the base's weight {list(shape)}. Is it "
            "an adapter of this base?"
        )


def _grown_settings(adapter: LoraAdapter, plan: GrowthPlan, origins: Mapping[str, str]) -> dict[str, Any]:
    """The config of the grown adapter: the same, unless it speaks of layers by number."""
    settings = dict(adapter.settings)
    names = settings.get("target_modules")
    patterns = [key for name in ("rank_pattern", "alpha_pattern") for key in settings.get(name) or {}]
    by_number = settings.get("layers_to_transform") is not None or isinstance(names, str)
    by_number = by_number or any(re.search(r"\d", word) for word in [*(names or []), *patterns])
    if not plan.growth.grows_depth or not by_number:
        return settings
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        settings[name] = None
    settings["target_modules"] = sorted(origins)
    ranks = {re.escape(new): next(iter(adapter.matrices[old].values())).shape[0] for new, old in origins.items()}
    settings["rank_pattern"] = {name: rank for name, rank in ranks.items() if rank != settings.get("r")}
    alphas = {re.escape(new): adapter.pattern("alpha_pattern", old) for new, old in origins.items()}
    settings["alpha_pattern"] = {name: alpha for name, alpha in alphas.items() if alpha is not None}
    return settings


def _write(target: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    work = target.parent / f".{target.name[:100]}.adapter"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        save_file(
            {name: t.contiguous() for name, t in sorted(tensors.items())}, work / ADAPTER_WEIGHTS, {"format": "pt"}
        )
        with open(work / ADAPTER_WEIGHTS, "rb") as file:
            os.fsync(file.fileno())
        write_json(work / ADAPTER_CONFIG, json.loads(json.dumps(settings)))
        os.rename(work, target)
        sync_folder(target.parent)
    except OSError as error:
        raise StoreError(f"{target} could not be written: {error}. Nothing is left behind.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
