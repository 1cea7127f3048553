"""A law on disk: `law.json` and back, equal to the last bit; strange files are refused.

The folder around it (points, card, figures) is arranged by `ScalingLaw.save_pretrained`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import LawError, LawFileError
from ..store import write_atomic
from .definitions import Definition
from .fitted import FittedLaw
from .forms import FORMS
from .resampling import Replicates
from .scratch import WithScratch

__all__ = ["LARGEST_LAW", "LAW_FILE", "LAW_SCHEMA", "read_law", "write_law"]

LAW_FILE = "law.json"
LAW_SCHEMA = 1
LARGEST_LAW = 256 * 1024 * 1024
_METHODS = ("bootstrap", "jackknife", "none")


def write_law(law: FittedLaw, path: str | Path) -> None:
    """Write a law atomically, numbers in full precision, one replicate a line.

    Raises:
        LawError: its form has no name in `FORMS`, so no reader could find it again.
        StoreError: the file cannot be written.
    """
    joined = isinstance(law.form, WithScratch)
    name = law.form.name
    if name not in FORMS or type(FORMS[name]) is not type(
        law.form.inner if isinstance(law.form, WithScratch) else law.form
    ):
        raise LawError(f"The form {name!r} is not in FORMS, so a saved law could not be read. Add it there first.")
    record = {
        "schema": LAW_SCHEMA,
        "kind": "law",
        "form": name,
        "scratch_branch": joined,
        "formula": law.form.formula,
        "objective": law.objective,
        "delta": law.delta if math.isfinite(law.delta) else None,
        "units": {"tokens": "raw counts", "n_params": "raw counts", "loss": "nats per token", "log": "natural"},
        "definitions": {
            name: {"value": found.value, "reason": found.reason} for name, found in law.definitions.items()
        },
        "params": law.known_params(),
        "parameters": list(law.form.parameters),
        "theta": law.theta.tolist(),
        "ranges": {key: list(value) for key, value in law.ranges.items()},
        "n_points": law.n_points,
        "n_scratch": law.n_scratch,
        "error": law.error,
        "warnings": list(law.warnings),
        "unidentified": list(law.unidentified),
        "anchor": (law.theta if law.anchor is None else law.anchor).tolist(),
        "moves": [] if law.moves is None else law.moves.tolist(),
        "points_sha256": law.points_digest,
        "versions": {"hf_bootstrap": __version__, "numpy": np.__version__},
        "replicates": {
            "method": law.replicates.method,
            "unit": law.replicates.unit,
            "clusters": law.replicates.clusters,
            "strata": law.replicates.strata.tolist(),
            "notes": list(law.replicates.notes),
            "theta": "@replicates",
        },
    }
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in law.replicates.theta.tolist())
    text = json.dumps(record, indent=1, allow_nan=False).replace('"@replicates"', f"[\n{rows}\n]" if rows else "[]")
    write_atomic(path, text + "\n")


def read_law(path: str | Path) -> FittedLaw:
    """Read what `write_law` wrote.

    Raises:
        LawFileError: missing, cut short, of another schema version, or not a law.
    """
    path = Path(path)
    record = _load(path)
    if record.get("kind") != "law":
        raise LawFileError(f"{path} is not a law. Give the folder that save_pretrained wrote.")
    if record.get("schema") != LAW_SCHEMA:
        raise LawFileError(
            f"{path} has schema {record.get('schema')!r}; this release reads {LAW_SCHEMA}. "
            f"Use the release that wrote it ({record.get('versions')})."
        )
    try:
        return _build(record)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LawFileError(
            f"{path} does not hold a whole law ({type(error).__name__}: {error}). Fit it again."
        ) from error


def _load(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST_LAW:
            raise LawFileError(f"{path} has {size:,} bytes; no law is that large. It is not read.")
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise LawFileError(
            f"{path} cannot be read: {error.strerror}. Give the folder that save_pretrained wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise LawFileError(
            f"{path} is not JSON ({error}): cut short, or not a law. Restore it or fit again."
        ) from error
    if not isinstance(record, dict):
        raise LawFileError(f"{path} holds a {type(record).__name__}, not a law.")
    return record


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")


def _build(record: dict[str, Any]) -> FittedLaw:
    form = FORMS[record["form"]]
    form = WithScratch(form) if record["scratch_branch"] else form
    k = len(form.parameters)
    if record["parameters"] != list(form.parameters):
        raise ValueError(f"parameters are {record['parameters']!r}, not {list(form.parameters)!r}")
    stated = record["replicates"]
    rows = np.array(stated["theta"], dtype=float).reshape(-1, k) if stated["theta"] else np.empty((0, k))
    if len(rows) != len(stated["theta"]) or stated["method"] not in _METHODS:
        raise ValueError("the replicates do not fit the form")
    if (stated["method"] == "none") != (len(rows) == 0) or len(stated["strata"]) != len(rows):
        raise ValueError("the replicates are incomplete")
    theta = np.array(record["theta"], dtype=float)
    if theta.shape != (k,) or not np.all(np.isfinite(theta)) or not np.all(np.isfinite(rows)):
        raise ValueError("the parameters are not finite numbers, one for each name")
    ranges = {str(name): (float(low), float(high)) for name, (low, high) in record["ranges"].items()}
    if any(not 0 < low <= high < math.inf for low, high in ranges.values()) or set(ranges) - set(form.columns):
        raise ValueError(f"ranges are {ranges!r}")
    delta = record["delta"]
    unidentified = tuple(str(name) for name in record["unidentified"])
    if set(unidentified) - set(form.parameters):
        raise ValueError(f"unidentified are {unidentified!r}, which the form does not have")
    anchor = np.array(record["anchor"], dtype=float)
    if anchor.shape != (k,) or not np.all(np.isfinite(anchor)):
        raise ValueError("the anchor is not finite numbers, one for each name")
    moves = np.array(record["moves"], dtype=float).reshape(-1, k) if record["moves"] else np.empty((0, k))
    if len(moves) != len(record["moves"]) or not np.all(np.isfinite(moves)) or bool(unidentified) != bool(len(moves)):
        raise ValueError("the moves do not fit the unidentified parameters")
    return FittedLaw(
        form=form,
        objective=str(record["objective"]),
        delta=float("nan") if delta is None else float(delta),
        theta=theta,
        replicates=Replicates(
            theta=rows,
            method=stated["method"],
            unit=str(stated["unit"]),
            clusters=int(stated["clusters"]),
            strata=np.array(stated["strata"], dtype=np.int64),
            notes=tuple(str(note) for note in stated["notes"]),
        ),
        ranges=ranges,
        n_points=int(record["n_points"]),
        n_scratch=int(record["n_scratch"]),
        error=None if record["error"] is None else float(record["error"]),
        warnings=tuple(str(sentence) for sentence in record["warnings"]),
        points_digest=record["points_sha256"],
        unidentified=unidentified,
        anchor=anchor,
        moves=moves,
        definitions={str(name): _definition(found) for name, found in record["definitions"].items()},
    )


def _definition(found: dict[str, Any]) -> Definition:
    value, reason = found["value"], found["reason"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (isinstance(value, str) or (number and 0 < value < math.inf) or (value is None and isinstance(reason, str))):
        raise ValueError(f"a definition is {found!r}")
    return Definition(value=float(value) if number else value, reason=None if reason is None else str(reason))
