"""Flags of an entry point, from the command line or a YAML file; what would not be heeded is refused, not dropped."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import field, fields
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..errors import DataError, TrainingError, did_you_mean
from ..units import parse_count

__all__ = ["check_base", "option", "read_flags", "settle_steps"]

# What a run of exact points cannot heed: the value that asks for nothing, the reason, and the way out.
_UNHEEDED = {
    "num_train_epochs": (0.0, "how long to train is said in trained tokens", "Give --max_tokens"),
    "load_best_model_at_end": (False, "the last point is that of the last weights", "Leave it out"),
    "auto_find_batch_size": (False, "the batch is part of every point", "Set --per_device_train_batch_size"),
    "ignore_data_skip": (False, "a resumed run would read the same text again", "Leave it out"),
}


def option(text: str, default: Any = None) -> Any:
    """A field of a dataclass of flags: its line of --help, and its default."""
    return field(default=default, metadata={"help": text})


def read_flags(parser: HfArgumentParser, **defaults: Any) -> tuple[Any, ...]:
    """The dataclasses of a parser from the words of the command line, or from the one YAML file they name.

    A file is read as the flags it stands for, so defaults and kinds of values are the same.

    Args:
        defaults: other ones than the dataclasses have.

    Raises:
        TrainingError: a file that is no mapping of flags, or a flag of TrainingArguments that is not heeded.
    """
    words = sys.argv[1:]
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        words = list(_words(words[0], {known.name for kind in parser.dataclass_types for known in fields(kind)}))
    parser.set_defaults(**{"num_train_epochs": 0.0, **defaults})
    found: tuple[Any, ...] = parser.parse_args_into_dataclasses(args=words)
    for name, (nothing, reason, way_out) in _UNHEEDED.items():
        for arguments in found:
            if getattr(arguments, name, nothing) != nothing:
                value = getattr(arguments, name)
                raise TrainingError(f"--{name} {value} is not heeded here: {reason}. {way_out}.")
    return found


def _words(path: str, known: set[str]) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            flags = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path} cannot be read as YAML: {error}. Check the path and the file.") from error
    if not isinstance(flags, dict):
        raise TrainingError(f"{path} holds {type(flags).__name__}, not flags. Write one `name: value` on each line.")
    for name, value in flags.items():
        if name not in known:
            raise TrainingError(f"{path} has {name!r}, which is no flag. {did_you_mean(str(name), known)}")
        if value is None or value == []:
            continue
        yield f"--{name}"
        if isinstance(value, dict):
            yield json.dumps(value)
        else:
            yield from map(_word, value if isinstance(value, list) else [value])


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def settle_steps(args: TrainingArguments, max_tokens: str | None, step: int, *, default: str) -> None:
    """Set `args.max_steps` to what the flags ask for, in tokens or in steps.

    Args:
        max_tokens: trained tokens, as said; None where nothing was said.
        step: trained tokens of one step, all processes.
        default: of `max_tokens`, where steps were not said either.

    Raises:
        DataError: both are said, or less than one step.
    """
    if args.max_steps > 0 and max_tokens is not None:
        raise DataError(
            f"--max_tokens {max_tokens} and --max_steps {args.max_steps} both say how long to train. Leave one out."
        )
    if args.max_steps > 0:
        return
    asked = max_tokens or default
    args.max_steps = parse_count(asked, "--max_tokens") // step
    if args.max_steps < 1:
        raise DataError(f"--max_tokens {asked} is less than one step, which trains {step:,}. Train longer.")


def check_base(model: str | None, base_tokens: str | None, others: Mapping[str, Any]) -> int:
    """D1 of a run, 0 from scratch.

    Args:
        model: the base, by its folder or name; None from scratch.
        base_tokens: as said; None where nothing was.
        others: flags that only mean something beside a base, by name; None or False where they were not said.

    Raises:
        DataError: a base without its tokens, or the rest without a base.
    """
    if model is not None and base_tokens is None:
        raise DataError(
            f"--model_name_or_path {model} needs --base_tokens: without them the points would say that it was trained "
            "on nothing, and the advised rate would be one for scratch. Its card tells them, such as 6.5e9; 0 is for a "
            "model that was never trained."
        )
    said = [f"--{name}" for name, value in {"base_tokens": base_tokens, **others}.items() if value not in (None, False)]
    if model is None and said:
        raise DataError(
            f"{', '.join(said)} without --model_name_or_path: without a model a tiny one is trained on code of this "
            "machine, and they would not be heeded. Name the model, or leave them out."
        )
    return parse_count(base_tokens or "0", "--base_tokens")
