"""PyTorch's own FlashAttention over documents of any length, as an attention implementation of transformers.

sdpa keeps packed documents apart by a mask, and with a mask it cannot use its flash kernel. Here the kernel is told
where documents begin instead. When that is worth it is decided in `attention`.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError

__all__ = ["TORCH_VARLEN", "is_available", "register"]


def _arguments() -> frozenset[str]:
    """Of this PyTorch's kernel; none where it has no kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


_ARGUMENTS = _arguments()
# Without "flash" in it: transformers would take a name with it for one of the packages.
TORCH_VARLEN = "torch_varlen"
# Of the last position_ids: (tensor, its version, where documents begin, the longest). Every layer asks the same.
_known: tuple[Tensor, int, Tensor, int] | None = None


def is_available() -> bool:
    """Whether this PyTorch has the kernel in the form that is used here (2.11; earlier ones had no windows)."""
    return {"window_size", "scale"} <= _ARGUMENTS


def register() -> None:
    """Make `attn_implementation="torch_varlen"` known to transformers; twice does no harm."""
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(TORCH_VARLEN, _attend)
    AttentionMaskInterface.register(TORCH_VARLEN, flash_attention_mask)


def _attend(
    module: torch.nn.Module,
    query: Tensor,  # (batch, heads, length, head_dim)
    key: Tensor,  # (batch, kv_heads, length, head_dim)
    value: Tensor,
    attention_mask: Tensor | None,  # (batch, length), or None where nothing is padding
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside documents, the interface of transformers; (batch, length, heads, head_dim)."""
    from torch.nn.attention import varlen

    batch, heads, length, width = query.shape
    unknown = [name for name in ("softcap", "s_aux") if more.get(name) is not None] + ["dropout"] * (dropout > 0)
    if unknown or key.shape[2] != length or value.shape[-1] != width or more.get("is_causal") is False:
        raise TrainingError(
            f"{TORCH_VARLEN} attention has no {', '.join(unknown) or 'cache, no bidirectional and no uneven heads'}, "
            f"which {type(module).__name__} asks for. Take another attention implementation."
        )
    # Under autocast rotary angles leave queries and keys in float32 and values in the narrower type.
    rows: list[Tensor] = [
        states.transpose(1, 2).reshape(batch * length, -1, width).to(value.dtype) for states in (query, key, value)
    ]
    kept = None
    if attention_mask is not None:
        kept = attention_mask.flatten().nonzero()[:, 0]
        rows = [states[kept] for states in rows]
        ends = attention_mask.sum(dim=1).cumsum(0)
        begins = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
        longest = int(attention_mask.sum(dim=1).max())
    else:
        begins, longest = _documents(position_ids, batch, length, query.device)
    q, k, v = rows
    window = (sliding_window - 1 if sliding_window else -1, 0)
    # Newer releases want grouped heads announced; the kernel itself always knew them.
    grouped: dict[str, Any] = {"enable_gqa": key.shape[1] != heads} if "enable_gqa" in _ARGUMENTS else {}
    attended = varlen.varlen_attn(
        q, k, v, begins, begins, longest, longest, scale=scaling, window_size=window, **grouped
    )
    found = attended if isinstance(attended, Tensor) else attended[0]
    if kept is not None:
        found = found.new_zeros(batch * length, heads, width).index_copy(0, kept, found)
    return found.view(batch, length, heads, width), None


def _documents(position_ids: Tensor | None, batch: int, length: int, device: torch.device) -> tuple[Tensor, int]:
    """Where documents begin in the rows laid end to end, with the end; int32. And the longest."""
    global _known
    if position_ids is None:
        return torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=device), length
    if _known is None or _known[0] is not position_ids or _known[1] != position_ids._version:
        positions = position_ids.expand(batch, length)
        begins = torch.ones_like(positions, dtype=torch.bool)
        begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
        places = torch.cat([begins.flatten().nonzero()[:, 0], begins.new_full((1,), batch * length, dtype=torch.long)])
        _known = (position_ids, position_ids._version, places.to(torch.int32), int(places.diff().max()))
    return _known[2], _known[3]
