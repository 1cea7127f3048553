"""How far apart two models' answers to the same text are: logits, loss and divergence, in pieces of the text."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Drift", "compare_logits"]

_PIECE = 2**24  # logits that are compared at once, in float64


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What `compare_logits` found.

    Attributes:
        relative: largest |difference of logits| / largest |logit before|; absolute: the largest difference.
        kl: mean KL divergence from the next-token distribution before to the one after, nats per token.
        loss_before, loss_after: mean next-token loss, nats per token.
        finite: every logit after is.
    """

    relative: float
    absolute: float
    kl: float
    loss_before: float
    loss_after: float
    finite: bool


def compare_logits(before: Tensor, after: Tensor, ids: Tensor) -> Drift:
    """Compare two models' logits on the same text.

    Args:
        before, after: (sequences, tokens, vocabulary), any float dtype; compared in float64.
        ids: (sequences, tokens), the text.
    """
    largest, difference, divergence, losses = 0.0, 0.0, 0.0, [0.0, 0.0]
    step = max(1, _PIECE // before.shape[-1])
    finite = True
    for row, tokens in enumerate(ids.cpu()):
        for start in range(0, len(tokens), step):
            old, new = (logits[row, start : start + step].double().cpu() for logits in (before, after))
            finite = finite and bool(torch.isfinite(new).all())
            largest = max(largest, old.abs().max().item())
            apart = (new - old).abs().max().item()
            difference = apart if apart != apart else max(difference, apart)
            logs = old.log_softmax(-1), new.log_softmax(-1)
            divergence += (logs[0].exp() * (logs[0] - logs[1])).sum(-1).sum().item()
            wanted = tokens[start + 1 : start + 1 + len(old)]
            for which, log in enumerate(logs):
                losses[which] -= log[: len(wanted)].gather(-1, wanted[:, None]).sum().item()
    predicted = ids.numel() - len(ids)
    return Drift(
        relative=difference / max(largest, torch.finfo(torch.float64).tiny),
        absolute=difference,
        kl=divergence / ids.numel(),
        loss_before=losses[0] / predicted,
        loss_after=losses[1] / predicted,
        finite=finite,
    )
