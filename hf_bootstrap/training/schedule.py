"""The learning rate as a pure function of trained tokens: warm-up, stable, decay.

A schedule knows no optimizer and no Trainer; `loop` turns it into a `LambdaLR`.
"""

from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear rise, constant peak, linear fall to zero (WSD, Hu et al. 2024, arXiv:2404.06395).

    Attributes:
        tokens: trained tokens at the end.
        warmup_tokens: length of the rise from 0.
        decay_tokens: length of the fall to 0, which ends at `tokens`; 0 for a trunk that others branch from.
    """

    tokens: int
    warmup_tokens: int = 0
    decay_tokens: int = 0

    def factor(self, tokens: int, batch_tokens: int) -> float:
        """Share of the peak learning rate for the step that starts at `tokens` and trains `batch_tokens`.

        The rise is read at the end of the step and the fall at its start, so no step has rate zero.
        """
        rise = (tokens + batch_tokens) / self.warmup_tokens if self.warmup_tokens else 1.0
        fall = (self.tokens - tokens) / self.decay_tokens if self.decay_tokens else 1.0
        return max(0.0, min(1.0, rise, fall))

    def phase(self, tokens: int) -> str:
        """Where a model stands after `tokens`; a trunk never reaches "end", since its rate never fell."""
        if self.decay_tokens and tokens >= self.tokens:
            return "end"
        if self.decay_tokens and tokens > self.tokens - self.decay_tokens:
            return "decay"
        return "warmup" if tokens < self.warmup_tokens else "stable"

    def __str__(self) -> str:
        """Name and lengths, as points record it."""
        return f"warmup-stable-decay linear {self.warmup_tokens}/{self.tokens}/{self.decay_tokens}"
