"""Quantities as people write them, in and out: tokens, parameters, FLOPs, bytes, durations.

Inside the library a token count is an `int`, FLOPs and seconds are `float`; this is the only
place that turns "3B" into 3_000_000_000 and back.
"""

import math
import re

from .errors import QuantityError

__all__ = [
    "format_bytes",
    "format_count",
    "format_duration",
    "parse_count",
    "parse_quantity",
    "training_flops_per_token",
]

# One letter per power of a thousand, the way the field writes them ("7B", "1.4T").
_MULTIPLIERS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_QUANTITY = re.compile(r"\s*([0-9][0-9_,]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kmbgtpe]?)\s*", re.IGNORECASE)


def parse_quantity(text: str | float, what: str = "quantity") -> float:
    """Read a non-negative number such as ``"6.5e9"``, ``"3B"``, ``"128k"`` or ``"1_000"``.

    Suffixes are powers of 1000 in either case: k, M, B (or G), T, P, E.

    Raises:
        QuantityError: not a number, negative, infinite, or with an unknown suffix.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise QuantityError(f"{what} is {text!r}, which is not a number. Write it like 3000000000, 3e9 or '3B'.")
    if isinstance(text, str):
        match = _QUANTITY.fullmatch(text)
        if match is None:
            raise QuantityError(f"{what} {text!r} cannot be read. Write it like 3000000000, 3e9, '3B' or '128k'.")
        digits = match.group(1).replace("_", "").replace(",", "")
        value = float(digits) * _MULTIPLIERS[match.group(2).lower()]
    else:
        value = float(text)
    if not math.isfinite(value) or value < 0:
        raise QuantityError(f"{what} is {text!r}; it must be finite and not negative. Check the sign and the exponent.")
    return value


def parse_count(text: str | float, what: str = "count") -> int:
    """Read a whole, non-negative count (tokens, parameters); exact for ints and up to 2**53 otherwise.

    Raises:
        QuantityError: as `parse_quantity`, or when the number is not whole.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    if isinstance(text, str) and text.strip().isdecimal():
        return int(text)
    value = parse_quantity(text, what)
    if abs(value - round(value)) > 1e-6 * max(value, 1):
        raise QuantityError(f"{what} {text!r} is {value}, not a whole number. Counts are raw tokens or parameters.")
    return round(value)


def format_count(value: float) -> str:
    """Write a count in at most three significant digits: ``131072`` -> ``"131k"``, ``3e9`` -> ``"3B"``."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def format_bytes(value: float) -> str:
    """Write a size in powers of 1000: ``2_970_000_000`` -> ``"2.97 GB"``."""
    for size, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.0f} bytes"


def format_duration(seconds: float) -> str:
    """Write a duration by its two largest units: ``"47 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``."""
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
