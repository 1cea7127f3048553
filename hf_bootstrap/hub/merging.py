"""Two files of points become one that holds every point of both once; where the files lie is not known here."""

from ..errors import HubError, PointError
from ..sealing import canonical_json, seal, unseal

__all__ = ["merge_points"]


def merge_points(theirs: bytes, ours: bytes) -> bytes:
    """The lines of `theirs` as they are, then those of `ours` that are not among them.

    A line is known by its content (what its CRC-32 is of), so order of keys and spaces do not matter. Merging is
    idempotent, and the order of two merges decides only the order of lines. A line that a crash cut short is no point
    and is left behind.

    Args:
        theirs, ours: points files (`docs/formats.md`, section 4).

    Raises:
        HubError: another line of either is not a point.
    """
    found: dict[str, str] = {}
    for whose, content in (("on the Hub", theirs), ("here", ours)):
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip(b" \t\r\x18"):
                continue
            try:
                record = unseal(line.decode())
            except (PointError, UnicodeDecodeError) as error:
                if line.endswith(b"\x18") or number == len(lines):
                    continue  # cut short by a crash, before its point was acknowledged
                raise HubError(
                    f"Line {number} of the points {whose} is not a point ({error}), so the two files cannot be joined. "
                    "Remove the line, or push to another repository."
                ) from error
            found.setdefault(canonical_json(record), seal(record))
    return "".join(line + "\n" for line in found.values()).encode()
