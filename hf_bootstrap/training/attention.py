"""Which attention implementation runs here, and why; the answer is stored in every point."""

from dataclasses import dataclass

import torch

__all__ = ["Attention", "choose_attention"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The name transformers knows an implementation by, and the reason it was chosen."""

    name: str
    reason: str


def choose_attention(asked: str | None = None) -> Attention:
    """Take what was asked for, else FlashAttention where a GPU and the package are, else PyTorch's own.

    Args:
        asked: a value of transformers' `attn_implementation`.
    """
    if asked is not None:
        return Attention(name=asked, reason="asked for")
    if not torch.cuda.is_available():
        return Attention(name="sdpa", reason="no GPU here; transformers' default")
    from transformers.utils.import_utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        return Attention(name="flash_attention_2", reason="flash-attn is installed and a GPU is here")
    return Attention(name="sdpa", reason="flash-attn is not installed; PyTorch's sdpa has its own flash kernel on GPU")
