"""A study as files of other engines: Slurm arrays, Hugging Face Jobs, SkyPilot. Each carries out run folders.

The folders are written here; a job is always the same command on one folder, and doing it twice does no harm.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import StudyError, did_you_mean
from ..records import RunSpec
from ..store import RunFolder
from .grid import start_run_id

__all__ = ["FORMATS", "emit_jobs", "job_command", "levels"]

# Slurm refuses arrays of more than 1,001 unless told otherwise.
_ARRAY = 1000

FORMATS = ("slurm", "hf-jobs", "skypilot")


def job_command(folder: str | Path) -> list[str]:
    """The command that carries out one run folder, in one process or many."""
    return ["accelerate", "launch", "-m", "hf_bootstrap.cli", "run", str(folder)]


def levels(specs: Sequence[RunSpec], folder: Path) -> list[list[str]]:
    """Ids of the runs that are not done, in levels: a run starts from runs of earlier levels, or from done ones."""
    depth: dict[str, int] = {}
    found: list[list[str]] = []
    for spec in specs:
        run_id = spec.run_id
        if RunFolder(folder / "runs" / run_id).is_done():
            continue
        depth[run_id] = depth.get(start_run_id(spec) or "", -1) + 1
        while len(found) <= depth[run_id]:
            found.append([])
        found[depth[run_id]].append(run_id)
    return found


def emit_jobs(name: str, specs: Sequence[RunSpec], folder: str | Path, form: str) -> str:
    """Write the folders of the runs that are not done, and give the text of the file that carries them out.

    Args:
        name: of the study.
        specs: its runs, each after the one it starts from.
        folder: of the study; its path must be the same where the jobs run.
        form: one of `FORMATS`.

    Raises:
        StudyError: an unknown format, or nothing left to do.
        StoreError: a folder that cannot be written.
    """
    if form not in FORMATS:
        raise StudyError(f"There is no format {form!r}. {did_you_mean(form, FORMATS)}")
    folder = Path(folder).absolute()
    layers = levels(specs, folder)
    if not layers:
        raise StudyError(f"All {len(specs)} runs of the study are done; there is nothing to emit.")
    for spec in specs:
        RunFolder.create(folder, spec)
    paths = [[str(folder / "runs" / run_id) for run_id in layer] for layer in layers]
    return {"slurm": _slurm, "hf-jobs": _hf_jobs, "skypilot": _skypilot}[form](name, paths)


def _slurm(name: str, layers: Sequence[Sequence[str]]) -> str:
    """A shell script that submits the arrays of each level."""
    lines = [
        "#!/bin/bash",
        f"# Study {name}: bash this file. A level is one or more arrays that begin when the level before has ended.",
        "# What failed is named by `hf-bootstrap study status`; emitting again gives what is missing.",
        "# Your own options for sbatch (partition, account, GPUs, time) go into SBATCH_OPTIONS.",
        "set -euo pipefail",
        'after=""',
    ]
    for number, level in enumerate(layers):
        lines.append('jobs=""')
        for start in range(0, len(level), _ARRAY):
            paths = level[start : start + _ARRAY]
            lines += [
                f"job=$(sbatch --parsable ${{SBATCH_OPTIONS:-}} $after --job-name={shlex.quote(f'{name}-{number}')} \\",
                f"  --array=0-{len(paths) - 1}%${{PARALLEL:-16}} --requeue --open-mode=append \\",
                "  --signal=B:TERM@120 <<'JOB'",
                "#!/bin/bash",
                "runs=(",
                *(f"  {shlex.quote(path)}" for path in paths),
                ")",
                f'exec {shlex.join(job_command("DIR")[:-1])} "${{runs[$SLURM_ARRAY_TASK_ID]}}"',
                "JOB",
                ")",
                f'echo "level {number}: {len(paths)} runs, job $job"',
                'jobs="$jobs:${job%%;*}"',
            ]
        lines.append('after="--dependency=afterany$jobs"')
    return "\n".join(lines) + "\n"


def _hf_jobs(name: str, layers: Sequence[Sequence[str]]) -> str:
    """A shell script of `hf jobs run`, a level in one job after another."""
    lines = [
        "#!/bin/bash",
        f"# Study {name} on Hugging Face Jobs: the study's folder must be in the job under the same path, by a volume",
        "# given in HF_JOBS_OPTIONS, and hf_bootstrap in its IMAGE. A level must have ended before the next begins:",
        "# bash this-file 0, then 1, and so on.",
        "set -euo pipefail",
        'case "${1:-0}" in',
    ]
    for number, paths in enumerate(layers):
        lines.append(f"{number})")
        start = "  hf jobs run --detach ${HF_JOBS_OPTIONS:-} ${IMAGE:-huggingface/transformers-pytorch-gpu}"
        lines += [f"{start} {shlex.join(job_command(path))}" for path in paths]
        lines.append("  ;;")
    return "\n".join([*lines, "*) echo 'no such level' >&2; exit 2;;", "esac"]) + "\n"


def _skypilot(name: str, layers: Sequence[Sequence[str]]) -> str:
    """One YAML pipeline: a task for each level, which works through its runs."""
    head = (
        f"# Study {name} on SkyPilot: `sky jobs launch FILE`. The study's folder must be mounted at its path.\n"
        "# A level whose runs did not all end well fails when the rest of it is done, and ends the pipeline.\n"
        "# What failed is named by `hf-bootstrap study status`; emitting again gives what is missing.\n"
    )
    documents = [f"{head}name: {json.dumps(name)}"]
    for number, paths in enumerate(layers):
        lines = [
            f"name: {json.dumps(f'level-{number}')}",
            "resources:",
            "  accelerators: {A100: 1}",
            "  use_spot: true",
        ]
        runs = [f"  {shlex.join(job_command(path))} || failed=1" for path in paths]
        lines += ["run: |", "  failed=0", *runs, "  exit $failed"]
        documents.append("\n".join(lines))
    return "\n---\n".join(documents) + "\n"
