"""Quantities as people write them, in and out: tokens, parameters, FLOPs, bytes, durations.

Inside the library a token count is an `int`, FLOPs and seconds are `float`; this is the only
place that turns "3B" into 3_000_000_000 and back.
"""

import decimal
import enum
import math
import numbers
import re

from .errors import QuantityError

__all__ = [
    "LossUnit",
    "format_bytes",
    "format_count",
    "format_duration",
    "parse_count",
    "parse_quantity",
    "training_flops_per_token",
]


class LossUnit(enum.StrEnum):
    """What a loss is counted in; prints as a reader would write it."""

    NATS = "nats per token"
    BITS = "bits per byte"

    @property
    def short(self) -> str:
        """Of a difference, or where what it is per was said before: nats or bits."""
        return self.value.split()[0]

    def spell(self, text: str) -> str:
        """A text about nats per token, in this unit."""
        return text.replace("nats per token", self).replace("nats", self.short)


# One letter per power of a thousand, the way the field writes them ("7B", "1.4T"). A small "e" is an
# exponent that was not finished, not an exa: "3e" must not become three quintillion tokens.
_SUFFIXES = {"": 0, "k": 3, "K": 3, "m": 6, "M": 6, "b": 9, "B": 9, "g": 9, "G": 9, "t": 12, "T": 12, "P": 15, "E": 18}
# A comma groups thousands or is refused: "1,5B" is one and a half in half of Europe and fifteen nowhere.
_WHOLE = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9][0-9_]*"
_QUANTITY = re.compile(rf"((?:{_WHOLE})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{{1,4}}))?\s*([a-zA-Z]?)")
# No count a person writes is longer, and every whole number this short is held exactly.
_LONGEST = 400
_EXACT = decimal.Context(prec=_LONGEST)


def parse_quantity(text: str | float, what: str = "quantity") -> float:
    """Read a non-negative number such as ``"6.5e9"``, ``"3B"``, ``"128k"``, ``"1_000"`` or ``"1,000"``.

    Suffixes are powers of 1000: k, M, B (or G), T in either case, P and E in capitals.

    Raises:
        QuantityError: not a number, negative, infinite, or with an unknown suffix.
    """
    return float(_finite(text, what))


def parse_count(text: str | float, what: str = "count") -> int:
    """Read a whole, non-negative count (tokens, parameters), exactly.

    A float may miss a whole number by its own rounding (``0.07 * 100``), not by more.

    Raises:
        QuantityError: as `parse_quantity`, or when the number is not whole.
    """
    value = _finite(text, what)
    if isinstance(value, float) and abs(value - round(value)) <= 4 * math.ulp(value):
        return round(value)
    if value != int(value):
        raise QuantityError(f"{what} {text!r} is {value}, not a whole number. Counts are raw tokens or parameters.")
    return int(value)


def _finite(text: str | float, what: str) -> int | float | decimal.Decimal:
    """The number as it is written, without rounding; finite as a float too."""
    if isinstance(text, str):
        value: int | float | decimal.Decimal = _read(text, what)
    elif isinstance(text, numbers.Integral) and not isinstance(text, bool):
        value = int(text)
    elif isinstance(text, numbers.Real) and not isinstance(text, bool):
        value = float(text)
    else:
        raise QuantityError(f"{what} is {text!r}, which is not a number. Write it like 3000000000, 3e9 or '3B'.")
    try:
        rounded = float(value)
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded) or rounded < 0:
        raise QuantityError(
            f"{what} is {rounded}; it must be finite and not negative. Check the sign and the exponent."
        )
    return value


def _read(text: str, what: str) -> decimal.Decimal:
    match = _QUANTITY.fullmatch(text.strip()) if len(text) < _LONGEST else None
    if match is None or match.group(3) not in _SUFFIXES:
        raise QuantityError(f"{what} {text[:80]!r} cannot be read. Write it like 3000000000, 3e9, '3B' or '128k'.")
    digits, exponent, suffix = match.groups()
    number = decimal.Decimal(f"{digits.replace('_', '').replace(',', '')}e{exponent or 0}")
    return number.scaleb(_SUFFIXES[suffix], _EXACT)


def format_count(value: float) -> str:
    """Write a count in at most three significant digits: ``131072`` -> ``"131k"``, ``3e9`` -> ``"3B"``.

    Beyond thousands of trillions (FLOPs) as a power of ten: ``"6e+21"``. `parse_quantity` reads what this writes.
    """
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if 0.9995 * size <= abs(value) < 999.5 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def format_bytes(value: float) -> str:
    """Write a size in powers of 1000: ``2_970_000_000`` -> ``"2.97 GB"``."""
    for size, suffix in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.0f} bytes"


def format_duration(seconds: float) -> str:
    """Write a duration by its two largest units: ``"47 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``.

    A time that is not finite (an ETA before the first step) is ``"unknown"``.
    """
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def training_flops_per_token(n_params_matmul: int, n_layers: int, attention_width: int, sequence_length: int) -> float:
    """FLOPs to train on one token: forward and backward, attention included.

    ``6 * N + 6 * layers * width * T``: two FLOPs per weight of every matrix product, twice that again
    backward; scores and weighted values cost ``4 * width * t`` forward for a token that sees ``t``
    others, ``t = T / 2`` on average under a causal mask, and three times that in all.

    Args:
        n_params_matmul: weights that take part in a matrix product, the output head included, the
            embedding table not (it is a look-up).
        n_layers: attention layers.
        attention_width: query heads times head width.
        sequence_length: slots of one block, T.

    Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1 (with the causal half of the attention term).
    """
    return 6.0 * n_params_matmul + 6.0 * n_layers * attention_width * sequence_length
