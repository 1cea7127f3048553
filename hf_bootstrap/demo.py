"""The main job, end to end on text found on this machine: base, second stages, points, laws, report.

Small but real: nothing here is made up, and every part is the library's own. It knows both crafts and
wires them together; the parts know nothing of it.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from .errors import StoreError
from .store import lock, read_json, write_json
from .study.grid import Corpus, Grid, Method
from .study.text import Split, documentation, python_code, split_documents

__all__ = ["demo_grid", "prepare_text", "run_demo"]

_VOCABULARY = 512
# Every run scores the held-out text of both domains, so it is short: about 60,000 tokens each.
_HELD_OUT_CHARACTERS = 120_000
_TOKENIZER_CHARACTERS = 2_000_000

_BASE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_DEEP = {**_BASE, "num_hidden_layers": 4}
_WIDE = {**_BASE, "hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4, "num_key_value_heads": 4}
_BASE_TOKENS = (131_072, 327_680, 819_200, 2_048_000)
_GROWN_TOKENS = (131_072, 262_144, 524_288)
_CONTINUED_TOKENS = (*_GROWN_TOKENS, 1_048_576)


def run_demo(out: str | Path, *, workers: int = 2, say: Callable[[str], None] = print) -> Path:
    """Train, continue, grow, measure, fit, and write the report; go on where an earlier call was stopped.

    Args:
        out: folder for everything: `runs/`, `points/`, `law-<method>/`, `report.html`.
        workers: processes at a time, one thread each.
        say: told each stage and, at the end, the summary.

    Returns:
        The report's path.

    Raises:
        StudyError: text or a run that failed; finished runs are kept.
        StoreError: another process works in `out`, or a file cannot be written.
    """
    from .study.analysis import analyse
    from .study.report import terminal_summary, write_report
    from .study.run import run_study

    out = Path(out)
    with lock(out / "text"):
        facts = prepare_text(out, say)
    specs = demo_grid(facts).specs()
    say(f"Training {len(specs)} runs, {workers} at a time")
    points = run_study(specs, out, "hf_bootstrap.training.loop:run_one", workers=workers)
    say("Fitting laws and writing the report")
    findings = analyse(out, points)
    report = write_report(out, points, findings, text=facts)
    say(terminal_summary(findings, points))
    return report


def prepare_text(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Find text, train a tokenizer and pack token files, once per folder.

    Returns:
        `text.json`: files, hashes and sizes of documentation ("docs", the base domain) and Python code ("code",
        the target domain), and the versions they come from.
    """
    try:
        return read_json(out / "text.json")
    except StoreError:
        facts = _pack_text(out, say)
        write_json(out / "text.json", facts)
        return facts


def demo_grid(facts: Mapping[str, Any]) -> Grid:
    """The runs of the demo: four bases, three ways to reuse each, and the same models from scratch.

    Args:
        facts: as `prepare_text` returns them.

    The peak rate is the best of 1e-3, 2e-3, 3e-3, 4e-3 and 6e-3 for the base at 819,200 tokens: losses 3.063, 3.021,
    3.027, 3.090 and 3.107.
    """
    docs, code = _corpus(facts, "docs", "code"), _corpus(facts, "code", "docs")
    return Grid(
        model=_BASE,
        corpus=docs,
        base_tokens=_BASE_TOKENS,
        methods=(
            Method(name="continue", corpus=code, tokens=_CONTINUED_TOKENS, scratch=_BASE),
            Method(
                name="stack", corpus=docs, tokens=_GROWN_TOKENS, scratch=_DEEP,
                growth={"depth": 2, "depth_method": "stack"},
            ),
            Method(
                name="expand-split", corpus=docs, tokens=_GROWN_TOKENS, scratch=_WIDE,
                growth={"width": 2, "width_method": "split"},
            ),
        ),
        peak_lr=2e-3,
        tokenizer="tokenizer",
        tokenizer_hash=facts["docs"]["train"]["tokenizer_hash"],
        attention="eager",
    )  # fmt: skip


def _corpus(facts: Mapping[str, Any], domain: str, other: str) -> Corpus:
    """A domain to train on, scored on its own held-out text first and on the other's beside it."""
    return Corpus(
        domain=domain,
        data=facts[domain]["train"]["file"],
        data_hash=facts[domain]["train"]["hash"],
        eval_sets={name: facts[name]["held_out"]["file"] for name in (domain, other)},
        eval_hash=facts[domain]["held_out"]["hash"],
    )


def _pack_text(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Token files and the facts about them, for `text.json`."""
    from .training.data import load_tokenizer, pack, train_tokenizer

    say("Reading documentation and code found on this machine")
    splits = {"docs": split_documents(documentation()), "code": split_documents(python_code())}
    say(f"Training a tokenizer of {_VOCABULARY} entries and packing tokens")
    sample = [text for split in splits.values() for text in _first(split.train, _TOKENIZER_CHARACTERS)]
    tokenizer = load_tokenizer(str(train_tokenizer(sample, _VOCABULARY, out / "tokenizer")))
    facts: dict[str, Any] = {
        "versions": {"python": python_version(), **{name: version(name) for name in ("numpy", "scipy")}}
    }
    for domain, split in splits.items():
        facts[domain] = _pack_split(out, domain, split, pack, tokenizer)
    return facts


def _pack_split(out: Path, domain: str, split: Split, pack: Callable[..., Any], tokenizer: Any) -> dict[str, Any]:
    found = {}
    for side, texts in (("train", split.train), ("held_out", _first(split.held_out, _HELD_OUT_CHARACTERS))):
        file = f"text/{domain}-{side}.safetensors"
        packed = pack(texts, tokenizer, out / file)
        found[side] = {
            "file": file,
            "tokens": packed.tokens,
            "documents": packed.documents,
            "bytes": packed.text_bytes,
            "hash": packed.hash,
            "tokenizer_hash": packed.tokenizer_hash,
        }
    return found


def _first(texts: Sequence[str], characters: int) -> list[str]:
    """Texts from the start until they hold that many characters."""
    taken, size = [], 0
    for text in texts:
        if size >= characters:
            break
        taken.append(text)
        size += len(text)
    return taken
