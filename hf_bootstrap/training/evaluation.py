"""Loss on held-out text that depends on the model and the text alone.

Sums and counts are kept apart and in fp64, so batch size, padding and the number of processes do not
change the answer; the Trainer's own eval loss averages batches and does depend on them.
"""

import math
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import DataError

__all__ = ["Evaluation", "evaluate", "from_first_process"]


_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss on one set: `sum` of nats over `count` scored tokens, and the UTF-8 `bytes` they spell, if known."""

    sum: float
    count: int
    bytes: int | None

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.sum / self.count

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte: comparable between tokenizers."""
        return self.sum / math.log(2) / self.bytes if self.bytes else None


def evaluate(model: nn.Module, dataset: Any, *, batch_size: int = 16) -> Evaluation:
    """Score every token of a data set once.

    Args:
        model: a causal LM; left in the mode (train or eval) it came in.
        dataset: items with `input_ids` and, where they differ, `labels` (-100 is not scored); lengths may differ. Items
            with `position_ids` hold documents that do not see each other.
        batch_size: items scored at a time; it changes the speed, not the result.

    Returns:
        Sums over the whole set, the same on every process.

    Raises:
        DataError: nothing to score.
    """
    rank, world = _world()
    device = next(model.parameters()).device
    total = torch.zeros(2, dtype=torch.float64, device=device)
    length = _length(dataset)
    indices = range(rank, length, world)
    # As many passes on every process: where weights are in shards (FSDP, ZeRO-3), each pass waits for all of them.
    most = -(-length // world)
    was_training = model.training
    model.eval()
    try:
        # Not inference_mode: FSDP2 keeps buffers from the first pass, and could not train with those afterwards.
        with torch.no_grad():
            for start in range(0, most, batch_size):
                items = [dataset[i] for i in indices[start : start + batch_size]]
                scored = _score(model, items or [dataset[0]], device)
                total += scored if items else 0
    finally:
        model.train(was_training)
    if world > 1:
        torch.distributed.all_reduce(total)
    if total[1] == 0:
        raise DataError("the evaluation set has no token to score. Give it text of at least two tokens.")
    return Evaluation(sum=total[0].item(), count=int(total[1].item()), bytes=getattr(dataset, "text_bytes", None))


def _score(model: nn.Module, items: list[Mapping[str, Any]], device: torch.device) -> Tensor:
    """(sum of nats, tokens scored) of one batch, fp64."""
    ids, labels, mask = _pad(items)
    more: dict[str, Tensor] = {}
    if "position_ids" in items[0]:
        # With a mask, packed documents see each other. Padding on the right needs none: what is scored comes before it.
        positions = [torch.as_tensor(item["position_ids"]) for item in items]
        more["position_ids"] = nn.utils.rnn.pad_sequence(positions, batch_first=True).to(device)
    elif not bool(mask.all()):
        # A mask of ones changes the kernels: give one only for padding.
        more["attention_mask"] = mask.to(device)
    logits = model(input_ids=ids.to(device), use_cache=False, **more).logits[:, :-1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    nats = nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:].to(device), reduction="none")
    count = (labels[:, 1:] != -100).sum().to(device)
    return torch.stack([nats.double().sum(), count.double()])


def _pad(items: list[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-pad to the longest item: ids, labels, mask, each (batch, longest)."""
    ids = [torch.as_tensor(item["input_ids"]) for item in items]
    labels = [torch.as_tensor(item.get("labels", item["input_ids"])) for item in items]
    pad = nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100), mask


def _length(dataset: Any) -> int:
    if not isinstance(dataset, Sized):
        raise DataError(
            f"an evaluation set must have a length, {type(dataset).__name__} has none. Use a map-style dataset."
        )
    return len(dataset)


def from_first_process(ask: Callable[[], _T]) -> _T:
    """What `ask` returns on the first process, on every process; elsewhere it is not called."""
    rank, world = _world()
    answer: list[Any] = [ask() if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(answer)
    return answer[0]  # type: ignore[no-any-return]


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
