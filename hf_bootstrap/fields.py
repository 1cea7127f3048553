"""What the fields of a record may hold, read off their annotations; what the values mean is the record's own business.

Annotations understood: `str`, `bool`, `int`, `float`, `Mapping[str, X]`, `tuple[X, ...]`, `Any` (plain JSON), each
also as `X | None`.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from .errors import RecordError, did_you_mean

__all__ = ["as_plain_json", "brief", "build", "settle", "settled_fields"]

_T = TypeVar("_T")

# Other languages read these files too: a count has to fit their 64-bit integers.
_LARGEST = 2**63 - 1
# As deep as any model's config goes, and far from Python's own limit.
_DEEPEST = 100


class _Misfit(Exception):  # noqa: N818 - carries a reason to the caller below, never further
    """A value that does not fit; the message ends the sentence "it must be ..."."""


class _Rule(NamedTuple):
    hint: Any  # the annotation without None
    optional: bool
    required: bool
    is_word: bool


def settle(record: Any, error: type[RecordError], *, signed: tuple[str, ...] = ()) -> None:
    """Give every field of a frozen record the very type its annotation names, or refuse it.

    NumPy's scalars become Python's, an int where a float belongs becomes one, lists become tuples or stay
    lists inside JSON, and mappings are copied, so the caller cannot change the record afterwards.

    Args:
        signed: fields that may be negative; no other number may.

    Raises:
        RecordError: of the given class; it names the record, the field and the value.
    """
    kind = type(record)
    for name, rule in _rules(kind).items():
        value = getattr(record, name)
        if value is None and rule.optional:
            continue
        # Most values are what they should be; a million points are read in half the time for this line.
        if type(value) is rule.hint and (rule.is_word or 0 <= value <= _LARGEST):
            continue
        try:
            settled = _settled(value, rule.hint, negative=name in signed)
        except _Misfit as misfit:
            wanted = f"{misfit}{' or None' if rule.optional else ''}"
            raise error(
                f"{kind.__name__}.{name} is {brief(value)}; it must be {wanted}. Correct the writer of this record."
            ) from None
        if settled is not value:
            object.__setattr__(record, name, settled)


def build(cls: type[_T], record: Mapping[str, Any], error: type[RecordError], schema: int) -> _T:
    """Make a record of class `cls` from what a file held.

    Raises:
        RecordError: of the given class: another schema version, unknown or missing keys, or what the class refuses.
    """
    version = record.get("schema", schema)
    if version != schema:
        raise error(
            f"{cls.__name__} has schema {brief(version)}; this release reads {schema}. Use a release that reads it."
        )
    rules = _rules(cls)
    for key in record:
        if key not in rules:
            raise error(f"{cls.__name__} has no field {brief(key)}. {did_you_mean(str(key), rules)}")
    for name, rule in rules.items():
        if rule.required and name not in record:
            raise error(
                f"{cls.__name__} needs the field {name!r}, which is missing. Correct the writer of this record."
            )
    return cls(**record)


class _Layout(NamedTuple):
    defaults: dict[str, Any]  # of the fields that a record leaves out
    counts: tuple[str, ...]
    signed: tuple[str, ...]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]  # mappings of text to text
    nested: tuple[str, ...]  # mappings of mappings, copied and left to the caller to judge
    empty: tuple[str, ...]  # mappings that a record leaves out


# The lines of a file have the same keys and types, so what they allow is worked out once for all of them.
_LAYOUTS: dict[tuple[Any, ...], _Layout | None] = {}
_MANY_LAYOUTS = 4096


def settled_fields(cls: type, record: Mapping[str, Any], *, signed: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Every field of a `cls` made from `record`, where all types and ranges are right as they stand.

    A short way to what `build` and `settle` do, for the many lines of a file; None sends the caller back to them,
    also where a value is merely unusual. Mappings are copied; those of mappings are not looked into.
    """
    key = (cls, tuple(record), tuple(map(type, record.values())))
    try:
        layout = _LAYOUTS[key]
    except KeyError:
        if len(_LAYOUTS) >= _MANY_LAYOUTS:
            _LAYOUTS.clear()
        layout = _LAYOUTS[key] = _layout(cls, record, signed)
    if layout is None:
        return None
    counts, reals = [record[name] for name in layout.counts], [record[name] for name in layout.numbers]
    # A sum is finite only if every number is; one that overflows goes the long way, where each is looked at.
    if (counts and (min(counts) < 0 or max(counts) > _LARGEST)) or not math.isfinite(sum(reals)):
        return None
    if (reals and min(reals) < 0) or not all(abs(record[name]) <= _LARGEST for name in layout.signed):
        return None
    fields = {**layout.defaults, **record}
    for name in layout.texts:
        if not all(type(key) is str and type(value) is str for key, value in record[name].items()):
            return None
        fields[name] = dict(record[name])
    for name in layout.nested:
        if not all(type(key) is str and type(value) is dict for key, value in record[name].items()):
            return None
        fields[name] = {key: dict(value) for key, value in record[name].items()}
    for name in layout.empty:
        fields[name] = {}
    return fields


def _layout(cls: type, record: Mapping[str, Any], signed: tuple[str, ...]) -> _Layout | None:
    rules = _rules(cls)
    if not record.keys() <= rules.keys() or any(rule.required and name not in record for name, rule in rules.items()):
        return None
    kinds: dict[str, list[str]] = {"count": [], "signed": [], "number": [], "text": [], "nested": []}
    for name, value in record.items():
        rule = rules[name]
        if (value is None and rule.optional) or (type(value) is rule.hint and rule.is_word):
            continue
        if type(value) is int and rule.hint is int:
            kinds["signed" if name in signed else "count"].append(name)
        elif type(value) is float and rule.hint is float:
            kinds["number"].append(name)
        elif type(value) is dict and typing.get_origin(rule.hint) is Mapping:
            inner = typing.get_args(rule.hint)[1]
            kinds["text" if inner is str else "nested"].append(name)
        else:
            return None
    absent = [field for field in dataclasses.fields(cls) if field.name not in record]
    empty = tuple(field.name for field in absent if field.default_factory is not dataclasses.MISSING)
    defaults = {field.name: field.default for field in absent if field.name not in empty}
    counts, negative, reals, texts, nested = (tuple(names) for names in kinds.values())
    return _Layout(defaults, counts, negative, reals, texts, nested, empty)


def as_plain_json(record: Any) -> dict[str, Any]:
    """The fields of a settled record as JSON types, sharing nothing with it."""
    return {name: _copied(getattr(record, name)) for name in _rules(type(record))}


def brief(value: Any) -> str:
    """A value for an error message: its `repr`, cut short."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"<a number of {value.bit_length()} bits>"
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"


_RULES: dict[type, dict[str, _Rule]] = {}


def _rules(cls: type) -> dict[str, _Rule]:
    if cls in _RULES:
        return _RULES[cls]
    hints = typing.get_type_hints(cls)
    rules = {}
    for field in dataclasses.fields(cls):
        hint, optional = _without_none(hints[field.name])
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        rules[field.name] = _Rule(hint, optional, not has_default, is_word=hint in (str, bool))
    _RULES[cls] = rules
    return rules


def _without_none(hint: Any) -> tuple[Any, bool]:
    """``X | None`` -> (X, True); ``X`` -> (X, False)."""
    if typing.get_origin(hint) is not types.UnionType:
        return hint, False
    (inner,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    return inner, True


def _settled(value: Any, hint: Any, *, negative: bool = False) -> Any:
    if hint is int or hint is float:
        return _number(value, hint, negative=negative)
    if hint is Any:
        return _plain(value, 0)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _settled(value, _without_none(hint)[0])
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _Misfit("a list")
        return tuple(_settled(item, args[0]) for item in value)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _Misfit("a mapping")
        if not all(isinstance(key, str) for key in value):
            raise _Misfit("a mapping with names as keys")
        return {key: _settled(item, args[1]) for key, item in value.items()}
    if not isinstance(value, hint):
        raise _Misfit({"str": "text", "bool": "true or false"}[hint.__name__])
    return value


def _number(value: Any, hint: type, *, negative: bool) -> int | float:
    wanted = "a whole number" if hint is int else "a finite number"
    kind: Any = numbers.Integral if hint is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _Misfit(wanted)
    if hint is int:
        number: int | float = int(value)
        if abs(number) > _LARGEST:
            raise _Misfit("a whole number below 2**63")
    else:
        try:
            number = float(value)
        except OverflowError:
            raise _Misfit(wanted) from None
        if not math.isfinite(number):
            raise _Misfit(f"{wanted}, or left out where it is not known")
    if number < 0 and not negative:
        raise _Misfit(f"{wanted} that is not negative")
    return number


def _plain(value: Any, depth: int) -> Any:
    """Any JSON, copied, with the keys JSON would write."""
    if depth > _DEEPEST:
        raise _Misfit(f"nested no deeper than {_DEEPEST} levels")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return _number(value, int, negative=True)
    if isinstance(value, numbers.Real):
        return _number(value, float, negative=True)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) or type(key) is int for key in value):
            raise _Misfit("plain JSON, with names as keys")
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    raise _Misfit(f"plain JSON, and {type(value).__name__} is not")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value
