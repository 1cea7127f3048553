"""How many tokens a base has seen (D1): stated by whoever asks, or published by its makers, as a range with a reason.

What a law makes of them is the business of `outlook`.
"""

import fnmatch
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import QuantityError
from ..units import format_count, parse_count

__all__ = ["KINDS", "PUBLISHED", "BaseTokens", "find_base_tokens", "read_base_tokens"]

PUBLISHED = Path(__file__).with_name("published.yaml")

# What the range of a kind of release means for D1, and what that does to a law.
KINDS = {
    "stated": "You stated it; nothing here checks it.",
    "counted": "One training run on one mix of data, counted: what D1 means in the law.",
    "annealed": (
        "The learning rate was decayed before release, and the count includes that decay. Compare with laws of "
        "decayed bases (base_decayed)."
    ),
    "repeated": "Counts repeated text again: D1 of fresh tokens is smaller.",
    "multi-stage": (
        "Stages on different data. D1 is the tokens of one mix, so it lies between the largest stage and the sum "
        "of all; the last stage, small and annealed, counts for more than its tokens."
    ),
    "up-to": "The makers give an upper bound for a family; this model's own count is not published.",
    "upcycled": (
        "Itself grown from another model: a base whose own D1 and D2 are known, not one D1. Between its last stage "
        "and the sum."
    ),
    "distilled": (
        "Learned a teacher's predictions, which teach more than a token of text does: no single D1 is right. From its "
        "own tokens to those of its teacher as well, where they are published; else take it as a lower bound."
    ),
    "fine-tuned": (
        "Tuned after pretraining, on other data: a lower bound. Laws are of bases; reuse the base this was tuned "
        "from, if you can."
    ),
}


@dataclass(frozen=True, kw_only=True)
class BaseTokens:
    """D1 as a range, never a false point value.

    Attributes:
        low, high: raw counts; equal where one number was counted or stated.
        kind: a key of `KINDS`.
        said: what the source says.
        source: where; None where it was stated here.
    """

    low: int
    high: int
    kind: str
    said: str
    source: str | None

    @property
    def marks(self) -> tuple[float, ...]:
        """The ends of the range and the middle between them on a logarithmic scale; one value where they are one."""
        if self.low == self.high:
            return (float(self.low),)
        return (float(self.low), float(self.low) ** 0.5 * float(self.high) ** 0.5, float(self.high))

    def __str__(self) -> str:
        """The range in words, such as "9T to 24T"; "or more" where it is a lower bound."""
        ends = [format_count(self.low), format_count(self.high)]
        more = " or more" if self.kind in ("distilled", "fine-tuned") else ""
        return (ends[0] if self.low == self.high else " to ".join(ends)) + more

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with what the kind means."""
        return {**asdict(self), "meaning": KINDS[self.kind]}


def read_base_tokens(text: str | float) -> BaseTokens:
    """What somebody states: a count (``15T``), a range (``9T:24T``), or a published model's name.

    Raises:
        QuantityError: none of these, no tokens, or a range that runs backwards.
    """
    if isinstance(text, str) and "/" in text:
        found = find_base_tokens(text)
        if found is None:
            raise QuantityError(
                f"No published count of tokens is known here for {text!r}. State a count (15T) or a range (9T:24T)."
            )
        return found
    low, _, high = text.partition(":") if isinstance(text, str) else (text, "", "")
    least = parse_count(low, "base_tokens")
    most = parse_count(high, "base_tokens") if high else least
    if not 0 < least <= most:
        raise QuantityError(
            f"base_tokens {text!r} is no range of tokens behind a base: it needs more than 0, the least first, as in "
            "9T:24T. A model from scratch is what every plan compares with anyway."
        )
    return BaseTokens(low=least, high=most, kind="stated", said="stated by you", source=None)


def find_base_tokens(name: str) -> BaseTokens | None:
    """What is published of a model on the Hub; None where this library knows of nothing."""
    for entry in _entries():
        if any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in entry["models"]):
            low, high = (parse_count(count, "tokens") for count in entry["tokens"])
            return BaseTokens(low=low, high=high, kind=entry["kind"], said=entry["said"], source=entry["source"])
    return None


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    import yaml

    return tuple(yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")))
