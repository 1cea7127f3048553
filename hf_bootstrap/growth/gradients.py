"""Does training reach every tensor of a grown model? One backward pass, and what the zeros in it mean."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .plan import GrowthPlan

__all__ = ["GradientReach", "Watch", "next_token_loss", "reach", "reached_live"]


@dataclass
class Watch:
    """Notes which parameters get a gradient, and frees each gradient at once, so that one is in memory at a time.

    Attributes:
        reached: by parameter name, whether any entry of its gradient is other than zero.
    """

    reached: dict[str, bool] = field(default_factory=dict)

    def on(self, name: str, parameter: nn.Parameter) -> Any:
        """Watch one parameter; the handle that comes back has a `remove`."""
        self.reached.setdefault(name, False)

        def note(weight: Tensor) -> None:
            self.reached[name] = self.reached[name] or (weight.grad is not None and bool((weight.grad != 0).any()))
            weight.grad = None

        return parameter.register_post_accumulate_grad_hook(note)


@dataclass(frozen=True, kw_only=True)
class GradientReach:
    """What a backward pass through a grown model reached.

    Attributes:
        missing: tensors that get no gradient although what they were made from does: they would never train.
        waiting: tensors behind one that was set to zero; they get a gradient after the first step.
        idle: tensors that get none in the source either, such as an expert no token went to.
    """

    missing: tuple[str, ...]
    waiting: int
    idle: int


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean next-token loss, nats per token; logits (sequences, tokens, vocabulary), ids (sequences, tokens)."""
    wanted = ids[:, 1:].reshape(-1).to(logits.device)
    return nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), wanted)


def reached_live(model: nn.Module, ids: Tensor) -> dict[str, bool]:
    """Which parameters of a live model get a gradient on some text; the model is left as it was."""
    watch = Watch()
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    handles = []
    try:
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.grad = None
                parameter.requires_grad_(True)
                handles.append(watch.on(name, parameter))
        device = next(model.parameters()).device
        with torch.enable_grad():
            next_token_loss(model(input_ids=ids.to(device), use_cache=False).logits, ids).backward()
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient
    return watch.reached


def reach(plan: GrowthPlan, grown: Mapping[str, bool], source: Callable[[], Mapping[str, bool]]) -> GradientReach:
    """Say what the tensors without a gradient are.

    Args:
        plan: of the growth.
        grown: by parameter of the grown model, whether it gets a gradient.
        source: gives the same of the source; called only where something got none.
    """
    silent = _parents(r.target for r in plan.recipes if r.scale == 0)
    behind = {name for name, found in grown.items() if not found and any(name.startswith(layer) for layer in silent)}
    zeroed = {recipe.target for recipe in plan.recipes if recipe.scale == 0}
    left = [name for name, found in grown.items() if not found and (name not in behind or name in zeroed)]
    origin = {recipe.target: recipe.source for recipe in plan.recipes}
    theirs = source() if left else {}
    missing = tuple(name for name in left if theirs.get(origin.get(name, name), False))
    return GradientReach(missing=missing, waiting=len(behind - zeroed), idle=len(left) - len(missing))


def _parents(names: Iterable[str]) -> set[str]:
    """Up to the number of the layer: ``model.layers.3.`` of ``model.layers.3.mlp.down_proj.weight``."""
    found = set()
    for name in names:
        words = name.split(".")
        number = next((place for place, word in enumerate(words) if word.isdecimal()), None)
        if number is not None:
            found.add(".".join(words[: number + 1]) + ".")
    return found
