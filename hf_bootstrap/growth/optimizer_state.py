"""Adam's state beside a checkpoint: left behind, or grown with the weights as far as a rule for it exists.

With equal shares (`clone`) the gradient of a weight that writes a unit with `c` copies is 1/c of the old one, for its
readers hold 1/c each; a weight that reads copies keeps its gradient. So the first moment is gathered on every axis
and divided by the copies of what is written, the second by their square; a tensor scaled by s has gradients of 1/s.
This is exact (tests/growth/test_optimizer_state.py holds it to Adam on the grown model). For unequal shares no rule
is exact, since a copy's gradient then mixes the shares of its readers: the same rule is used, and named approximate.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import CorruptFileError, GrowthError, StoreError, UnsupportedModelError
from ..store import sync_folder
from .architecture import build_meta, find_ties, named_tensors
from .checkpoint import real_file
from .config import GrowthConfig
from .index_maps import copy_ranks, gather
from .operators import width_method
from .plan import GrowthPlan, plan_growth
from .recipe import Recipe
from .source import open_config

__all__ = ["OPTIMIZER_FILE", "OptimizerReport", "grow_optimizer_state", "grown_moments"]

OPTIMIZER_FILE = "optimizer.pt"

_SQUARES = ("exp_avg_sq", "max_exp_avg_sq")
_KNOWN = ("step", "exp_avg", *_SQUARES)


@dataclass(frozen=True, kw_only=True)
class OptimizerReport:
    """What became of Adam's state.

    Attributes:
        how: "reset", "grow" or "asymmetric".
        file: what was written; None after a reset.
        exact, approximate, new: how many tensors have the state Adam would have had, a state near it, and none yet.
        notes: why what is not exact is not.
    """

    how: str
    file: str | None
    exact: int
    approximate: int
    new: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        if self.how == "reset":
            return "Optimizer state: reset. Training starts with fresh moments; warm up again."
        counts = f"{self.exact} tensors exact, {self.approximate} approximate, {self.new} new"
        place = "" if self.file is None else f", in {self.file}"
        return "\n".join([f"Optimizer state: {counts}{place}", *(f"  note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}


def grow_optimizer_state(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: GrowthConfig,
    *,
    how: Literal["reset", "grow", "asymmetric"] = "reset",
) -> OptimizerReport:
    """Grow the Adam state of a Trainer's checkpoint, for the grown checkpoint beside which it goes.

    Needs memory for both states: four times the parameters of both models, in float32 bytes 8 for each.

    Args:
        source: a checkpoint that `transformers.Trainer` wrote, with `optimizer.pt`; it is read without running code.
        target: the grown checkpoint's folder; `optimizer.pt` is written there.
        config: the growth that made it.
        how: "reset" writes nothing: training starts with fresh moments. "grow" gives every tensor the state it would
            have had, exactly where a rule exists. "asymmetric" does so for the old units and sets the first moment of
            new ones to zero, so that copies part sooner (after SPARKLING, arXiv:2602.02472); their second moment is
            kept, for Adam's step count is one for a whole tensor, and a zero would make their first steps too long.

    Raises:
        GrowthError: the target is not that growth of the source, or `how` is unknown.
        UnsupportedModelError: the state is not Adam's, or its parameters cannot be told.
        StoreError: a file is missing or cannot be written.
        CorruptFileError: the state is damaged, or holds more than tensors and numbers.
    """
    if how not in ("reset", "grow", "asymmetric"):
        raise GrowthError(f"how is {how!r}; an optimizer state can be 'reset', 'grow' or 'asymmetric'.")
    source, target = Path(source), Path(target)
    if how == "reset":
        return OptimizerReport(how=how, file=None, exact=0, approximate=0, new=0, notes=())
    after = build_meta(open_config(target))
    plan = plan_growth(open_config(source), config)
    _check_target(plan, after, target)
    states, groups, settings, report = _grown(source, plan, after, how)
    names = [name for group in groups for name in group]
    numbered = {number: states[name] for number, name in enumerate(names) if name in states}
    _write(target / OPTIMIZER_FILE, {"state": numbered, "param_groups": _numbered(settings, groups)})
    return replace(report, file=str(target / OPTIMIZER_FILE))


def grown_moments(
    source: str | os.PathLike[str], model: PreTrainedModel, config: GrowthConfig
) -> tuple[dict[str, dict[str, Any]], OptimizerReport]:
    """Adam's state for a grown model in memory, by the names of its parameters.

    Args:
        source: as `grow_optimizer_state` takes it.
        model: the grown model; only names and shapes are looked at.
        config: the growth that made it; `GrowthConfig()` where there was none.

    Returns:
        The state of every parameter that has one, and what became of it; nothing is written.

    Raises:
        GrowthError, UnsupportedModelError, StoreError, CorruptFileError: as `grow_optimizer_state` does.
    """
    source = Path(source)
    plan = plan_growth(open_config(source), config)
    _check_target(plan, model, "the model")
    states, _, _, report = _grown(source, plan, model, "grow")
    return states, report


def _grown(
    source: Path, plan: GrowthPlan, after: PreTrainedModel, how: str
) -> tuple[dict[str, dict[str, Any]], list[list[str]], list[dict[str, Any]], OptimizerReport]:
    """States by name, the names in every group, the groups' settings in the source, and the report."""
    before = build_meta(plan.source_config)
    old = _load(source / OPTIMIZER_FILE)
    groups = _groups(before, old, source)
    states = _states(before, groups, old, source)
    grown_groups = _grouped_alike(before, after, groups, plan)
    grown: dict[str, dict[str, Any]] = {}
    counts, notes = {"exact": 0, "approximate": 0, "new": 0}, []
    recipes = {recipe.target: recipe for recipe in plan.recipes}
    firsts = {recipe.source: recipe.target for recipe in reversed(plan.recipes)}
    for name in (name for group in grown_groups for name in group):
        recipe = recipes[name]
        found = states.get(recipe.source)
        if found is None:
            continue
        is_copy = firsts[recipe.source] != name
        if recipe.scale == 0 or (is_copy and (how == "asymmetric" or plan.growth.adds_nothing)):
            grown[name], kind = _fresh_state(recipe, found), "new"
        else:
            grown[name] = _grown_state(recipe, found, asymmetric=how == "asymmetric")
            reason = "copies were reset on request" if how == "asymmetric" and recipe.axes else _inexact(recipe, plan)
            kind = "approximate" if reason or is_copy else "exact"
            notes += [reason] if reason else ["a copied layer takes its source's moments"] if is_copy else []
        counts[kind] += 1
    report = OptimizerReport(how=how, file=None, notes=tuple(dict.fromkeys(notes)), **counts)
    return grown, grown_groups, old["param_groups"], report


def _grown_state(recipe: Recipe, state: Mapping[str, Any], *, asymmetric: bool) -> dict[str, Any]:
    grown: dict[str, Any] = {"step": state["step"].clone()} if "step" in state else {}
    for name in ("exp_avg", *_SQUARES):
        if name not in state:
            continue
        moment, power = state[name], 2 if name in _SQUARES else 1
        if recipe.fills:
            grown[name] = _padded(recipe, moment, square=power == 2) / recipe.scale**power
            continue
        for axis in range(len(recipe.axes)):
            if (index := recipe.index(axis)) is None:
                continue
            moment = gather(moment, axis, index)
            if axis != recipe.reads:
                copies = torch.bincount(index)[index].to(moment.dtype)
                moment = moment / _along(copies, axis, moment.dim()) ** power
        grown[name] = moment / recipe.scale**power
    if asymmetric and not recipe.fills:
        grown["exp_avg"] = torch.where(_later(recipe), 0, grown["exp_avg"])
    return grown


def _padded(recipe: Recipe, moment: Tensor, *, square: bool) -> Tensor:
    """Old units keep their moment; new ones have no first one, and the mean of the second, or steps would be long."""
    rest = moment.mean() if square else torch.zeros(())
    grown = rest.to(moment.dtype).expand(recipe.shape).clone()
    old = _later(recipe).logical_not().expand(recipe.shape)
    grown[old] = moment.reshape(-1)
    return grown


def _later(recipe: Recipe) -> Tensor:
    """Which entries belong to a new unit: a second or later copy, or one that is no copy."""
    later = torch.zeros([1] * len(recipe.shape), dtype=torch.bool)
    for axis in range(len(recipe.axes)):
        if (index := recipe.index(axis)) is not None:
            fresh = recipe.fresh(axis)
            later = later | _along(copy_ranks(index) > 0 if fresh is None else fresh, axis, len(recipe.shape))
    return later


def _fresh_state(recipe: Recipe, state: Mapping[str, Any]) -> dict[str, Any]:
    """As Adam begins: a tensor that starts to learn now has its own count of steps."""
    zeros = {name: torch.zeros(recipe.shape, dtype=state[name].dtype) for name in state if name != "step"}
    return {**({"step": torch.zeros_like(state["step"])} if "step" in state else {}), **zeros}


def _inexact(recipe: Recipe, plan: GrowthPlan) -> str:
    """Why the grown state of a tensor is not what Adam would have had; empty if it is."""
    growth = plan.growth
    if growth.grows_depth and not growth.adds_nothing:
        return "new layers change the function, and with it every gradient"
    grown = {s.dimension for axis in recipe.axes for s in axis if plan.factors.get(s.dimension or "", 1) != 1}
    if not growth.grows_width:
        return ""
    method = width_method(growth.width_method)
    if method.fresh:
        return "new units have no moments yet; those of old ones are exact" if grown else ""
    if growth.width_method != "clone":
        return f"the shares of {growth.width_method!s:.40} are unequal, so no rule is exact"
    if "kv_heads" in grown and recipe.kv_heads < _heads(plan):
        return "copies of a key head that several heads share come to serve different ones"
    return ""


def _heads(plan: GrowthPlan) -> int:
    text = plan.source_config.get_text_config()
    return int(getattr(text, "num_attention_heads", 1))


def _check_target(plan: GrowthPlan, model: PreTrainedModel, target: str | Path) -> None:
    planned = {recipe.target: recipe.shape for recipe in plan.recipes}
    found = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    for name in sorted(set(planned) | set(found)):
        if planned.get(name) != found.get(name):
            raise GrowthError(
                f"{target} is not this growth of the source: {name} is {found.get(name, 'missing')} there, and this "
                f"growth makes it {planned.get(name, 'not at all')}. Give the config that made it."
            )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StoreError(f"There is no {path}; a Trainer writes it unless save_only_model is set. Choose how='reset'.")
    try:
        record = torch.load(real_file(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may fail in any way it likes
        raise CorruptFileError(
            f"{path} is no state of tensors and numbers: {str(error)[:200]} Leave it out."
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("state"), dict) or "param_groups" not in record:
        raise CorruptFileError(f"{path} is no optimizer state: it has no state and param_groups.")
    return record


def _groups(model: PreTrainedModel, old: Mapping[str, Any], source: Path) -> list[list[str]]:
    """The names of the parameters of every group, in the order the optimizer numbers them."""
    from transformers import Trainer

    names = [name for name, _ in model.named_parameters()]
    sizes = [len(group["params"]) for group in old["param_groups"]]
    if sizes == [len(names)]:
        return [names]
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    groups = [[name for name in names if name in decayed], [name for name in names if name not in decayed]]
    if sizes == [len(group) for group in groups]:
        return groups
    raise UnsupportedModelError(
        f"{source / OPTIMIZER_FILE} has groups of {sizes} parameters; the Trainer makes {[len(g) for g in groups]} for "
        "this model, so which state belongs to which parameter is not known. Choose how='reset'."
    )


def _states(
    model: PreTrainedModel, groups: list[list[str]], old: Mapping[str, Any], source: Path
) -> dict[str, Mapping[str, Any]]:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    numbers = [number for group in old["param_groups"] for number in group["params"]]
    states: dict[str, Mapping[str, Any]] = {}
    for number, name in zip(numbers, [name for group in groups for name in group], strict=True):
        state = old["state"].get(number)
        if state is None:
            continue
        if "exp_avg" not in state or set(state) - set(_KNOWN):
            raise UnsupportedModelError(
                f"{source / OPTIMIZER_FILE} holds {', '.join(map(str, state))} for {name}, which is not Adam's state "
                "as torch keeps it (8-bit and factored optimizers keep others). Choose how='reset'."
            )
        for key, moment in state.items():
            if key != "step" and (not isinstance(moment, Tensor) or tuple(moment.shape) != shapes[name]):
                raise CorruptFileError(
                    f"{source / OPTIMIZER_FILE}: {key} of {name} has not the shape of the parameter. It is of "
                    "another model; leave it out."
                )
        states[name] = {**state, **({"step": torch.as_tensor(state["step"])} if "step" in state else {})}
    return states


def _grouped_alike(
    before: PreTrainedModel, after: PreTrainedModel, groups: list[list[str]], plan: GrowthPlan
) -> list[list[str]]:
    """The grown model's parameters, in the groups of their sources and in their own order."""
    sources = {recipe.target: recipe.source for recipe in plan.recipes}
    home = {name: number for number, group in enumerate(groups) for name in group}
    ties = find_ties(before)
    names = [name for name, _ in after.named_parameters()]
    place = {name: home[ties.get(sources[name], sources[name])] for name in names}
    return [[name for name in names if place[name] == number] for number in range(len(groups))]


def _numbered(groups: list[dict[str, Any]], names: list[list[str]]) -> list[dict[str, Any]]:
    numbered, start = [], 0
    for group, own in zip(groups, names, strict=True):
        rest = {key: value for key, value in group.items() if key != "param_names"}
        numbered.append({**rest, "params": list(range(start, start + len(own)))})
        start += len(own)
    return numbered


def _write(path: Path, record: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    try:
        torch.save(record, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path} could not be written: {error}. Is the disk full?") from error


def _along(values: Tensor, axis: int, dim: int) -> Tensor:
    shape = [1] * dim
    shape[axis] = -1
    return values.reshape(shape)
