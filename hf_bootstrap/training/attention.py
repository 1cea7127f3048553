"""Which attention implementation runs here, and why; the answer is stored in every point."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import TrainingError
from . import varlen

__all__ = ["Attention", "choose_attention", "give_attention"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The name transformers knows an implementation by, and the reason it was chosen."""

    name: str
    reason: str


def choose_attention(
    asked: str | None = None, *, dtype: torch.dtype | None = None, isolated: bool = False, model: Any = None
) -> Attention:
    """Take what was asked for, else the fastest that this machine and the model can run.

    For plain blocks that is the newest FlashAttention package, else sdpa, in which PyTorch's own flash kernel runs as
    long as there is no mask. Documents that are kept apart need one, so for them that kernel is called with where they
    begin (`varlen`). The packages are passed over there: transformers tells them where documents begin in batches of
    one row alone, and in larger ones they see each other.

    Args:
        asked: a value of transformers' `attn_implementation`.
        dtype: of the computation; FlashAttention knows no float32. None when not known, and then it is not asked.
        isolated: whether packed documents are kept apart by `position_ids`.
        model: that is to run with it; what it cannot run with, or would compute something else with, is passed over.

    Returns:
        The choice; where a package was passed over, the reason says which and why.

    Raises:
        TrainingError: a package was asked for that would let isolated documents see each other.
    """
    if isolated and "flash" in (asked or ""):
        raise TrainingError(
            f"{asked} cannot keep packed documents apart: transformers tells it where they begin in batches of one row "
            f"alone, and in larger ones they would see each other. Ask for {varlen.TORCH_VARLEN} or sdpa, or for "
            "nothing: the fastest that keeps them apart here is then taken."
        )
    if asked == varlen.TORCH_VARLEN:
        varlen.register()
    if asked is not None:
        return Attention(name=asked, reason="asked for")
    if not torch.cuda.is_available():
        return _plain(model, "no GPU here; transformers' default")
    if dtype not in (None, torch.float16, torch.bfloat16):
        return _plain(model, f"FlashAttention knows no {str(dtype).removeprefix('torch.')}")
    return _for_documents(model) if isolated else _for_blocks(model)


def give_attention(
    model: Any, asked: str | None = None, *, dtype: torch.dtype | None = None, isolated: bool = False
) -> Attention:
    """Choose for a model, set it, and say what the model really runs with.

    Some classes of transformers keep their implementation whatever is set, and a package can be installed and broken.

    Raises:
        TrainingError: the model cannot run with what was asked for, or documents would see each other (see
            `choose_attention`).
    """
    chosen = choose_attention(asked, dtype=dtype, isolated=isolated, model=model)
    problem = ""
    try:
        if model.config._attn_implementation != chosen.name:
            model.set_attn_implementation(chosen.name)
    except (ImportError, ValueError) as error:
        problem = f": {error}"
        if asked is None:
            model.set_attn_implementation(_plain(model, "").name)
    name = str(model.config._attn_implementation)
    if name == chosen.name:
        return chosen
    if asked is not None:
        raise TrainingError(
            f"{type(model).__name__} cannot run with attention {asked!r}{problem or f', it keeps {name!r}'}. Name "
            "another one, or none: this machine's choice is then taken."
        )
    return Attention(name=name, reason=f"{type(model).__name__} did not take {chosen.name} ({chosen.reason}){problem}")


def _for_blocks(model: Any) -> Attention:
    """The newest package that runs here, else sdpa."""
    capability = torch.cuda.get_device_capability()
    passed = []
    for name, least, is_there in _packages():
        if not is_there():
            passed.append(f"{name} is not installed")
        elif not getattr(model, "_supports_flash_attn", True):
            passed.append(f"{type(model).__name__} does not run with {name}")
        elif capability < least:
            passed.append(
                f"{name} needs compute capability {least[0]}.{least[1]}, this GPU has {'.'.join(map(str, capability))}"
            )
        else:
            return Attention(
                name=name, reason="; ".join(["the newest that is installed and runs on this GPU", *passed])
            )
    passed.append("sdpa has PyTorch's own flash kernel for blocks without a mask")
    return _plain(model, "; ".join(passed))


def _for_documents(model: Any) -> Attention:
    """PyTorch's kernel over documents, else a mask for them."""
    if wants := _beyond_varlen(model):
        kind = type(model).__name__
        return _plain(model, f"PyTorch's kernel over documents has no {', '.join(wants)}, which {kind} uses")
    if torch.cuda.get_device_capability() >= (8, 0) and varlen.is_available():
        varlen.register()
        return Attention(
            name=varlen.TORCH_VARLEN,
            reason="PyTorch's own flash kernel over documents, for sdpa would need a mask and lose it, and "
            "FlashAttention packages keep documents apart in batches of one row alone",
        )
    return _plain(model, "a mask for the documents, which is slower: PyTorch's kernel over documents needs PyTorch "
                         "2.11 and compute capability 8.0")  # fmt: skip


def _plain(model: Any, reason: str) -> Attention:
    """sdpa, or eager for a model that sdpa would compute otherwise; transformers' classes say so."""
    if getattr(model, "_supports_sdpa", True):
        return Attention(name="sdpa", reason=reason)
    return Attention(name="eager", reason=f"{reason}; {type(model).__name__} does not run with sdpa")


def _beyond_varlen(model: Any) -> list[str]:
    """What a model's attention asks for that `varlen` refuses in the first forward pass."""
    if model is None:
        return []
    config = model.config.get_text_config()
    dropout = any(getattr(config, name, None) for name in ("attention_dropout", "attn_pdrop"))
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    found = {"dropout": dropout, "soft cap": getattr(config, "attn_logit_softcapping", None), "sinks": sinks}
    return [name for name, is_used in found.items() if is_used]


def _packages() -> list[tuple[str, tuple[int, int], Callable[[], bool]]]:
    """Name, least compute capability, and whether it is installed; newest first."""
    from transformers.utils import import_utils

    def asked(question: str) -> Callable[[], bool]:
        return getattr(import_utils, question, lambda: False)

    return [
        ("flash_attention_4", (9, 0), asked("is_flash_attn_4_available")),
        ("flash_attention_3", (8, 0), asked("is_flash_attn_3_available")),
        ("flash_attention_2", (8, 0), asked("is_flash_attn_2_available")),
    ]
