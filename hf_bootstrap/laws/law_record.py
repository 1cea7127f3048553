"""A law as the record that `law.json` holds, and back; every field is checked for its type and its sense.

`docs/formats.md`, section 7, is the specification. Text, checksum and disk are the business of `law_file`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import __version__
from ..fields import brief
from ..units import LossUnit
from .definitions import Definition
from .fitted import FittedLaw
from .forms import FORMS
from .resampling import Replicates
from .scratch import WithScratch
from .terms import FloatArray, Form

__all__ = ["LAW_SCHEMA", "law_from_record", "law_to_record"]

LAW_SCHEMA = 1
_OBJECTIVES = ("huber", "lsq", "given")
_METHODS = ("bootstrap", "jackknife", "none")
_LARGEST = 1e100  # of a parameter or its logarithm: beyond, no formula has a value


def law_to_record(law: FittedLaw) -> dict[str, Any]:
    """Everything `law_from_record` needs, as plain JSON."""
    replicates = law.replicates
    return {
        "schema": LAW_SCHEMA,
        "kind": "law",
        "form": law.form.name,
        "scratch_branch": isinstance(law.form, WithScratch),
        "formula": law.form.formula,
        "objective": law.objective,
        "delta": law.delta if math.isfinite(law.delta) else None,
        "units": {"tokens": "raw counts", "n_params": "raw counts", "loss": law.loss_unit, "log": "natural"},
        "definitions": {n: {"value": found.value, "reason": found.reason} for n, found in law.definitions.items()},
        "params": {n: x if x is None or math.isfinite(x) else None for n, x in law.known_params().items()},
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
            "method": replicates.method,
            "unit": replicates.unit,
            "clusters": replicates.clusters,
            "strata": replicates.strata.tolist(),
            "notes": list(replicates.notes),
            "theta": replicates.theta.tolist(),
        },
    }


def law_from_record(record: Mapping[str, Any]) -> FittedLaw:
    """The law a record holds.

    Raises:
        ValueError: a field that is missing, unknown, of the wrong type, or at odds with another.
    """
    _check(record, _FIELDS, "the law")
    _check(record["replicates"], _REPLICATES, "replicates")
    form = FORMS[record["form"]]
    form = WithScratch(form) if record["scratch_branch"] else form
    names = list(form.parameters)
    if record["parameters"] != names:
        raise ValueError(f"parameters are {brief(record['parameters'])}, not {names!r}")
    unidentified = tuple(record["unidentified"])
    moves = _rows("moves", record["moves"], len(names))
    if set(unidentified) - set(names) or bool(unidentified) != bool(len(moves)):
        raise ValueError(f"unidentified are {brief(unidentified)}, with {len(moves)} moves")
    if (record["objective"] == "given") != (record["delta"] is None):
        raise ValueError(f"delta is {brief(record['delta'])} of the objective {record['objective']!r}")
    return FittedLaw(
        form=form,
        objective=record["objective"],
        delta=float("nan") if record["delta"] is None else float(record["delta"]),
        theta=_rows("theta", [record["theta"]], len(names))[0],
        replicates=_replicates(record["replicates"], len(names)),
        ranges=_ranges(record["ranges"], form, based=record["n_scratch"] < record["n_points"]),
        n_points=record["n_points"],
        n_scratch=record["n_scratch"],
        error=None if record["error"] is None else float(record["error"]),
        warnings=tuple(record["warnings"]),
        points_digest=record["points_sha256"],
        unidentified=unidentified,
        anchor=_rows("anchor", [record["anchor"]], len(names))[0],
        moves=moves,
        definitions={name: _definition(name, found) for name, found in record["definitions"].items()},
        loss_unit=LossUnit(record["units"].get("loss", LossUnit.NATS)),
    )


def _replicates(record: Mapping[str, Any], width: int) -> Replicates:
    theta = _rows("replicates", record["theta"], width)
    method, strata, clusters = record["method"], record["strata"], record["clusters"]
    if (method == "none") != (len(theta) == 0) or len(strata) != len(theta):
        raise ValueError(f"there are {len(theta)} replicates and {len(strata)} strata of the method {method!r}")
    if method != "none" and clusters < 2:
        raise ValueError(f"the replicates come from {clusters} clusters, which cannot be drawn from")
    if method == "jackknife" and min(strata) < 1:
        raise ValueError("a stratum of the jackknife has no clusters")
    return Replicates(
        theta=theta,
        method=method,
        unit=record["unit"],
        clusters=clusters,
        strata=np.array(strata, dtype=np.int64),
        notes=tuple(record["notes"]),
    )


def _rows(name: str, values: Any, width: int) -> FloatArray:
    """Lists of `width` numbers each as an array."""
    if any(not isinstance(row, list) or len(row) != width or not set(map(type, row)) <= {int, float} for row in values):
        raise ValueError(f"{name} are not lists of {width} numbers, one for each parameter")
    found = np.array(values, dtype=float).reshape(-1, width)
    if not np.all(np.abs(found) <= _LARGEST):
        raise ValueError(f"{name} hold a number beyond {_LARGEST:g}, which no parameter or its logarithm is")
    return found


def _ranges(record: Mapping[str, Any], form: Form, *, based: bool) -> dict[str, tuple[float, float]]:
    unknown = set(form.columns) - set(record)
    if record and (set(record) - set(form.columns) or unknown - ({"base_tokens"} if not based else set())):
        raise ValueError(f"ranges are of {brief(sorted(record))}, not of {sorted(form.columns)}")
    for name, found in record.items():
        if (
            not isinstance(found, list)
            or len(found) != 2
            or not all(map(_is_amount, found))
            or not found[0] <= found[1]
        ):
            raise ValueError(f"the range of {name} is {brief(found)}")
    return {name: (float(low), float(high)) for name, (low, high) in record.items()}


def _definition(name: str, found: Any) -> Definition:
    if not isinstance(found, dict) or set(found) != {"value", "reason"}:
        raise ValueError(f"the definition of {name} is {brief(found)}")
    value, reason = found["value"], found["reason"]
    if not (_is_text(reason) if value is None else reason is None and (_is_text(value) or _is_amount(value))):
        raise ValueError(f"the definition of {name} is {brief(found)}")
    return Definition(value=value if value is None or isinstance(value, str) else float(value), reason=reason)


def _check(record: Any, fields: Mapping[str, Callable[[Any], bool]], what: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{what} is {brief(record)}")
    missing, unknown = sorted(set(fields) - set(record)), sorted(set(record) - set(fields))
    if missing or unknown:
        raise ValueError(f"{what}: missing {brief(missing)}, unknown {brief(unknown)}")
    for name, right in fields.items():
        if not right(record[name]):
            raise ValueError(f"{name} is {brief(record[name])}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_amount(value: Any) -> bool:
    """A number above 0 that a float can hold."""
    return type(value) in (int, float) and 0 < value < 2**1000


def _is_sentences(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _one_of(*options: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in options


def _or_null(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "schema": _is_count,
    "kind": _one_of("law"),
    "form": _one_of(*FORMS),
    "scratch_branch": lambda value: isinstance(value, bool),
    "formula": _is_text,
    "objective": _one_of(*_OBJECTIVES),
    "delta": _or_null(_is_amount),
    "units": lambda value: isinstance(value, dict) and value.get("loss", LossUnit.NATS) in [*LossUnit],
    "definitions": lambda value: isinstance(value, dict) and set(value) == {"n_params", "flops_per_param_token"},
    "params": _is_object,
    "parameters": _is_sentences,
    "theta": _is_list,
    "ranges": _is_object,
    "n_points": _is_count,
    "n_scratch": _is_count,
    "error": _or_null(lambda value: type(value) in (int, float) and 0 <= value < 2**1000),
    "warnings": _is_sentences,
    "unidentified": _is_sentences,
    "anchor": _is_list,
    "moves": _is_list,
    "points_sha256": _or_null(_is_digest),
    "versions": _is_object,
    "replicates": _is_object,
}
_REPLICATES: dict[str, Callable[[Any], bool]] = {
    "method": _one_of(*_METHODS),
    "unit": _is_text,
    "clusters": _is_count,
    "strata": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "notes": _is_sentences,
    "theta": _is_list,
}
