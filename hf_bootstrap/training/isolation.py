"""Whether a model keeps packed documents apart: asked of the model itself, not of a table of architectures."""

from typing import Any

import torch

from ..errors import TrainingError

__all__ = ["check_isolation", "leak"]

_DOCUMENT = 8


def leak(model: Any) -> float:
    """How much one packed document changes the logits of the next, relative to their largest.

    Two streams that differ in their first document only are scored with `position_ids` that start again; 0 up to
    rounding means that the second document does not see the first. The model stays as it is.
    """
    vocabulary = model.config.get_text_config().vocab_size
    device = next(model.parameters()).device
    chance = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(0, vocabulary, (_DOCUMENT,), generator=chance) for _ in range(3))
    positions = torch.arange(_DOCUMENT).repeat(2)[None].to(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            # Without a mask and without a cache: either makes transformers ignore where documents begin.
            answers = [
                model(
                    input_ids=torch.cat([before, second])[None].to(device), position_ids=positions, use_cache=False
                ).logits[0, _DOCUMENT:]
                for before in (first, other)
            ]
    finally:
        model.train(was_training)
    difference = (answers[0] - answers[1]).abs().max() / answers[0].abs().max()
    return float(difference)


def check_isolation(model: Any, tolerance: float = 1e-2) -> None:
    """Refuse to train isolated documents on a model that lets them see each other.

    Args:
        tolerance: above rounding in bfloat16; leaks are of the order of 0.1 and more.

    Raises:
        TrainingError: the model does not heed `position_ids`, or does not take them.
    """
    try:
        found = leak(model)
    except TypeError as error:
        raise TrainingError(
            f"{type(model).__name__} takes no position_ids ({error}), so packed documents cannot be kept apart. "
            "Train without isolation."
        ) from error
    # Also true of a NaN, which a broken model gives.
    if not found <= tolerance:
        raise TrainingError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention lets packed documents see each "
            f"other: one changes the logits of the next by {found:.1g} of their size. Train without isolation, or take "
            "another attention implementation."
        )
