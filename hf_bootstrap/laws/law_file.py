"""A law on disk: `law.json` and back, equal to the last bit; files that were cut, changed or are strange are refused.

What the record holds is the business of `law_record`, the folder around it (points, card, figures) of `law_folder`.
"""

import json
from pathlib import Path
from typing import Any

from ..errors import LawError, LawFileError, RecordError
from ..fields import brief
from ..sealing import checksum, strict_json
from .fitted import FittedLaw
from .forms import FORMS
from .law_record import LAW_SCHEMA, law_from_record, law_to_record

__all__ = ["LARGEST_LAW", "LAW_FILE", "law_text", "read_law"]

LAW_FILE = "law.json"
LARGEST_LAW = 256 * 1024 * 1024


def law_text(law: FittedLaw) -> str:
    """A law as it stands in `law.json`: numbers in full precision, one replicate a line.

    Raises:
        LawError: its form has no name in `FORMS`, so no reader could find it again.
    """
    name = law.form.name
    if name not in FORMS or type(FORMS[name]) is not type(getattr(law.form, "inner", law.form)):
        raise LawError(f"The form {name!r} is not in FORMS, so a saved law could not be read. Add it there first.")
    record = law_to_record(law)
    record["crc32"] = checksum(record)
    theta = record["replicates"]["theta"]
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in theta)
    short = {**record, "replicates": {**record["replicates"], "theta": "@replicates"}}
    text = json.dumps(short, indent=1, allow_nan=False).replace('"@replicates"', f"[\n{rows}\n]" if rows else "[]")
    return text + "\n"


def read_law(path: str | Path) -> FittedLaw:
    """Read what `law_text` says.

    Raises:
        LawFileError: missing, cut short, changed, of another schema version, or not a law.
    """
    path = Path(path)
    record = _load(path)
    if record.get("kind") != "law":
        raise LawFileError(f"{path} is not a law. Give the folder that save_pretrained wrote.")
    if record.get("schema") != LAW_SCHEMA:
        raise LawFileError(
            f"{path} has schema {brief(record.get('schema'))}; this release reads {LAW_SCHEMA}. "
            f"Use the release that wrote it ({brief(record.get('versions'))})."
        )
    stated = record.pop("crc32", None)
    try:
        actual = checksum(record)
    except RecordError as error:
        raise LawFileError(f"{path} cannot be checked. {error} Restore it or fit again.") from error
    if type(stated) is not int or stated != actual:
        raise LawFileError(
            f"{path} says crc32 {brief(stated)} but its content gives {actual}. It was changed after it was written; "
            "restore it or fit again."
        )
    try:
        return law_from_record(record)
    except (ValueError, OverflowError) as error:
        raise LawFileError(f"{path} does not hold a whole law: {error}. Fit it again.") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST_LAW:
            raise LawFileError(f"{path} has {size:,} bytes; no law is that large. It is not read.")
        text = path.read_text(encoding="utf-8")
        record = strict_json(text)
    except OSError as error:
        raise LawFileError(
            f"{path} cannot be read: {error.strerror}. Give the folder that save_pretrained wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise LawFileError(
            f"{path} is not JSON ({error}): cut short, or not a law. Restore it or fit again."
        ) from error
    if not isinstance(record, dict):
        raise LawFileError(f"{path} holds a {type(record).__name__}, not a law. Check the path.")
    return record
