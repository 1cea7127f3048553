"""Runs as jobs of a cluster, by submitit: the window of `launch`, with Slurm's queue in place of processes.

submitit (extra `study`) submits and watches; a job is `accelerate launch -m hf_bootstrap.cli run DIR`. Which run comes
when is the business of `run`.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ..errors import StoreError, StudyError
from ..store import RunFolder, read_json, write_json
from .launch import Ended, end_of_log
from .leases import holds, process_marks

__all__ = ["EXECUTORS", "JOB", "JobWindow", "RunJob", "job_at_work"]

EXECUTORS = ("slurm", "local")
JOB = "job.json"
_GRACE = 60.0


class RunJob:
    """What a job does: one run folder, by a command; stopped by the scheduler it asks to be queued again.

    Args:
        folder: ``runs/<run_id>``.
        command: that carries the folder out, and goes on where it was when it is called again.
    """

    def __init__(self, folder: str | Path, command: Sequence[str]) -> None:
        self.folder, self.command = str(folder), list(command)

    def __call__(self) -> None:
        """Carry the run out, unless it is done; a second job for it waits here, and then finds it done.

        Raises:
            StudyError: the command failed.
        """
        run = RunFolder(self.folder)
        with open(run.path / ".job", "w") as mine:
            fcntl.flock(mine, fcntl.LOCK_EX)
            if run.is_done():
                return
            code = self._follow()
        if not run.is_done():
            raise StudyError(f"{self.command} ended with exit code {code} and left no done.json. Look at its log.")

    def checkpoint(self) -> Any:
        """Asked by submitit when the job is preempted or out of time: the same again, which goes on where it was."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _follow(self) -> int:
        """Wait for the command; what ends this process ends the command first, with time to put things away."""
        with open(Path(self.folder) / "log.txt", "ab") as log:
            process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            return process.wait()
        finally:
            if process.poll() is None or _group_lives(process.pid):
                _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a command and whatever it started: `accelerate launch` dies of SIGTERM and lets its own process train on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _group_lives(group: int) -> bool:
    """Whether a process of the group runs; one that is dead and waits for its parent to notice does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                return True
    return False


def job_at_work(run: RunFolder) -> str | None:
    """The job that works on a run now, whether or not a study waits for it."""
    try:
        with open(run.path / ".job") as its:
            fcntl.flock(its, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"job {_note(run).get('job_id', '(unknown)')}"
    except OSError:
        pass
    return None


class JobWindow:
    """At most `workers` jobs at a time; leaving the context leaves them to the cluster.

    What was asked for since the last look is submitted as one array. Each job is noted in its run's folder: a later
    window waits for it, as long as the cluster knows it, instead of submitting a second one.

    Args:
        study: folder of the study; submitit's own files go to ``jobs/`` there.
        command: of one run, its folder to be added at the end.
        workers: jobs at a time, waiting ones included.
        executor: "slurm", or "local" for processes of this machine by submitit.
        options: for submitit's executor, such as ``{"slurm_partition": "gpu", "timeout_min": 240}``.

    Raises:
        StudyError: submitit is not installed, or another executor.
    """

    def __init__(
        self,
        study: str | Path,
        command: Sequence[str],
        workers: int,
        executor: str = "slurm",
        options: dict[str, Any] | None = None,
    ) -> None:
        if executor not in EXECUTORS:
            raise StudyError(f"There is no executor {executor!r}. Known: {', '.join(EXECUTORS)}.")
        try:
            import submitit
        except ImportError as error:
            raise StudyError("Jobs need submitit. Install hf_bootstrap[study].") from error
        self.workers = workers
        self._command = list(command)
        # A preempted run goes on from its checkpoint, however often.
        often = {"slurm_max_num_timeout": 100} if executor == "slurm" else {}
        self._executor = submitit.AutoExecutor(folder=Path(study) / "jobs", cluster=executor, **often)
        limits = {"slurm_array_parallelism": workers} if executor == "slurm" else {}
        self._executor.update_parameters(**{"name": "study", "timeout_min": 24 * 60, **limits, **(options or {})})
        self._asked: list[RunFolder] = []
        self._jobs: dict[str, tuple[Any, RunFolder]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.clear()

    @property
    def running(self) -> dict[str, int]:
        """The runs in hand; a job does not tell its tokens, so they are 0."""
        return dict.fromkeys([*(run.path.name for run in self._asked), *self._jobs], 0)

    @property
    def is_full(self) -> bool:
        """Whether a job has to end before another may be submitted."""
        return len(self.running) >= self.workers

    @property
    def left(self) -> str:
        """What lives on when the study is left now, and how to end it; empty where nothing does."""
        ids = [job.job_id for job, folder in self._jobs.values() if not (folder.is_done() or job.done())]
        if not ids:
            return ""
        count, cancel = len(ids), "scancel" if self._executor.cluster == "slurm" else "kill -INT"
        return (
            f"{count} job{' lives' if count == 1 else 's live'} on in the cluster, and a study that is started again "
            f"waits for {'it' if count == 1 else 'them'}. To end {'it' if count == 1 else 'them'}: "
            f"{cancel} {' '.join(ids)}"
        )

    def start(self, folder: RunFolder) -> None:
        """Have a run submitted with the next array; where an earlier study's job for it lives, wait for that one.

        Raises:
            StudyError: the cluster does not say whether it lives.
        """
        job = _left_job(folder, self._executor.folder)
        if job is None:
            self._asked.append(folder)
        else:
            self._jobs[folder.path.name] = (job, folder)

    def stop(self, run_id: str) -> None:
        """Leave a run's job to the process that has taken the run over."""
        del self._jobs[run_id]

    def wait(self, timeout: float) -> list[Ended]:
        """Submit what was asked for; then the runs that ended, or an empty list after `timeout` seconds."""
        self._submit()
        deadline = time.monotonic() + timeout
        while True:
            over = [run_id for run_id, (job, folder) in self._jobs.items() if folder.is_done() or job.done()]
            if over or time.monotonic() >= deadline:
                return [self._ended(run_id) for run_id in over]
            time.sleep(min(0.2, timeout))

    def _submit(self) -> None:
        if not self._asked:
            return
        with self._executor.batch():
            jobs = [self._executor.submit(RunJob(run.path, [*self._command, str(run.path)])) for run in self._asked]
        for run, job in zip(self._asked, jobs, strict=True):
            self._jobs[run.path.name] = (job, run)
            marks = process_marks(int(job.job_id)) if self._executor.cluster == "local" else {}
            write_json(run.path / JOB, {"executor": self._executor.cluster, "job_id": job.job_id, **marks})
        self._asked.clear()

    def _ended(self, run_id: str) -> Ended:
        job, folder = self._jobs.pop(run_id)
        (folder.path / JOB).unlink(missing_ok=True)
        if folder.is_done():
            return Ended(run_id=run_id, problem=None)
        return Ended(
            run_id=run_id, problem=f"was job {job.job_id}, {job.state}, and left no done.json. {end_of_log(folder)}"
        )


class _LocalJob:
    """A job of submitit's local executor that another process started."""

    state = "a process that is gone"

    def __init__(self, note: dict[str, Any]) -> None:
        self._note, self.job_id = note, str(note["job_id"])

    def done(self) -> bool:
        return not holds(self._note)


def _note(run: RunFolder) -> dict[str, Any]:
    """Which job was submitted for a run; empty where none was, or nobody can read it."""
    try:
        return read_json(run.path / JOB)
    except StoreError:
        return {}


def _left_job(run: RunFolder, jobs: Path) -> Any:
    """The job that an earlier study submitted for a run, if it still waits or works; else None."""
    note = _note(run)
    if "job_id" not in note:
        return None
    job_id = str(note["job_id"])
    if note.get("executor") == "local":
        return _LocalJob(note) if holds(note) else None
    import submitit

    return submitit.SlurmJob(folder=jobs, job_id=job_id) if _is_in_queue(job_id, run.path / JOB) else None


def _is_in_queue(job_id: str, note: Path) -> bool:
    """Whether Slurm has a job that waits, works or is being queued again."""
    try:
        asked = ["squeue", "--noheader", "--format=%i", f"--jobs={job_id}"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        problem = found.stderr.strip()
    except OSError as error:
        problem = str(error)
    else:
        if found.returncode == 0:
            return bool(found.stdout.strip())
        if "Invalid job id" in problem:  # ended some minutes ago, so forgotten
            return False
    raise StudyError(
        f"Job {job_id} was submitted for {note.parent}, and squeue does not say whether it lives: {problem}. "
        f"A second job would hold a GPU and wait for it. Try again when the cluster answers, or delete {note}."
    )
