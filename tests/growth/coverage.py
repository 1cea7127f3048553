"""`python -m tests.growth.coverage`: which of the causal language models transformers knows can be grown, measured.

Every type of `AutoModelForCausalLM` is built tiny with every parameter random, grown, and held against an oracle from
outside the growth code: width and identity depth against the model itself, other depths against the base's own
modules put one after the other. Each type runs in a process of its own with a limit on time and memory; results are
kept in a file, so a run that was cut off goes on where it stopped. The last step writes `docs/architectures.md`.
"""

import argparse
import copy
import json
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_bootstrap import grow_checkpoint
from hf_bootstrap.errors import BootstrapError, UnsupportedModelError
from hf_bootstrap.growth.bootstrap import grow_model
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.depth import Layers, find_layers
from hf_bootstrap.growth.plan import NEARLY, GrowthPlan, plan_growth

from .agreement import STRICT, NotCertified, compare, probe_ids, runs, take_a_step
from .float64 import all_in_float64
from .zoo import LAYERS, MODEL_TYPES, tiny_model

SECONDS, MEMORY = 150, 12 << 30
DEPTHS = {name: GrowthConfig(depth=2, depth_method=name) for name in ("stack", "interpose", "identity", "midas")}
ZERO_PAD = GrowthConfig(width=2, width_method="zero_pad")
Factors = dict[str, int | Fraction]
FACTORS: tuple[Factors, ...] = (
    {"hidden": 2, "mlp": 2, "heads": 2, "kv_heads": 2},
    {"hidden": 3, "mlp": 5, "heads": 4, "kv_heads": 2},
    {"hidden": 2, "mlp": 1, "heads": 1, "kv_heads": 1},
    {"hidden": 1, "mlp": 3, "heads": 1, "kv_heads": 1},
    {"hidden": 1, "mlp": 1, "heads": 2, "kv_heads": 1},
    {"hidden": 1, "mlp": 1, "heads": 2, "kv_heads": 2},
)
# Sizes that need no whole copies, for zero_pad: all together, and each alone.
HALF = Fraction(3, 2)
PADS: tuple[Factors, ...] = (
    {"hidden": HALF, "mlp": HALF, "heads": 2, "kv_heads": 1},
    {"hidden": 2, "mlp": HALF, "heads": 2, "kv_heads": 2},
    {"hidden": HALF, "mlp": 1, "heads": 1, "kv_heads": 1},
    {"hidden": 1, "mlp": HALF, "heads": 1, "kv_heads": 1},
    {"hidden": 1, "mlp": 1, "heads": 2, "kv_heads": 1},
    {"hidden": 1, "mlp": 1, "heads": 2, "kv_heads": 2},
)


class NotBuilt(Exception):
    """No tiny model of the type could be built or run."""


def examine(model_type: str) -> dict[str, Any]:
    """What growth does: ``{"built": error or None, "depth": {method: result}, "width": ..., "disk": ...}``."""
    try:
        return _examine(model_type)
    except NotBuilt as error:
        reason = str(error)
    try:  # code that computes in float32 beside weights in float64 fails, unless it is held back
        torch.set_default_dtype(torch.float64)
        with all_in_float64():
            return _examine(model_type)
    except NotBuilt:
        return {"built": reason}
    finally:
        torch.set_default_dtype(torch.float32)


def _examine(model_type: str) -> dict[str, Any]:
    try:
        source = tiny_model(model_type, dtype=torch.float64)
        runs(source, (ids := probe_ids()))
    except Exception as error:
        raise NotBuilt(_spell(error)) from error
    depth: dict[str, dict[str, Any]] = {}
    for name, growth in {**DEPTHS, "solar": _solar(source)}.items():
        saved = any(result["verdict"] == "certified" for result in depth.values())
        depth[name] = _result(lambda growth=growth, saved=saved: _depth(source, ids, growth, reload=not saved))
    width = _result(lambda: _width(source, ids, GrowthConfig(width=2), FACTORS))
    padded = _result(lambda: _width(source, ids, ZERO_PAD, PADS))
    disk = _result(lambda: _disk(source, depth, width, padded))
    return {"built": None, "depth": depth, "width": width, "zero_pad": padded, "disk": disk}


def _solar(source: PreTrainedModel) -> GrowthConfig:
    """Half as deep again, rounded to an even number."""
    try:
        count = find_layers(source.config, type(source)).count
    except BootstrapError:
        count = LAYERS
    return GrowthConfig(num_hidden_layers=count + (count // 4) * 2 + count % 2, depth_method="solar")


def _result(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"verdict": "certified", **check()}
    except BootstrapError as error:
        return {"verdict": "refused", "reason": " ".join(str(error).split())}
    except Exception as error:  # noqa: BLE001  (whatever happens is a finding)
        return {"verdict": "WRONG", "reason": _spell(error)}


def _spell(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def _depth(source: PreTrainedModel, ids: Tensor, growth: GrowthConfig, *, reload: bool) -> dict[str, Any]:
    plan = plan_growth(source.config, growth, model_class=type(source))
    grown = grow_model(source, plan).eval()
    layers = find_layers(source.config, type(source))
    _check_config(source, grown, plan, layers)
    reference = source if growth.keeps_function else assembled_by_hand(source, plan, layers)
    if not growth.keeps_function:
        _check_equal_layers(source, grown, plan, layers)
    found = compare(grown, reference, ids, reload=reload)
    return {**found, "moved": take_a_step(grown, source, _fresh(plan), ids)} if reload else found


def _fresh(plan: GrowthPlan) -> set[str]:
    """Tensors that the growth made: larger than their source, or another copy of one that was used before."""
    first: dict[str, str] = {}
    for recipe in plan.recipes:
        first.setdefault(recipe.source, recipe.target)
    return {r.target for r in plan.recipes if not r.is_copy or first[r.source] != r.target}


def _width(source: PreTrainedModel, ids: Tensor, growth: GrowthConfig, cases: Sequence[Factors]) -> dict[str, Any]:
    """The worst of the cases that are not refused; copies must manage all sizes x2, new units any one case."""
    errors, plain, moved, reason = [], 0.0, 0, None
    for factors in cases:
        try:
            plan = plan_growth(source.config, growth, model_class=type(source), factors=factors)
        except BootstrapError as error:
            if growth is not ZERO_PAD and factors is cases[0]:
                raise
            reason = reason or error
            continue
        try:
            reload, allowed = not errors, NEARLY if plan.deviations else STRICT
            grown = grow_model(source, plan).eval()
            found = compare(grown, source, ids, reload=reload, allowed=allowed)
            moved = take_a_step(grown, source, _fresh(plan), ids) if reload else moved
        except NotCertified as error:
            raise NotCertified(f"{error} at { ({name: str(factor) for name, factor in factors.items()}) }") from None
        errors.append(found["error"])
        plain = max(plain, found["as_it_runs"])
    if reason is not None and not errors:
        raise reason
    return {"error": max(errors), "as_it_runs": plain, "cases": len(errors), "moved": moved}


def _disk(
    source: PreTrainedModel, depth: dict[str, Any], width: dict[str, Any], padded: dict[str, Any]
) -> dict[str, Any]:
    """Growth on disk against growth in memory: the same names, the same bits, and a loader that misses nothing."""
    depths = {**DEPTHS, "solar": _solar(source)}
    growths = [depths[name] for name, found in depth.items() if found["verdict"] == "certified"][:1]
    growths += [GrowthConfig(width=2)] if width["verdict"] == "certified" else []
    growths += [ZERO_PAD] if padded.get("cases") == len(PADS) else []
    if not growths:
        raise UnsupportedModelError("no growth of this type is certified in memory.")
    for growth in growths:
        grown = grow_model(source, plan_growth(source.config, growth, model_class=type(source)))
        with tempfile.TemporaryDirectory() as name:
            base, ours, theirs = (Path(name) / folder for folder in ("base", "ours", "theirs"))
            source.save_pretrained(base)
            grow_checkpoint(base, ours, growth)
            grown.save_pretrained(theirs)
            left, right = _stored(ours), _stored(theirs)
            if set(left) != set(right):
                raise NotCertified(f"on disk {sorted(set(left) ^ set(right))[0]} is in one of two")
            if wrong := [key for key in left if not torch.equal(left[key], right[key])]:
                raise NotCertified(f"on disk {wrong[0]} is not what growth in memory makes")
            _, found = type(source).from_pretrained(ours, output_loading_info=True)
            if any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
                raise NotCertified(f"the grown checkpoint loads with {found}")
    return {"cases": len(growths)}


def _stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assembled_by_hand(source: PreTrainedModel, plan: GrowthPlan, layers: Layers) -> PreTrainedModel:
    """The base's own modules, put one after the other in a copy of the base."""
    reference = copy.deepcopy(source)
    for prefix in layers.prefixes:
        old = reference.get_submodule(prefix)
        new = nn.ModuleList([copy.deepcopy(old[number]) for number in plan.layer_map])
        for number, layer in enumerate(new):
            for module in layer.modules():
                for name in ("layer_idx", "layer_id", "layer_number", "layer_index", "layer_index_in_type"):
                    if isinstance(getattr(module, name, None), int):
                        setattr(module, name, number)
        holder, _, name = prefix.rpartition(".")
        setattr(reference.get_submodule(holder), name, new)
    for name, module in reference.named_modules():
        if layers.split(name + ".") is None:
            for key, tensor in list(module.named_parameters(recurse=False)):
                _repeat_blocks(module, key, tensor, plan, f"{name}.{key}".lstrip("."))
    _share_config(reference, plan)
    return reference


def _repeat_blocks(module: nn.Module, key: str, tensor: Tensor, plan: GrowthPlan, name: str) -> None:
    """A table with a block for each layer gets the blocks of the new layers."""
    wanted = next((recipe.shape for recipe in plan.recipes if recipe.target == name), tuple(tensor.shape))
    n_layers = max(plan.layer_map) + 1
    for axis, (old, new) in enumerate(zip(tensor.shape, wanted, strict=True)):
        if old != new:
            parts = torch.chunk(tensor.data, n_layers, dim=axis)
            tensor = nn.Parameter(torch.cat([parts[number] for number in plan.layer_map], dim=axis))
    setattr(module, key, tensor)


def _share_config(reference: PreTrainedModel, plan: GrowthPlan) -> None:
    """Modules read the depth and the kinds of layers from the config when they run."""
    target = copy.deepcopy(plan.target_config)
    by_type = {type(target): target}
    for name in target.sub_configs:
        part = getattr(target, name, None)
        by_type[type(part)] = part
    for module in reference.modules():
        config = getattr(module, "config", None)
        if type(config) in by_type:
            module.config = by_type[type(config)]
        for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"):
            if isinstance(getattr(module, name, None), int) and getattr(module, name) == max(plan.layer_map) + 1:
                setattr(module, name, len(plan.layer_map))


def _check_config(source: PreTrainedModel, grown: PreTrainedModel, plan: GrowthPlan, layers: Layers) -> None:
    part = layers.fields[0].rpartition(".")[0]
    before, after = (m.config.to_dict() if not part else getattr(m.config, part).to_dict() for m in (source, grown))
    for name, values in after.items():
        old = before.get(name)
        if isinstance(values, list) and isinstance(old, list) and len(old) == layers.count and old != values:
            numbers = [new for new, source_layer in enumerate(plan.layer_map) if source_layer in old]
            if values not in ([old[i] for i in plan.layer_map], numbers):
                raise NotCertified(f"config list {name} is {values}, source {old}")


def _check_equal_layers(source: PreTrainedModel, grown: PreTrainedModel, plan: GrowthPlan, layers: Layers) -> None:
    old, new = source.state_dict(), grown.state_dict()
    for name, tensor in new.items():
        if (part := layers.split(name)) is not None:
            theirs = old[f"{part[0]}.{plan.layer_map[part[1]]}.{part[2]}"]
            if not torch.equal(tensor, theirs):
                raise NotCertified(f"{name} is not the source layer's")
    if len({layers.split(name)[:2] for name in new if layers.split(name)}) != len(plan.layer_map) * len(
        layers.prefixes
    ):
        raise NotCertified("the grown model has another number of layers than planned")


def _each(types: list[str], jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every type in a forked process of its own; transformers is imported once."""
    waiting, running = list(types), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            model_type = waiting.pop(0)
            answer = tempfile.TemporaryFile()  # noqa: SIM115  (read when the process has ended)
            if (pid := os.fork()) == 0:
                _child(model_type, answer)
            running[pid] = (model_type, answer)
        pid, status = os.wait()
        model_type, answer = running.pop(pid)
        answer.seek(0)
        text = answer.read()
        yield model_type, json.loads(text) if text else {"built": f"killed by its limit or a signal ({status})"}


def _child(model_type: str, answer: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(20 * SECONDS)  # for what waits; a busy machine makes everything slow
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    answer.write(json.dumps(examine(model_type)).encode())
    answer.flush()
    os._exit(0)


def main() -> None:
    """Examine every type not yet in the results file, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="only these; default: all")
    parser.add_argument("--results", type=Path, default=Path("architectures.jsonl"), help="kept between runs")
    parser.add_argument("--write", type=Path, help="the table, such as docs/architectures.md")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    results: dict[str, dict[str, Any]] = {}
    if arguments.results.exists() and not arguments.types:
        results = {r["type"]: r for r in map(json.loads, arguments.results.read_text().splitlines())}
    todo = [t for t in arguments.types or MODEL_TYPES if t not in results]
    for model_type, result in _each(todo, arguments.jobs):
        results[model_type] = {"type": model_type, **result}
        with arguments.results.open("a") as file:
            file.write(json.dumps(results[model_type]) + "\n")
        print(model_type, json.dumps(result), file=sys.stderr)
    if arguments.write:
        from .coverage_table import table

        arguments.write.write_text(table(results, MODEL_TYPES))


if __name__ == "__main__":
    main()
