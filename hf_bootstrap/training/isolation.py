"""Whether a model keeps packed documents apart: asked of the model itself, not of a table of architectures."""

from typing import Any

import torch

from ..errors import TrainingError
from .varlen import TORCH_VARLEN

__all__ = ["check_isolation", "leak"]

# Lengths of the documents in two rows: kernels may know where documents begin in a batch of one row only.
_ROWS = ((8, 8), (5, 11))


def leak(model: Any) -> float:
    """How far the logits of packed documents are from those of each alone, relative to the largest.

    Two rows of documents are scored with `position_ids` that start again; 0 up to rounding means that no document sees
    another. The model stays as it is.
    """
    vocabulary = model.config.get_text_config().vocab_size
    device = next(model.parameters()).device
    ids = torch.randint(0, vocabulary, (2, sum(_ROWS[0])), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in _ROWS]).to(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            # Without a mask and without a cache: either makes transformers ignore where documents begin.
            packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            alone = torch.stack([_each_alone(model, ids[i], lengths) for i, lengths in enumerate(_ROWS)])
    finally:
        model.train(was_training)
    return float((packed - alone).abs().max() / alone.abs().max())


def _each_alone(model: Any, ids: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    """The logits of a row's documents, each scored in a forward pass of its own."""
    parts = [model(input_ids=document[None], use_cache=False).logits[0] for document in ids.split(list(lengths))]
    return torch.cat(parts)


def check_isolation(model: Any, tolerance: float = 5e-2) -> None:
    """Refuse to train isolated documents on a model that lets them see each other.

    Args:
        tolerance: above rounding in bfloat16, 0.007 in small models; leaks are 0.3 and more.

    Raises:
        TrainingError: the model does not heed `position_ids`, or does not take them.
    """
    name = model.config._attn_implementation
    try:
        # Its kernel is of GPUs alone; on a CPU, before training, it is asked whether the model heeds positions at all.
        if name == TORCH_VARLEN and next(model.parameters()).device.type == "cpu":
            model.set_attn_implementation("sdpa")
        found = leak(model)
    except TypeError as error:
        raise TrainingError(
            f"{type(model).__name__} takes no position_ids ({error}), so packed documents cannot be kept apart. "
            "Train without isolation."
        ) from error
    finally:
        if model.config._attn_implementation != name:
            model.set_attn_implementation(name)
    # Also true of a NaN, which a broken model gives.
    if not found <= tolerance:
        raise TrainingError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention lets packed documents see each "
            f"other: their logits differ from those of each alone by {found:.1g} of their size. Train without "
            "isolation, or take another attention implementation."
        )
