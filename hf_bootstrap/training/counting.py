"""Tokens, counted exactly in each of the field's senses; parameters are counted by `growth.counting`."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError

__all__ = ["TokenCounter"]


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
