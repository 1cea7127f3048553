"""Tokens and parameters, counted exactly in each of the field's senses, and what a token costs."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..growth.plan import count_parameters, whole_shape
from ..units import training_flops_per_token

__all__ = ["FLOPS_FORMULA", "ModelSize", "TokenCounter", "measure_size"]

FLOPS_FORMULA = "6*N_matmul + 6*layers*heads*head_dim*sequence_length per trained token (causal half)"


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Parameter counts of a model.

    Attributes:
        total: every parameter once, tied ones counted once; a LoRA's too.
        non_embedding: without embedding tables, the output head and a LoRA, which merges into what it stands beside; N
            of most scaling laws.
        active: used for one token, a LoRA's too; None where experts make it unknown here.
        matmul: weights in matrix products, output head included even if tied.
        layers, attention_width: for the attention term; None where the config does not say.
        is_whole: whether all of it is trained; frozen weights have no gradient to compute, and no formula here.
    """

    total: int
    non_embedding: int
    active: int | None
    matmul: int
    layers: int | None
    attention_width: int | None
    is_whole: bool = True

    def flops_per_token(self, sequence_length: int) -> float | None:
        """Training FLOPs of one token by `FLOPS_FORMULA`; None where its shape is not known or a part is frozen."""
        if self.layers is None or self.attention_width is None or self.active is None or not self.is_whole:
            return None
        return training_flops_per_token(self.matmul, self.layers, self.attention_width, sequence_length)


def measure_size(model: Any) -> ModelSize:
    """Count a transformers model.

    Args:
        model: a `PreTrainedModel` with `get_input_embeddings` and `get_output_embeddings`.
    """
    total, non_embedding = count_parameters(model)
    head = model.get_output_embeddings()
    of_head = set() if head is None else {id(p) for p in head.parameters()}
    inside = {name: p for name, p in model.named_parameters() if id(p) not in of_head}
    # An adapter of the head lies in the head's wrapper, and is left out with it.
    non_embedding -= sum(math.prod(whole_shape(p)) for name, p in inside.items() if ".lora_" in name)
    shapes = [whole_shape(p) for p in inside.values()]
    vectors = sum(math.prod(shape) for shape in shapes if len(shape) < 2)
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    has_experts = any(getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    return ModelSize(
        total=total,
        non_embedding=non_embedding,
        active=None if has_experts else total,
        matmul=non_embedding - vectors + (0 if head is None else math.prod(whole_shape(head.weight))),
        layers=getattr(config, "num_hidden_layers", None),
        attention_width=heads * width if heads and width else None,
        is_whole=all(parameter.requires_grad for parameter in model.parameters()),
    )


class TokenCounter:
    """Counts what a model is trained on, by looking at each forward pass in training mode.

    Three counts, never mixed: `tokens` carry loss, `tokens_seen` are not padding, `token_slots` are all positions.

    Attributes:
        seconds: spent looking since it was attached.
    """

    def __init__(self) -> None:
        self._hook: Any = None
        self._start((0, 0, 0), torch.device("cpu"))

    def _start(self, before: Sequence[int], device: torch.device) -> None:
        self._before = tuple(before)
        # What only the tensors know is added up on their device, so that no step waits for it.
        self._trained = torch.zeros((), dtype=torch.int64, device=device)
        self._masked = torch.zeros((), dtype=torch.int64, device=device)
        self._slots, self._has_masks = 0, False
        self.seconds = 0.0

    def attach(self, model: nn.Module, before: Sequence[int]) -> None:
        """Start to count on `model`; `before` are the three counts of all processes up to now."""
        self.detach()  # a run that was interrupted never came to its end, where the hook is removed
        self._start(before, next(model.parameters()).device)
        self._hook = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def detach(self) -> None:
        """Stop counting."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def totals(self) -> tuple[int, int, int]:
        """The three counts over all processes."""
        trained, masked, slots = int(self._trained), int(self._masked) if self._has_masks else 0, self._slots
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            here = torch.tensor([trained, masked, slots], device=self._trained.device)
            torch.distributed.all_reduce(here)
            trained, masked, slots = here.tolist()
        return self._before[0] + trained, self._before[1] + slots - masked, self._before[2] + slots

    def _look(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not model.training:
            return
        began = time.perf_counter()
        ids, labels = kwargs.get("input_ids"), kwargs.get("labels")
        if ids is None or labels is None:
            raise TrainingError(
                "a training step reached the model without input_ids or labels, so its tokens cannot be counted. "
                "Let the collator give both by name."
            )
        mask = kwargs.get("attention_mask")
        targets: Tensor = kwargs["shift_labels"] if kwargs.get("shift_labels") is not None else labels[..., 1:]
        # Each small operation costs as much as the next here, so there are as few as can be.
        self._trained += targets.ne(-100).sum().to(self._trained.device)
        self._slots += ids.numel()
        if mask is not None and mask.dim() == 2:
            self._has_masks = True
            self._masked += (ids.numel() - mask.sum()).to(self._masked.device)
        self.seconds += time.perf_counter() - began
