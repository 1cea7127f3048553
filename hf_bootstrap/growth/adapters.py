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
from .checkpoint import read_header, real_file
from .config import GrowthConfig
from .operators import width_method
from .plan import GrowthPlan, plan_growth
from .quantised import check_only_copies, read_quantisation
from .recipe import Recipe
from .source import open_config

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "AdapterReport",
    "GrownAdapter",
    "LoraAdapter",
    "grow_adapter",
    "open_adapter",
    "prepare_adapter",
]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<leaf>lora_(embedding_)?[AB])(\.weight)?")
_TABLE = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")
# What a LoRA config may ask for that this growth does not carry over, and why; each is off when it is empty.
_REFUSED = {
    "use_dora": "DoRA also holds the length of every row of the sum, which copies and shares change",
    "use_qalora": "QA-LoRA pools its input in groups, which copies cut",
    "use_bdlora": "its factors are block-diagonal, and blocks do not follow the axes of the base",
    "lora_bias": "it holds biases of its own beside B",
    "modules_to_save": "it holds whole copies of base modules, which would have to grow as the base does",
    "target_parameters": "it adapts bare parameters such as fused experts, whose axes are not those of a matrix",
    "layer_replication": "it repeats layers of the base by itself",
    "trainable_token_indices": "it holds rows of the token table",
    "megatron_config": "its layers are Megatron's",
    "arrow_config": "it routes among adapters",
}
# Initialisations that leave the base as it is; others (PiSSA, OLoRA, LoftQ ...) subtract something from it first.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """An adapter as it lies in its folder.

    Attributes:
        settings: its adapter_config.json.
        matrices: by module of the base, the two factors: "lora_A" (r, in) and "lora_B" (out, r), or "lora_embedding_A"
            (r, rows) and "lora_embedding_B" (width, r).
        tables: by name in the file, whole tables of the base, which PEFT stores beside adapters of them.
    """

    settings: Mapping[str, Any]
    matrices: Mapping[str, Mapping[str, Tensor]]
    tables: Mapping[str, Tensor]

    def pattern(self, name: str, module: str) -> Any:
        """The entry of `rank_pattern` or `alpha_pattern` for a module, as PEFT finds it; None if there is none."""
        entries = self.settings.get(name) or {}
        return next((v for k, v in entries.items() if re.match(rf"(.*\.)?({k})$", module)), None)

    def scaling(self, module: str) -> float:
        """The factor `s` of a module's adapter."""
        alpha = self.pattern("alpha_pattern", module) or self.settings.get("lora_alpha", 8)
        rank = next(iter(self.matrices[module].values())).shape[0]
        return float(alpha) / (rank**0.5 if self.settings.get("use_rslora") else rank)


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
    """A grown adapter that is not written yet: its `tensors` and `settings` by name, and the `report` of it."""

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    report: AdapterReport


def grow_adapter(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    base: str | os.PathLike[str],
    grown_base: str | None = None,
) -> AdapterReport:
    """Grow a LoRA adapter as its base is grown.

    Args:
        source: the adapter's folder, as PEFT writes it; it is only read.
        target: a folder that does not exist, is empty, or holds what an earlier call with the same arguments wrote.
        config: the growth of the base; the same seed gives shares of the same kind.
        base: the folder of the base before growth; only its config is read.
        grown_base: what `base_model_name_or_path` becomes; default: it stays, and the report says so.

    Raises:
        UnsupportedModelError: another method than LoRA, or a kind of it that cannot be carried over, and why.
        GrowthError: the adapter is not one of this base, or the target is not empty.
        StoreError: a file is missing or cannot be written.
    """
    made = prepare_adapter(source, target, config, base=base, grown_base=grown_base)
    if not os.path.lexists(made.report.target) or not any(Path(made.report.target).iterdir()):
        _write(Path(made.report.target), made.tensors, made.settings)
    return made.report


def prepare_adapter(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    base: str | os.PathLike[str],
    grown_base: str | None = None,
) -> GrownAdapter:
    """Make a grown adapter and write nothing: what `grow_adapter` would refuse is refused before hours of growth.

    Args and raises: as `grow_adapter`.
    """
    target = Path(os.path.abspath(target))
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
    _check_target(target, tensors, settings)
    report = AdapterReport(
        target=str(target),
        modules_source=len(adapter.matrices),
        modules=len(origins),
        keeps_function=config.keeps_function,
        notes=(*notes, *plan.deviations),
    )
    return GrownAdapter(tensors=tensors, settings=settings, report=report)


def _check_target(target: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """The target is free, or holds this very adapter from an earlier call."""
    from safetensors.torch import load_file

    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if all((target / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        read_header(target / ADAPTER_WEIGHTS)
        found = load_file(target / ADAPTER_WEIGHTS)
        same = set(found) == set(tensors) and all(torch.equal(found[name], tensors[name]) for name in found)
        if same and read_json(target / ADAPTER_CONFIG) == json.loads(json.dumps(settings)):
            return
    raise GrowthError(
        f"{target} exists and is not an empty folder, nor this adapter grown before; choose another target."
    )


def open_adapter(folder: str | os.PathLike[str]) -> LoraAdapter:
    """Read an adapter.

    Raises:
        UnsupportedModelError: another method than LoRA, or a kind of it this library does not carry over.
        StoreError, CorruptFileError: a file is missing or damaged.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    settings = read_json(real_file(folder / ADAPTER_CONFIG))
    _check_settings(folder, settings)
    weights = real_file(folder / ADAPTER_WEIGHTS)
    read_header(weights)
    matrices: dict[str, dict[str, Tensor]] = {}
    tables: dict[str, Tensor] = {}
    for name, tensor in load_file(weights).items():
        found = _NAME.fullmatch(name)
        if _TABLE.fullmatch(name):
            tables[name] = tensor
            continue
        if found is None or tensor.dim() != 2:
            raise UnsupportedModelError(
                f"{weights} holds {name} {list(tensor.shape)}, which is no factor of a matrix (lora_A, lora_B, "
                "lora_embedding_A, lora_embedding_B). Merge it with PEFT (merge_and_unload) and grow the result."
            )
        if not torch.isfinite(tensor).all():
            raise GrowthError(f"{name} of {weights} holds NaN or infinity. Use a sound adapter.")
        matrices.setdefault(found["module"], {})[found["leaf"]] = tensor
    for module, pair in matrices.items():
        if sorted(pair) not in (["lora_A", "lora_B"], ["lora_embedding_A", "lora_embedding_B"]):
            raise GrowthError(f"{weights} holds {', '.join(sorted(pair))} for {module}; a pair of factors is needed.")
    return LoraAdapter(settings=settings, matrices=matrices, tables=tables)


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"{folder} is an adapter of type {kind}; only LORA grows. Merge it with PEFT first."
        )
    for name, why in _REFUSED.items():
        if settings.get(name):
            raise UnsupportedModelError(
                f"{folder} sets {name}={settings[name]!r}: {why}. Merge it with PEFT (merge_and_unload), and grow that."
            )
    if settings.get("bias", "none") != "none":
        raise UnsupportedModelError(
            f"{folder} sets bias={settings['bias']!r}: it holds biases of the base. Merge it first."
        )
    start = settings.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise UnsupportedModelError(
            f"{folder} sets init_lora_weights={start!r}, which changes the base when it is loaded. Convert it to plain "
            "LoRA with PEFT (path_initial_model_for_weight_conversion), or merge it first."
        )


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
        made = by_module[_TABLE.fullmatch(name)["module"]]  # type: ignore[index]
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
