"""What no run could be: models, text and training of a study that cannot go together, told from its file alone.

Only what the file states is judged, since what it leaves out has defaults that transformers alone knows. Without torch.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import GrowthError, StudyError, did_you_mean
from ..growth.config import DTYPES_TO_WRITE, SIZE_FIELDS, GrowthConfig
from ..records import AUTOCAST
from .sizes import SIZE_NAMES, stated_size

if TYPE_CHECKING:
    from .config import BaseConfig, MethodConfig, StudyConfig

__all__ = ["check_possible"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,60}")
_TAKEN = ("scratch", "other-rates", "versions", "request")
# 256 bytes and the end-of-text token.
_SMALLEST_VOCABULARY = 257
_ATTENTION = (
    "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4", "torch_varlen",
)  # fmt: skip
# transformers refuses these where heads do not divide the hidden size, head_dim or not; in others heads have a width of
# their own.
_DIVIDED = ("gpt2", "gpt_neox", "llama", "opt")


def check_possible(config: "StudyConfig") -> None:
    """Refuse a study of which some run could not even begin.

    Raises:
        StudyError: naming the model, the method or the key, and the values.
    """
    _check_names(config)
    _check_marks(config)
    _check_training(config)
    from_scratch = (name for method in config.methods for name in method.scratch)
    for name in (*(base.model for base in config.bases), *from_scratch):
        if name is not None:
            _check_model(name, config.model(name), config.vocab_size, config.training.sequence_length)
    _check_elsewhere(config)
    for method in config.methods:
        for base in config.bases:
            _check_growth(config, method, base)


def _check_training(config: "StudyConfig") -> None:
    """Refuse a tokenizer, a type or an attention that is none."""
    training, vocabulary = config.training, config.vocab_size
    if vocabulary is not None and vocabulary < _SMALLEST_VOCABULARY:
        raise StudyError(
            f"vocab_size is {vocabulary}, but a tokenizer of bytes holds 256 of them and the end of text. Ask for "
            f"{_SMALLEST_VOCABULARY} or more."
        )
    if training.dtype not in DTYPES_TO_WRITE:
        raise StudyError(f"training.dtype is {training.dtype!r}. {did_you_mean(training.dtype, DTYPES_TO_WRITE)}")
    if training.autocast not in AUTOCAST:
        raise StudyError(f"training.autocast is {training.autocast!r}. {did_you_mean(training.autocast, AUTOCAST)}")
    attention = training.attention
    # A name with a slash is a kernel on the Hub.
    if attention is not None and attention not in _ATTENTION and "/" not in attention:
        raise StudyError(f"training.attention is {attention!r}. {did_you_mean(attention, _ATTENTION)}")


def _check_names(config: "StudyConfig") -> None:
    """Refuse names that lead nowhere, that no file could have, or that stand twice."""
    texts = [*(base.text for base in config.bases), *config.eval_texts]
    texts += [text for method in config.methods for text in (method.text, method.replay_text) if text]
    models = [base.model for base in config.bases] + [name for method in config.methods for name in method.scratch]
    for what, names, known in (("text", texts, config.texts), ("model", models, config.models)):
        for name in names:
            if name is not None and name not in known:
                raise StudyError(f"there is no {what} {name!r}. {did_you_mean(name, known)}")
    for name in (config.name, *config.texts, *(method.name for method in config.methods)):
        # Names become parts of file names.
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise StudyError(
                f"{name!r} cannot be a name: it becomes part of a file's name. Use letters, digits, and . _ + - "
                f"inside; {' and '.join(_TAKEN)} are taken."
            )
    twice = {m.name for m in config.methods if [n.name for n in config.methods].count(m.name) > 1}
    if twice:
        raise StudyError(f"methods {sorted(twice)} are given twice; a law is fitted by name. Rename one.")
    for name, fields in config.models.items():
        if not isinstance(fields, Mapping):
            raise StudyError(f"model {name!r} is {fields!r}; it must be a mapping, the config of a model.")
    for name in config.models:
        config.model(name)


def _check_marks(config: "StudyConfig") -> None:
    """Refuse marks, seeds and models from scratch that do not go with the bases."""
    for base in config.bases:
        if not all(count > 0 for count in (*base.tokens, *(checkpoint.tokens for checkpoint in base.checkpoints))):
            raise StudyError("a base has 0 tokens; a model from scratch is the scratch: of a method, not a base.")
    marks = {count for base in config.bases for count in base.tokens}
    marks |= {checkpoint.tokens for base in config.bases for checkpoint in base.checkpoints}
    for method in config.methods:
        if len(method.scratch) not in (0, 1, len(config.bases)):
            raise StudyError(
                f"method {method.name!r} has {len(method.scratch)} models in scratch, and the study has "
                f"{len(config.bases)} bases. Give one for all, or one for each in the order of bases."
            )
        for what, asked, known in (("base_tokens", method.base_tokens, marks), ("seeds", method.seeds, config.seeds)):
            if extra := sorted(set(asked) - set(known)):
                raise StudyError(f"method {method.name!r} has {what} {extra}, which the study has not. Known: {known}")


def _check_elsewhere(config: "StudyConfig") -> None:
    """Refuse bases trained elsewhere that could not read the tokens, or of which two would be one model."""
    elsewhere = [checkpoint for base in config.bases for checkpoint in base.checkpoints]
    if elsewhere and config.vocab_size is not None:
        raise StudyError(
            "bases trained elsewhere read the tokens of their own tokenizer, and vocab_size trains another. Give "
            "tokenizer, a folder or the name that the bases have on the Hub, in its place."
        )
    for one in elsewhere:
        is_folder = one.path.startswith(("/", "."))
        if one.revision is not None and (is_folder or not one.revision):
            raise StudyError(
                f"checkpoint {one.path!r} has revision {one.revision!r}; only names on the Hub have them, and none is "
                "empty. Leave it out."
            )
    for name, revision in {(one.path, one.revision) for one in elsewhere}:
        marks = sorted({one.tokens for one in elsewhere if (one.path, one.revision) == (name, revision)})
        if len(marks) > 1:
            raise StudyError(
                f"checkpoint {name!r} is given with {' and '.join(f'{mark:,}' for mark in marks)} tokens, and is one "
                "model. Give the revision of each, or another path."
            )


def _check_model(name: str, model: Mapping[str, Any], vocabulary: int | None, length: int) -> None:
    if not isinstance(model.get("model_type"), str):
        raise StudyError(
            f"model {name!r} has model_type {model.get('model_type')!r}; it must name an architecture, such as llama."
        )
    for key in sorted(SIZE_NAMES & model.keys()):
        size = model[key]
        # A list has one for each layer; what such a model needs, transformers knows.
        if not (size is None or isinstance(size, list) or (type(size) is int and size > 0)):
            raise StudyError(f"model {name!r} has {key} {size!r}; it must be a whole number above 0. Correct it.")
    rows, positions = stated_size(model, "vocab_size"), stated_size(model, "max_position_embeddings")
    if rows is not None and vocabulary is not None and rows < vocabulary:
        raise StudyError(
            f"model {name!r} has vocab_size {rows}, but the study's tokenizer has {vocabulary} entries: the model "
            f"could not read its tokens. Give the model at least {vocabulary}."
        )
    if positions is not None and positions < length + 1:
        raise StudyError(
            f"model {name!r} has {positions} positions (max_position_embeddings), but a block of sequence_length "
            f"{length} has {length + 1}, for neighbours overlap by one. Give more positions or shorter blocks."
        )
    hidden, heads, groups = (
        stated_size(model, key) for key in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    if model.get("model_type") in _DIVIDED and hidden and heads and hidden % heads:
        raise StudyError(
            f"model {name!r} has hidden_size {hidden}, which {heads} attention heads cannot share evenly. Make it a "
            f"multiple of {heads}."
        )
    if heads and groups and heads % groups:
        raise StudyError(
            f"model {name!r} has {heads} attention heads, which cannot share {groups} key/value heads evenly. Make "
            f"them a multiple of {groups}."
        )


def _check_growth(config: "StudyConfig", method: "MethodConfig", base: "BaseConfig") -> None:
    """Refuse a growth that a base trained here cannot have."""
    if method.growth is None or base.model is None or not method.from_base:
        return
    model, growth = config.model(base.model), GrowthConfig.from_dict(method.growth)
    sizes = {kind: size for kind, key in SIZE_FIELDS.items() if (size := stated_size(model, key)) is not None}
    layers = stated_size(model, "num_hidden_layers")
    try:
        if all(kind in sizes for kind, key in SIZE_FIELDS.items() if getattr(growth, key) is not None):
            growth.factors(sizes)
        if layers is not None:
            growth.layers(layers)
    except GrowthError as error:
        raise StudyError(f"method {method.name!r} cannot grow model {base.model!r}: {error}") from error
