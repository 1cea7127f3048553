"""A study file from text to report: text made ready, runs carried out, laws fitted, the report written.

How tokens are made and how a run trains are handed in; every step is one call of the module that knows it.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BootstrapError, StudyError
from ..records import RunSpec, ScalingPoint
from ..store import RunFolder, lock, read_json
from ..units import format_bytes
from .adopt import adopt_runs
from .cluster import JobWindow
from .config import StudyConfig
from .corpora import Tokens, is_text_of, placeholder_facts, prepare_text
from .costs import checkpoint_bytes, shapes, tokens_needed
from .emit import job_command
from .mixtures import mixed_releases, mixed_text
from .points import best_rates
from .queue import lacks_start
from .run import run_study
from .runs import known_runs, note_runs, study_runs

__all__ = [
    "check_room",
    "check_text",
    "check_tokenizers",
    "conduct_study",
    "make_ready",
    "planned_runs",
    "to_do",
    "write_study_report",
]


def conduct_study(
    config: StudyConfig,
    folder: str | Path,
    tokens: Tokens,
    run_one: str,
    *,
    corpora: str | Path | None = None,
    points: str | Path | None = None,
    workers: int = 2,
    retries: int = 1,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    executor: str | None = None,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[ScalingPoint]:
    """Carry out what is missing of a study; see `run_study` for how.

    Args:
        folder: for everything: `text/`, `runs/`, `points/`.
        tokens: what makes tokens of text, such as the module `hf_bootstrap.training.data`.
        run_one: ``"package.module:function"`` that trains one run.
        corpora: folder that `files` of the texts start from.
        points: a file with points of runs done elsewhere, which are then not done again (`adopt`).
        workers: processes at a time, one thread each.
        retries: times a failed run is tried again.
        only, seeds: methods and seeds to carry out; all if empty.
        executor: "slurm" or "local" for jobs by submitit (`cluster.JobWindow`) instead of processes of this machine.
        options: for that executor.
        say: told each stage.

    Returns:
        The points of the study's runs; where several rates were tried, those of the best.

    Raises:
        StudyError: text that is missing or too short, too little disk, or runs that failed.
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    specs = make_ready(config, folder, tokens, corpora=corpora, points=points, only=only, seeds=seeds, say=say)
    window = None
    if executor is not None:
        window = JobWindow(folder, job_command("DIR")[:-1], workers, executor, dict(options or {}))
    measured = run_study(specs, folder, run_one, workers=workers, retries=retries, window=window)
    return best_rates(measured)[0]


def make_ready(
    config: StudyConfig,
    folder: Path,
    tokens: Tokens,
    *,
    corpora: str | Path | None = None,
    points: str | Path | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    say: Callable[[str], None] = print,
) -> list[RunSpec]:
    """Prepare the text and give the runs, after checking that text and disk suffice for them.

    The text is that of the whole study, also where only some of its methods and seeds are asked for; so are the runs
    noted for reports. Another process that prepares the text is waited for.

    Raises:
        StudyError: they do not; nothing was started.
    """
    with lock(folder / "text", wait=say):
        facts = prepare_text(config, folder, tokens, corpora=None if corpora is None else Path(corpora), say=say)
    if points is not None:
        taken = adopt_runs(study_runs(config, facts, known_runs(folder)), folder, points)
        say(f"{len(taken)} runs taken over from {points}")
    known = known_runs(folder)
    whole = study_runs(config, facts, known)
    specs = study_runs(config.narrowed(only, seeds), facts, known) if only or seeds else whole
    left = to_do(specs, folder)
    check_text(specs, facts)
    check_room(specs, folder)
    check_tokenizers(config, left, tokens, say)
    note_runs(folder, config.name, whole)
    say(f"{len(specs)} runs, {len(specs) - len(left)} of them done before")
    if gone := [spec for spec in left if lacks_start(spec)]:
        say(
            f"There is no model in {', '.join(sorted({str(spec.start) for spec in gone}))} (no config.json), so "
            f"{len(gone)} runs cannot start, and what comes after them; the rest goes on. Check the path of the "
            "checkpoint in the study file."
        )
    return specs


def planned_runs(config: StudyConfig, folder: Path | None) -> tuple[list[RunSpec], bool]:
    """The runs of a study, and whether their ids are those of the real runs: the text it asks for must be ready."""
    if folder is not None and (folder / "text.json").exists():
        facts = read_json(folder / "text.json")
        if is_text_of(config, facts):
            with contextlib.suppress(KeyError):  # a text that the file has and text.json has not yet
                return study_runs(config, facts, known_runs(folder)), True
    return study_runs(config, placeholder_facts(config)), False


def check_text(specs: Sequence[RunSpec], facts: Mapping[str, Any]) -> None:
    """Refuse runs that would need a text more than once.

    Raises:
        StudyError: it names each file, what it has and what is asked.
    """
    has = {
        side["file"]: int(side["tokens"]) - 1
        for sides in facts.values()
        if isinstance(sides, Mapping)
        for side in sides.values()
        if isinstance(side, Mapping) and "file" in side
    }
    short = [
        f"{file} has {has[file]:,} tokens and {count:,} are asked of it"
        for file, count in tokens_needed(specs).items()
        if file in has and has[file] < count
    ]
    if short:
        raise StudyError(
            f"There is too little text: {'; '.join(short)}. Give more text or smaller marks; text is never repeated "
            "in silence."
        )


def to_do(specs: Sequence[RunSpec], folder: Path) -> list[RunSpec]:
    """The runs that are not done."""
    return [spec for spec in specs if not RunFolder(folder / "runs" / spec.run_id).is_done()]


def check_tokenizers(
    config: StudyConfig, specs: Sequence[RunSpec], tokens: Tokens, say: Callable[[str], None] = print
) -> None:
    """Refuse bases trained elsewhere whose tokenizer gives the entries of the study's other ids.

    Args:
        specs: the runs to do; bases that none of them starts from are left alone.
        say: told of tokenizers that could not be looked at.

    Raises:
        StudyError: naming the base.
    """
    starts = {spec.start for spec in specs}
    used = (one for base in config.bases for one in base.checkpoints if one.name in starts)
    paths = dict.fromkeys([config.tokenizer or "", *(one.path for one in used)])
    vocabularies = {}
    for path in paths if len(paths) > 1 else ():
        try:
            vocabularies[path] = tokens.load_tokenizer(path).get_vocab()
        except BootstrapError as error:
            say(f"Whether the bases read the study's tokens is not checked with {path}: {error}")
    own = vocabularies.pop(config.tokenizer or "", {})
    for path, its in vocabularies.items():
        if other := next((entry for entry, number in own.items() if its.get(entry) != number), None):
            raise StudyError(
                f"The base {path} was trained on the tokens of another tokenizer than {config.tokenizer}: {other!r} is "
                f"{own[other]} here and {its.get(other, 'unknown')} there. Give the base's own as tokenizer."
            )


def check_room(specs: Sequence[RunSpec], folder: Path) -> None:
    """Refuse a study whose checkpoints do not fit on the disk: long lines of runs go first, so most are there at once.

    Raises:
        StudyError: with the bytes needed and free.
    """
    import shutil

    missing = {spec.run_id for spec in to_do(specs, folder)}
    needed = sum(checkpoint_bytes(spec, shape) for run_id, (spec, shape) in shapes(specs).items() if run_id in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StudyError(
            f"The checkpoints of the {len(missing)} runs to do may take {format_bytes(needed)} and {folder} has "
            f"{format_bytes(free)} free. Free some space, or take fewer marks."
        )


def write_study_report(
    folder: str | Path, points: Sequence[ScalingPoint], notes: Sequence[str] = ()
) -> tuple[Path, str]:
    """Fit the laws of a study and write `report.html`.

    Args:
        points: of the study, the best of several rates chosen.
        notes: sentences on runs whose points are not among them.

    Returns:
        The page, and a summary for the terminal.

    Raises:
        StoreError: the folder cannot be written.
    """
    from .analysis import analyse
    from .report import terminal_summary, write_report

    folder = Path(folder)
    findings = analyse(folder, points)
    facts = read_json(folder / "text.json") if (folder / "text.json").exists() else {}
    notes = [*mixed_text(points), *notes]
    report = write_report(folder, points, findings, text=facts, notes=notes)
    mixed = [f"Mixed: releases of {name}: {', '.join(kinds)}." for name, kinds in mixed_releases(points).items()]
    return report, "\n".join([terminal_summary(findings, points), *mixed, *notes])
