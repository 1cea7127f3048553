"""Base-domain text mixed into a second stage at an exact ratio, so that the model forgets less.

Which block comes when is arithmetic on its position: nothing is drawn, nothing is stored, and a resumed run finds its
place at once.
"""

import hashlib
from fractions import Fraction
from typing import Any

import torch
from torch.utils.data import Dataset

from ..errors import DataError
from ..sealing import canonical_json
from .data import PackedBlocks

__all__ = ["Replay"]


class Replay(Dataset[dict[str, torch.Tensor]]):
    """Blocks of a target text with blocks of the base's text spread evenly among them.

    Of the first n blocks, floor(n * ratio) are replayed, for every n; each source is read in its own order, and
    every target block is used.

    Args:
        target: what the second stage is about.
        base: text of the base's domain, with the same tokenizer and block length.
        ratio: share of blocks that are replayed, from 0 up to but not including 1. A decimal is taken as written.
        blocks: how many will be trained; by default as many as use up the target.

    Raises:
        DataError: a ratio out of range, sources that do not fit together, or too little text to replay; text is
            never repeated in silence.

    Source: Ibrahim et al. 2024, arXiv:2403.08763 (5% for a weak shift, 25% and more for a strong one).
    """

    def __init__(
        self, target: PackedBlocks, base: PackedBlocks, ratio: float | str | Fraction, blocks: int | None = None
    ) -> None:
        try:
            self.ratio = Fraction(str(ratio))
        except (ValueError, ZeroDivisionError) as error:
            raise DataError(f"a replay ratio of {ratio!r} is not a number. Give a share such as 0.05.") from error
        if not 0 <= self.ratio < 1:
            raise DataError(f"a replay ratio of {ratio} is not a share. Give one from 0 up to but not including 1.")
        _check_alike(target, base)
        self.target, self.base = target, base
        self._length = int(len(target) / (1 - self.ratio))
        needed = int(min(blocks or self._length, self._length) * self.ratio)
        if needed > len(base):
            raise DataError(
                f"replaying {ratio} of {blocks or self._length:,} blocks takes {needed:,} blocks of {base.facts.path}, "
                f"which has {len(base):,}. Give more of the base's text, train less, or lower the ratio."
            )

    @property
    def sequence_length(self) -> int:
        """Trained tokens of one block."""
        return self.target.sequence_length

    @property
    def largest_id(self) -> int:
        """The highest token id of both texts."""
        return max(self.target.largest_id, self.base.largest_id)

    @property
    def point_facts(self) -> dict[str, Any]:
        """The fields of a scaling point that the mixture knows; its hash is that of both hashes and the ratio."""
        facts = self.target.point_facts
        parts = {"target": self.target.facts.hash, "replay": self.base.facts.hash, "ratio": str(self.ratio)}
        mixture = hashlib.sha256(canonical_json(parts).encode()).hexdigest()
        return {**facts, "replay_ratio": float(self.ratio), "hashes": {**facts["hashes"], "data": mixture}}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        replayed = index * self.ratio.numerator // self.ratio.denominator
        if (index + 1) * self.ratio.numerator // self.ratio.denominator > replayed:
            return self.base[replayed]
        return self.target[index - replayed]


def _check_alike(target: PackedBlocks, base: PackedBlocks) -> None:
    for what, ours, theirs in (
        ("block length", target.sequence_length, base.sequence_length),
        ("isolation of documents", target.isolate, base.isolate),
        ("tokenizer", target.facts.tokenizer_hash, base.facts.tokenizer_hash),
    ):
        if ours != theirs:
            raise DataError(
                f"{base.facts.path} cannot be mixed into {target.facts.path}: their {what} differs, {theirs} and "
                f"{ours}. Pack and read both alike."
            )
