"""The text of a study made ready: read, divided, shuffled by seed, mixed for replay, packed to token files.

Facts go to `text.json`; a study file whose texts changed, or text that changed, is packed again under the same names,
and the hashes in the runs' requests tell old runs from new. How tokens are made is handed in.
"""

import glob
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Protocol

from ..errors import StoreError, StudyError
from ..store import read_json, write_json
from .config import StudyConfig, TextConfig
from .text import documentation, python_code, reshuffled, split_documents

__all__ = ["Tokens", "is_text_of", "placeholder_facts", "prepare_text", "train_name"]

_TOKENIZER_CHARACTERS = 2_000_000
# A novel is one long document; cut into chapters, both sides of the division hold something of every author.
_CHAPTER = 20_000


class Tokens(Protocol):
    """What makes tokens of text; `hf_bootstrap.training.data` is one."""

    def load_tokenizer(self, path: str) -> Any:
        """The tokenizer of a folder or Hub model."""

    def train_tokenizer(self, documents: Iterable[str], vocab_size: int, folder: str | Path) -> Path:
        """Train one and give its folder."""

    def pack(
        self, documents: Sequence[str], tokenizer: Any, path: str | Path, *, replay_ratio: float | None = None
    ) -> Any:
        """Write a token file that says what was mixed into it.

        The answer has tokens, documents, text_bytes, hash and tokenizer_hash.
        """


def prepare_text(
    config: StudyConfig,
    folder: Path,
    tokens: Tokens,
    *,
    corpora: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Read the texts of a study, train its tokenizer and pack token files, once per folder and request.

    Args:
        corpora: folder that `files` of the texts start from.

    Returns:
        `text.json`: for each text its sides "train", "held_out" and, for seeds other than 0, "train-<seed>", each with
        `file`, `hash`, `tokens`, `documents`, `bytes` and `tokenizer_hash`; and "versions".

    Raises:
        StudyError: files that are not there, or too little text.
    """
    asked = _request(config, corpora)
    try:
        facts = read_json(folder / "text.json")
        if facts.get("request", asked) == asked:
            return facts
        say("The texts of the study changed: packing them again. Finished runs are kept.")
    except StoreError:
        pass
    facts = _pack_all(config, folder, tokens, corpora, say)
    write_json(folder / "text.json", {**facts, "request": asked})
    return facts


def placeholder_facts(config: StudyConfig) -> dict[str, Any]:
    """Facts of text that nobody has read yet, good for counting runs; their ids are not those of the real runs."""
    sides = ["held_out", *(train_name(seed) for seed in config.seeds)]
    sides += [
        train_name(seed, method.name) for method in config.methods if method.replay_ratio for seed in config.seeds
    ]
    return {
        name: {side: {"file": f"text/{name}-{side}.safetensors", "hash": "?", "tokenizer_hash": "?"} for side in sides}
        for name in config.texts
    }


def train_name(seed: int, replay_for: str = "") -> str:
    """The side of a text that runs of a seed train on; with a method's name, the one mixed for its replay."""
    return "train" + (f"-{seed}" if seed else "") + (f"-{replay_for}" if replay_for else "")


def is_text_of(config: StudyConfig, facts: Mapping[str, Any]) -> bool:
    """Whether text that was prepared is the one a study file asks for, as far as that can be told without the corpora.

    Seeds and mixes that the text has beyond those of the file do no harm: a narrowed study asks for fewer.
    """
    request = facts.get("request")
    if request is None:
        return True
    asked = _asked(config)
    mixes = request.get("mixes", {})
    has_mixes = all(mixes.get(name) == mix for name, mix in asked.pop("mixes").items())
    has_seeds = set(asked.pop("seeds")) <= set(request.get("seeds", ()))
    return has_mixes and has_seeds and all(request.get(name) == value for name, value in asked.items())


def _request(config: StudyConfig, corpora: Path | None) -> dict[str, Any]:
    """Everything that decides what the token files hold, so that a change of any of it is noticed."""
    files = {
        name: [[Path(file).name, _fingerprint(file)] for file in _files(name, text, corpora)]
        for name, text in config.texts.items()
        if text.files
    }
    return {**_asked(config), "files": files}


def _asked(config: StudyConfig) -> dict[str, Any]:
    """The part of a request that the study file and this machine decide, without the corpora."""
    is_of_this_machine = any(text.source for text in config.texts.values())
    return {
        "texts": {name: [text.source, list(text.files)] for name, text in config.texts.items()},
        "mixes": {m.name: [m.text, m.replay_text, m.replay_ratio] for m in config.methods if m.replay_ratio},
        "seeds": list(config.seeds),
        "tokenizer": [config.vocab_size, config.tokenizer],
        "held_out_characters": config.held_out_characters,
        **({"versions": _versions()} if is_of_this_machine else {}),
    }


def _fingerprint(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(f"{file} cannot be read: {error.strerror}. Check it and its permissions.") from error


def _versions() -> dict[str, str]:
    return {"python": python_version(), **{name: version(name) for name in ("numpy", "scipy")}}


def _pack_all(
    config: StudyConfig, folder: Path, tokens: Tokens, corpora: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    say(f"Reading the text of {', '.join(config.texts)}")
    splits = {name: split_documents(_documents(name, text, corpora)) for name, text in config.texts.items()}
    place = config.tokenizer
    if config.vocab_size is not None:
        say(f"Training a tokenizer of {config.vocab_size} entries and packing tokens")
        sample = [text for split in splits.values() for text in _first(split.train, _TOKENIZER_CHARACTERS)]
        place = str(tokens.train_tokenizer(sample, config.vocab_size, folder / "tokenizer"))
    tokenizer = tokens.load_tokenizer(str(place))
    facts: dict[str, Any] = {"versions": _versions()}

    def pack(name: str, side: str, documents: Sequence[str], replay_ratio: float | None = None) -> None:
        file = f"text/{name}-{side}.safetensors"
        packed = tokens.pack(documents, tokenizer, folder / file, replay_ratio=replay_ratio)
        facts.setdefault(name, {})[side] = {
            "file": file,
            "tokens": packed.tokens,
            "documents": packed.documents,
            "bytes": packed.text_bytes,
            "hash": packed.hash,
            "tokenizer_hash": packed.tokenizer_hash,
            **({} if replay_ratio is None else {"replay_ratio": replay_ratio}),
        }

    for name, split in splits.items():
        for seed in config.seeds if 0 in config.seeds else (0, *config.seeds):
            pack(name, train_name(seed), reshuffled(split.train, seed))
        pack(name, "held_out", _first(split.held_out, config.held_out_characters))
    for method in config.methods:
        if method.replay_text is not None:
            for seed in method.seeds or config.seeds:
                own, old = (reshuffled(splits[name].train, seed) for name in (method.text, method.replay_text))
                mixed = _mixed(own, old[::-1], method.replay_ratio)
                pack(method.text, train_name(seed, method.name), mixed, replay_ratio=method.replay_ratio)
    return facts


def _mixed(own: Sequence[str], old: Sequence[str], ratio: float) -> list[str]:
    """Documents of two texts in turn, so that at any length about `ratio` of the characters are of the second.

    The second is read from its end, where a base that saw its beginning has the least of it in mind.
    """
    mixed: list[str] = []
    sizes, places = [0, 0], [0, 0]
    while places[0] < len(own):
        second = sizes[1] <= ratio * sum(sizes)
        if second and places[1] == len(old):
            break  # text is never repeated in silence; the run that needs more says so
        document = (old if second else own)[places[second]]
        places[second] += 1
        sizes[second] += len(document)
        mixed.append(document)
    return mixed


def _files(name: str, text: TextConfig, corpora: Path | None) -> list[str]:
    if corpora is None:
        raise StudyError(f"The text {name!r} is read from files. Say where the corpora are with --corpora DIR.")
    found = sorted({file for pattern in text.files for file in glob.glob(str(corpora / pattern), recursive=True)})
    if not found:
        raise StudyError(f"The text {name!r} asks for {', '.join(text.files)} under {corpora}: there is no such file.")
    return found


def _documents(name: str, text: TextConfig, corpora: Path | None) -> list[str]:
    if text.source is not None:
        return {"documentation": documentation, "python-code": python_code}[text.source]()
    documents = []
    for file in _files(name, text, corpora):
        for whole in _read(Path(file)):
            documents.extend(_chapters(whole))
    return documents


def _read(file: Path) -> list[str]:
    try:
        if ".parquet" in file.suffixes:
            import pyarrow.parquet

            return [str(row) for row in pyarrow.parquet.read_table(file, columns=["text"])["text"].to_pylist() if row]
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        content = raw.decode()
        if ".jsonl" in file.suffixes:
            return [json.loads(line)["text"] for line in content.splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StudyError(f"{file} cannot be read as text: {error}. Give UTF-8 .txt, .jsonl or .parquet.") from error
    return [content]


def _chapters(document: str) -> list[str]:
    """A long document in parts of about 20,000 characters, cut where a paragraph, else a line, else a sentence ends."""
    parts, start = [], 0
    while len(document) - start > 2 * _CHAPTER:
        end = next(
            (
                at + len(mark)
                for mark in ("\n\n", "\n", ". ", " ")
                if (at := document.find(mark, start + _CHAPTER)) >= 0 and at < start + 2 * _CHAPTER
            ),
            start + _CHAPTER,
        )
        parts.append(document[start:end])
        start = end
    return [part for part in (*parts, document[start:]) if part.strip()]


def _first(texts: Sequence[str], characters: int) -> list[str]:
    """Texts from the start until they hold that many characters."""
    taken, size = [], 0
    for text in texts:
        if size >= characters:
            break
        taken.append(text)
        size += len(text)
    return taken
