"""Runs that train nothing: they take time, write checkpoints and points as a real run does, and keep a journal."""

import errno
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.records import RunSpec, ScalingPoint
from hf_bootstrap.store import COMPLETE, RunFolder, append_point, write_json


def journal(study: Path, word: str, run_id: str) -> None:
    with open(study / "journal", "a") as file:
        file.write(f"{word} {run_id} {os.getpid()} {_study_process()}\n")


def _study_process() -> int | None:
    """The process that drives the study, above the server that this one was forked from."""
    parent = multiprocessing.parent_process()
    return parent.pid if parent else None


def read_journal(study: Path) -> list[list[str]]:
    if not (study / "journal").exists():
        return []
    return [line.split() for line in (study / "journal").read_text().splitlines()]


def loss_of(spec: RunSpec) -> float:
    """The founding law with made-up coefficients, so that points depend on the spec alone."""
    return 2.0 + 30 * (spec.base_tokens + 20_000) ** -0.1 * spec.tokens**-0.2


def run_one(folder: RunFolder, report: Callable[[int], None]) -> None:
    spec = folder.spec()
    journal(folder.study, "again" if folder.is_done() else "begin", spec.run_id)
    print(f"training {spec.run_id}")
    if spec.start and "/checkpoint-" in spec.start:
        assert (folder.study / "runs" / spec.start / COMPLETE).exists()
    begin = int(spec.start.rpartition("-")[2]) if spec.resume else 0
    own = folder.checkpoints()
    if own:
        begin = int(own[-1].name.rpartition("-")[2])
    for step in range(begin + 1, spec.tokens // spec.batch_tokens + 1):
        time.sleep(float(os.environ.get("FAKE_STEP", "0.003")))
        report(step * spec.batch_tokens)
        if step * spec.batch_tokens in spec.checkpoints:
            checkpoint = folder.path / f"checkpoint-{step}"
            checkpoint.mkdir(exist_ok=True)
            (checkpoint / "weights").write_text("w" * 100)
            write_json(checkpoint / COMPLETE, {"step": step})
    size = (spec.model or {}).get("num_hidden_layers") or 2
    append_point(
        folder.points_file,
        ScalingPoint(
            run_id=spec.run_id,
            parent_run_id=spec.parent_run_id,
            base_run_id=spec.base_run_id,
            base_checkpoint_id=spec.base_checkpoint_id,
            base_decayed=spec.base_decayed,
            method=spec.method,
            domain=spec.domain,
            seed=spec.seed,
            base_tokens=spec.base_tokens,
            tokens=spec.tokens,
            n_params_non_embedding=50_000 * size,
            phase="end" if spec.decay_tokens else "stable",
            loss=loss_of(spec),
        ),
    )
    journal(folder.study, "end", spec.run_id)
    folder.finish({"run_id": spec.run_id})


def fail_once(folder: RunFolder, report: Callable[[int], None]) -> None:
    """The first try of every run fails."""
    if not (folder.path / "tried").exists():
        (folder.path / "tried").touch()
        raise RuntimeError("the first try fails")
    run_one(folder, report)


def fail_from_scratch_on_code(folder: RunFolder, report: Callable[[int], None]) -> None:
    spec = folder.spec()
    if spec.domain == "code" and spec.model is not None:
        journal(folder.study, "begin", spec.run_id)
        raise RuntimeError("no text was found")
    run_one(folder, report)


def fill_the_disk_or_diverge(folder: RunFolder, report: Callable[[int], None]) -> None:
    """The stage from scratch on code finds no room on the disk, the one from the larger base diverges."""
    spec = folder.spec()
    if spec.domain == "code" and spec.model is not None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.path / "checkpoint-1"))
    if spec.domain == "code" and spec.base_tokens == 10_240 and not spec.resume:
        raise TrainingError("the run diverged: loss is nan at step 3. Lower its peak learning rate.")
    run_one(folder, report)


def say_threads(folder: RunFolder, report: Callable[[int], None]) -> None:
    print("threads", os.environ["OMP_NUM_THREADS"])
    print("main", __import__("sys").modules["__main__"].__name__)
    run_one(folder, report)


def forget_to_finish(folder: RunFolder, report: Callable[[int], None]) -> None:
    print("all is well")


def fake_run_command() -> list[str]:
    """A command that carries out one run folder, given at its end."""
    return [sys.executable, "-m", "tests.study.fake_runs"]


if __name__ == "__main__":
    run_one(RunFolder(sys.argv[1]), lambda tokens: None)
