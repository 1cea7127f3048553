"""From the plain values of a YAML file to the dataclass they describe, and the JSON Schema of such a dataclass.

Annotations are the single source: `str`, `bool`, `int`, `float`, `Any`, dataclasses, `tuple[X, ...]` and
`Mapping[str, X]`, each also as `X | None`. Descriptions are the "Attributes:" of the docstring. What the values mean is
the business of the dataclass itself.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import BootstrapError, StudyError, did_you_mean
from ..fields import brief
from ..units import parse_count, parse_quantity

__all__ = ["json_schema", "load_yaml", "plain_fields", "read_fields"]

_T = TypeVar("_T")
_DEEPEST = 50


def load_yaml(path: str | Path) -> Any:
    """The plain values of a YAML (or JSON) file. Nothing in it is ever run: tags are refused, the harmless ones too.

    Raises:
        StudyError: no such file, or not YAML; or what takes time or memory without bound (aliases of aliases, lists
            in lists in lists), or a key that stands twice, of which one would be lost.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise StudyError(f"{path} uses YAML aliases (*name). Write the values out, or use like: in models.")
            if tag := getattr(event, "tag", None):
                raise StudyError(f"{path} has the tag {tag}, and nothing in a study is run. Write plain values.")
            if depth > _DEEPEST:
                raise StudyError(f"{path} is nested deeper than {_DEEPEST} levels, so it is no study. Check the path.")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _refuse_twice(node, path)
        return None if node is None else loader.construct_document(node)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}. Check the path.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise StudyError(f"{path} is not YAML: {error}. Correct the file.") from error


def _refuse_twice(node: Any, path: str | Path) -> None:
    """Stop at a mapping that has a key twice, which YAML would resolve in silence."""
    if node is None or isinstance(node.value, str):
        return
    keys: dict[tuple[str, str], int] = {}
    for item in node.value:
        parts = item if isinstance(item, tuple) else (item,)
        for part in parts:
            _refuse_twice(part, path)
        if len(parts) == 2 and isinstance(parts[0].value, str):
            key, line = (parts[0].tag, parts[0].value), parts[0].start_mark.line + 1
            if key in keys:
                raise StudyError(f"{path} has the key {key[1]!r} twice, in lines {keys[key]} and {line}. Remove one.")
            keys[key] = line


def read_fields(cls: type[_T], value: Any, where: str) -> _T:
    """Make a dataclass of what a file holds.

    Counts and quantities may be written as ``128k`` or ``3B``.

    Args:
        where: path inside the file for messages, such as ``methods[2]``.

    Raises:
        StudyError: no mapping, an unknown or missing key, or a value of another type; it names the place.
    """
    if not isinstance(value, Mapping):
        raise StudyError(f"{where} is {brief(value)}; it must be a mapping of names to values.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise StudyError(f"{where} has no key {brief(key)}. {did_you_mean(str(key), fields)}")
    missing = [name for name, field in fields.items() if _is_required(field) and name not in value]
    if missing:
        raise StudyError(f"{where} needs {', '.join(missing)}, which it lacks. Add what is missing.")
    read = {key: _read(hints[key], item, f"{where}.{key}") for key, item in value.items()}
    try:
        return cls(**read)
    except StudyError as error:
        raise StudyError(f"{where}: {error}") from error


def plain_fields(record: Any) -> Any:
    """The plain values that `read_fields` would read such a dataclass from; fields at their default are left out."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        found = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        usual = {field.name: _default(field) for field in dataclasses.fields(record)}
        return {name: plain_fields(value) for name, value in found.items() if value != usual[name]}
    if isinstance(record, Mapping):
        return {name: plain_fields(value) for name, value in record.items()}
    return [plain_fields(item) for item in record] if isinstance(record, tuple | list) else record


def json_schema(cls: type, title: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a file that `read_fields` reads."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_object_schema(cls)}


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) is not types.UnionType:
        return hint, False
    (inner,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    return inner, True


def _read(hint: Any, value: Any, where: str) -> Any:
    hint, optional = _without_none(hint)
    if value is None and optional:
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return read_fields(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, Mapping) and not _could_be(args[0], value):
            raise StudyError(f"{where} is a mapping; it must be a list. Put a dash before each of its items.")
        # One value where a list may stand is a list of one: `seeds: 1`.
        items = () if value is None else value if isinstance(value, list | tuple) else [value]
        return tuple(_read(args[0], item, f"{where}[{number}]") for number, item in enumerate(items))
    if origin is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise StudyError(f"{where} is {brief(value)}; it must be a mapping with names as keys, such as name: ...")
        return {key: _read(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _read_plain(hint, value, where)


def _could_be(hint: Any, value: Mapping[Any, Any]) -> bool:
    """Whether a mapping has a key of a dataclass, so that it may be meant as one."""
    return dataclasses.is_dataclass(hint) and bool({field.name for field in dataclasses.fields(hint)} & value.keys())


def _read_plain(hint: type, value: Any, where: str) -> Any:
    if hint in (int, float) and not isinstance(value, bool):
        try:
            return parse_count(value, where) if hint is int else parse_quantity(value, where)
        except BootstrapError as error:
            raise StudyError(str(error)) from error
    if type(value) is not hint:
        wanted = {str: "text", bool: "true or false", int: "a count", float: "a number"}[hint]
        raise StudyError(f"{where} is {brief(value)}; it must be {wanted}.")
    return value


def _object_schema(cls: type) -> dict[str, Any]:
    hints, told = typing.get_type_hints(cls), _descriptions(cls)
    fields = dataclasses.fields(cls)
    properties = {field.name: {**_schema(hints[field.name]), "description": told[field.name]} for field in fields}
    required = [field.name for field in fields if _is_required(field)]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _schema(hint: Any) -> dict[str, Any]:
    hint, optional = _without_none(hint)
    if optional:
        return {"anyOf": [_schema(hint), {"type": "null"}]}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint)  # type: ignore[arg-type]
    if origin is tuple:
        return {"anyOf": [{"type": "array", "items": _schema(args[0])}, _schema(args[0]), {"type": "null"}]}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    plain: dict[Any, dict[str, Any]] = {
        Any: {},
        str: {"type": "string"},
        bool: {"type": "boolean"},
        int: {"type": ["integer", "string", "number"]},
        float: {"type": ["number", "string"]},
    }
    return dict(plain[hint])


def _descriptions(cls: type) -> dict[str, str]:
    """What the docstring's "Attributes:" says of each field."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = {}
    for names, words in re.findall(r"^    (\w[\w, ]*): (.+(?:\n {8}.+)*)", text, re.MULTILINE):
        found.update({name: " ".join(words.split()) for name in re.split(r", ", names)})
    return found
