"""The hidden folder beside a target in which a growth is made, and the step that shows it when it is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GrowthError, StoreError
from ..store import lock, read_json, sync_folder
from ..units import format_bytes
from .job import GROWTH_FILE, GrowthJob
from .writer import PROGRESS

__all__ = ["check_target", "publish", "sweep", "work_folder", "working_in"]

_RESERVE = 2**24  # bytes beyond the weights: tokenizer, configs, the file system's own


def work_folder(target: Path) -> Path:
    """Where a growth into `target` is made."""
    return target.parent / f".{target.name[:100]}.growing"


def check_target(source: Path, target: Path) -> None:
    """Refuse a target without a parent, or one that is, holds or lies in the source.

    Raises:
        StoreError, GrowthError: as said.
    """
    if not target.parent.is_dir():
        raise StoreError(f"{target.parent} is not a folder; make it first, or choose another target.")
    inside = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if inside[0] == inside[1] or inside[0] in inside[1].parents or inside[1] in inside[0].parents:
        raise GrowthError(f"The target {target} and the source {source} are in one another; choose another target.")


@contextmanager
def working_in(work: Path, target: Path, job: GrowthJob) -> Iterator[Path]:
    """Hold a hidden folder beside the target for this process alone; it stays only where a later call can go on."""
    needed = job.size + _RESERVE
    with lock(work):
        _keep_what_counts(work, job)
        written = sum(f.stat().st_blocks * 512 for f in (work / "model").glob("*") if f.is_file())
        try:
            free = shutil.disk_usage(work).free
            if needed - written > free:
                raise StoreError(
                    f"The grown checkpoint takes {format_bytes(needed)}, and {format_bytes(free)} are free in "
                    f"{target.parent}. Free some space or choose another disk."
                )
            yield work
        except OSError as error:
            sweep(work)
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{target} could not be written: {error}. It needs {format_bytes(needed)}, "
                f"{format_bytes(shutil.disk_usage(target.parent).free)} are free now. Nothing is left behind, and the "
                "source is untouched."
            ) from error
        except Exception:
            sweep(work)
            raise
        sweep(work)


def _keep_what_counts(work: Path, job: GrowthJob) -> None:
    """Of what an earlier call left behind, keep the shards of the same growth, and nothing else."""
    try:
        same = read_json(work / PROGRESS).get("fingerprint") == job.fingerprint
    except StoreError:
        same = False
    shards = {shard.name for shard in job.shards} if same else set()
    for file in (work / "model").glob("*"):
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name not in shards:
            file.unlink()


def sweep(work: Path) -> None:
    """Remove the folder a growth was made in; what is left of it harms nobody."""
    for part in ("model", "replaced"):
        shutil.rmtree(work / part, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def publish(folder: Path, target: Path, work: Path) -> None:
    """Show a complete growth under its name; an earlier one there goes first."""
    sync_folder(folder)
    if (target / GROWTH_FILE).is_file():
        os.rename(target, work / "replaced")
    os.rename(folder, target)
    sync_folder(target.parent)
