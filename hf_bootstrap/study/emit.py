"""A study as files of other engines: Slurm arrays, Hugging Face Jobs, SkyPilot. Each carries out run folders.

The folders are written here; a job is always the same command on one folder, and doing it twice does no harm.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import StudyError, did_you_mean
from ..records import RunSpec
from ..store import RunFolder
from .grid import start_run_id

__all__ = ["FORMATS", "emit_jobs", "job_command", "levels"]

# Slurm refuses arrays of more than 1,001 unless told otherwise.
_ARRAY = 1000

FORMATS = ("slurm", "hf-jobs", "skypilot")
# The GPU of a job where none is named; on Slurm it is left to the partition.
_ACCELERATOR = {"slurm": "", "hf-jobs": "a10g-small", "skypilot": "A100:1"}
_ENDS = 100


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


def emit_jobs(name: str, specs: Sequence[RunSpec], folder: str | Path, form: str, accelerator: str = "") -> str:
    """Write the folders of the runs that are not done, and give the text of the file that carries them out.

    Args:
        name: of the study.
        specs: its runs, each after the one it starts from.
        folder: of the study; its path must be the same where the jobs run.
        form: one of `FORMATS`.
        accelerator: of a job, as the engine names it: "A100:1" for SkyPilot (its default) and Slurm (by default what
            the partition gives), a flavor for Hugging Face Jobs (a10g-small).

    Raises:
        StudyError: an unknown format, an accelerator that is no name, or nothing left to do.
        StoreError: a folder that cannot be written.
    """
    if form not in FORMATS:
        raise StudyError(f"There is no format {form!r}. {did_you_mean(form, FORMATS)}")
    _check_accelerator(accelerator, form)
    folder = Path(folder).absolute()
    layers = levels(specs, folder)
    if not layers:
        raise StudyError(f"All {len(specs)} runs of the study are done; there is nothing to emit.")
    for spec in specs:
        RunFolder.create(folder, spec)
    paths = [[str(folder / "runs" / run_id) for run_id in layer] for layer in layers]
    write = {"slurm": _slurm, "hf-jobs": _hf_jobs, "skypilot": _skypilot}[form]
    return write(name, folder, paths, accelerator or _ACCELERATOR[form])


def _check_accelerator(accelerator: str, form: str) -> None:
    count = "" if form == "hf-jobs" else r"(:\d+)?"
    if accelerator and not re.fullmatch(rf"[A-Za-z0-9_.-]+{count}", accelerator):
        kind = "a flavor, which `hf jobs hardware` lists," if form == "hf-jobs" else "a GPU and how many"
        raise StudyError(
            f"The accelerator {accelerator!r} is not {kind} for {form}. Give one such as "
            f"{_ACCELERATOR[form] or 'a100:1'}."
        )


# What a job of an array does. accelerate passes no signal on to the processes it starts, so they are ended as a group,
# which `set -m` gives them. Slurm queues again what it preempts, but not what is out of time: that says USR1 here, so
# that a job that is cancelled (TERM) does not come back.
_TASK = f"""run="${{runs[$SLURM_ARRAY_TASK_ID]}}"
set -m
{shlex.join(job_command("DIR")[:-1])} "$run" &
work=$!
end() {{
  trap '' USR1 TERM
  kill -TERM -- "-$work"
  for _ in {{1..100}}; do kill -0 -- "-$work" 2>/dev/null || break; sleep 1; done
}}
again() {{
  # A run that does not reach its next checkpoint in the time of a job would begin for ever.
  [ -e "$run/done.json" ] || [ "${{SLURM_RESTART_COUNT:-0}}" -ge {_ENDS} ] ||
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
}}
trap 'end; again; exit 1' USR1
trap 'end; exit 143' TERM
wait "$work"
"""


def _slurm(name: str, _: Path, layers: Sequence[Sequence[str]], accelerator: str) -> str:
    """A shell script that submits the arrays of each level."""
    gpus = f" --gpus-per-node={accelerator}" if accelerator else ""
    lines = [
        "#!/bin/bash",
        f"# Study {name}: bash this file. A level is one or more arrays that begin when the level before has ended.",
        "# A job that is preempted or out of time is queued again, and goes on from its newest checkpoint.",
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
                f"  --array=0-{len(paths) - 1}%${{PARALLEL:-16}} --requeue --open-mode=append{gpus} \\",
                "  --signal=B:USR1@120 <<'JOB'",
                "#!/bin/bash",
                "runs=(",
                *(f"  {shlex.quote(path)}" for path in paths),
                ")",
                f"{_TASK}JOB",
                ")",
                f'echo "level {number}: {len(paths)} runs, job $job"',
                'jobs="$jobs:${job%%;*}"',
            ]
        lines.append('after="--dependency=afterany$jobs"')
    return "\n".join(lines) + "\n"


def _hf_jobs(name: str, folder: Path, layers: Sequence[Sequence[str]], accelerator: str) -> str:
    """A shell script of `hf jobs run`, a level in one job after another."""
    place = shlex.quote(str(folder))
    work = f'pip install --quiet "$1" && exec {shlex.join(job_command("DIR")[:-1])} "$2"'
    lines = [
        "#!/bin/bash",
        f"# Study {name} on Hugging Face Jobs. The jobs find the study's folder in a bucket of yours. Set:",
        "#   BUCKET=you/name  made by `hf buckets create name` and filled by",
        f"#                    hf buckets sync {place} hf://buckets/$BUCKET",
        f"#   INSTALL=...      what pip installs: hf_bootstrap=={__version__}, or the address of a wheel",
        "#   TIMEOUT=24h      of a job",
        "#   IMAGE=...        with Python 3.11 or later; python:3.12 if left out",
        "#   HF_JOBS_OPTIONS  more options of `hf jobs run`, such as --namespace",
        "# A level must have ended before the next begins: bash this-file 0, then 1, and so on. Bring points back by",
        f"#                    hf buckets sync hf://buckets/$BUCKET {place}",
        "set -euo pipefail",
        ': "${BUCKET:?set BUCKET=you/name, the bucket that holds the folder of the study; see the top of this file}"',
        ': "${INSTALL:?set INSTALL, what pip installs in the jobs; see the top of this file}"',
        "start() {",
        f'  hf jobs run --detach --flavor {accelerator} --timeout "${{TIMEOUT:-24h}}" \\',
        f'    --volume "hf://buckets/$BUCKET:"{place} ${{HF_JOBS_OPTIONS:-}} \\',
        '    "${IMAGE:-python:3.12}" \\',
        f'    bash -c {shlex.quote(work)} job "$INSTALL" "$1"',
        "}",
        'case "${1:-0}" in',
    ]
    for number, paths in enumerate(layers):
        lines += [f"{number})", *(f"  start {shlex.quote(path)}" for path in paths), "  ;;"]
    return "\n".join([*lines, "*) echo 'no such level' >&2; exit 2;;", "esac"]) + "\n"


def _skypilot(name: str, folder: Path, layers: Sequence[Sequence[str]], accelerator: str) -> str:
    """One YAML pipeline: a task for each level, which works through its runs."""
    head = (
        f"# Study {name} on SkyPilot: sky jobs launch --env BUCKET=a-name-of-yours --env INSTALL=... FILE\n"
        "# BUCKET is made and filled with the study's folder when it is launched; the levels share it. Afterwards the\n"
        "# points are in it: copy it back over the folder.\n"
        "# A level whose runs did not all end well fails when the rest of it is done, and ends the pipeline.\n"
        "# What failed is named by `hf-bootstrap study status`; emitting again gives what is missing.\n"
    )
    documents = [f"{head}name: {json.dumps(name)}"]
    for number, paths in enumerate(layers):
        lines = [
            f"name: {json.dumps(f'level-{number}')}",
            "resources:",
            f"  accelerators: {json.dumps(accelerator)}  # see `sky show-gpus`",
            "  use_spot: true",
            "envs:",
            "  BUCKET: null  # must be given: names of buckets are unique in their cloud",
            f"  INSTALL: null  # must be given: hf_bootstrap=={__version__}, or the address of a wheel",
            "file_mounts:",
            f"  {json.dumps(str(folder))}:",
            '    name: "${BUCKET}"',
            f"    source: {json.dumps(str(folder))}",
            "    mode: MOUNT_CACHED  # MOUNT cannot append, and points are appended",
            "setup: |",
            '  pip install "$INSTALL"',
        ]
        runs = [f"  {shlex.join(job_command(path))} || failed=1" for path in paths]
        lines += ["run: |", "  failed=0", *runs, "  exit $failed"]
        documents.append("\n".join(lines))
    return "\n---\n".join(documents) + "\n"
