"""One way to write a record as JSON, and a checksum of its content that stands inside it.

What records hold is the business of `records`, files are that of `store`.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from .errors import PointError, RecordError
from .fields import brief

__all__ = ["canonical_json", "checksum", "seal", "strict_json", "unseal"]

# Made once: making an encoder for every line costs as much as encoding it.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
# What was just parsed has no cycles to look for.
_AGAIN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)
_CRC = re.compile(r'"crc32":[0-9]+,?')


def canonical_json(record: Mapping[str, Any]) -> str:
    """The one way a record is written: sorted keys, no spaces, ASCII, no NaN or infinity."""
    try:
        return _CANONICAL.encode(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"A record cannot be written as JSON: {error}. Use finite numbers and text only.") from error


def checksum(record: Mapping[str, Any]) -> int:
    """CRC-32 of a record's canonical JSON; `RecordError` for what JSON cannot hold."""
    return zlib.crc32(canonical_json(record).encode())


def seal(record: Mapping[str, Any]) -> str:
    """One line of a points file: canonical JSON with `crc32`, the CRC-32 of the line without it."""
    bare = {key: value for key, value in record.items() if key != "crc32"}
    return canonical_json({**bare, "crc32": checksum(bare)})


def unseal(line: str) -> dict[str, Any]:
    """Read one sealed line and check its CRC.

    The CRC is of the content, so a line that another program wrote again, keys and values unchanged, still holds.

    Returns:
        The record without `crc32`.

    Raises:
        PointError: not JSON, not an object, a key given twice, without a checksum, or with a wrong one.
    """
    record = _unseal_canonical(line)
    if record is not None:
        return record
    try:
        record = strict_json(line)
    except (ValueError, RecursionError) as error:
        raise PointError(
            f"The line is not JSON ({error}). It was cut short or edited; remove it or log the point again."
        ) from error
    if not isinstance(record, dict):
        raise PointError(f"The line holds a {type(record).__name__}, not an object. Every line is one JSON object.")
    stated = record.pop("crc32", None)
    if stated is None:
        raise PointError(
            "The line has no crc32, so it cannot be trusted. Write points with hf_bootstrap.store.append_point."
        )
    try:
        actual = checksum(record)
    except RecordError as error:
        raise PointError(f"The line cannot be checked. {error}") from error
    if type(stated) is not int or stated != actual:
        raise PointError(
            f"The line says crc32 {brief(stated)} but its content gives {actual}. It was changed after it was written."
        )
    return record


def _unseal_canonical(line: str) -> dict[str, Any] | None:
    """The record of a line that is, byte for byte, what `seal` writes; None for any other, whatever it is.

    Such a line needs no look at every key: written again, the record gives the same text, so nothing was given twice.
    """
    try:
        record = json.loads(line)
        stated = record.pop("crc32")
        text = _AGAIN.encode(record)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    bare = _CRC.sub("", line, count=1)
    whole = type(stated) is int and text == bare.rstrip("\n") and zlib.crc32(text.encode()) == stated
    return record if whole else None


def strict_json(text: str) -> Any:
    """What JSON text holds; NaN, infinities and keys given twice, which `json` lets pass, are refused.

    Raises:
        ValueError, RecursionError: it is not such JSON.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError(f"a key is given twice among {brief([key for key, _ in pairs])}")
    return record
