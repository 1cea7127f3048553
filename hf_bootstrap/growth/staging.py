"""The hidden folder beside a target in which a growth is made, and the step that shows it when it is complete."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import GrowthError, StoreError
from ..store import lock, make_folder, read_json, sync_folder
from ..units import format_bytes
from .job import GROWTH_FILE, GrowthJob
from .writer import PROGRESS

__all__ = ["check_place", "check_target", "publish", "sweep", "work_folder", "working_in"]

_RESERVE = 2**24  # bytes beyond the weights: tokenizer, configs, the file system's own


def work_folder(target: Path) -> Path:
    """Where a growth into `target` is made."""
    return target.parent / f".{target.name[:100]}.growing"


def check_target(source: Path, target: Path) -> None:
    """Refuse a target in which no growth could be shown, before any work; a missing parent is made later.

    Raises:
        GrowthError: it is, holds or lies in the source, is a link or a file, or holds what no growth wrote.
        StoreError: nothing can be made under that name.
    """
    check_place(source, target)
    if target.is_dir() and any(target.iterdir()) and not (target / GROWTH_FILE).is_file():
        raise GrowthError(
            f"{target} exists and holds something else. It was not written by a growth, so it stays; choose another "
            "target."
        )


def check_place(source: Path, target: Path) -> None:
    """Refuse a name under which no folder could be shown; what a folder there holds is not looked at.

    Raises:
        GrowthError, StoreError: as `check_target`.
    """
    inside = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if inside[0] == inside[1] or inside[0] in inside[1].parents or inside[1] in inside[0].parents:
        raise GrowthError(f"The target {target} and the source {source} are in one another; choose another target.")
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        above = next(folder for folder in target.parents if os.path.lexists(folder))
        if not above.is_dir():
            raise StoreError(f"{above} is not a folder, so {target} cannot be made; choose another target.") from None
        return
    except (OSError, ValueError) as error:
        shown = str(target) if len(str(target)) < 200 else f"{str(target)[:200]}..."
        what = getattr(error, "strerror", None) or error
        raise StoreError(f"{shown!r} cannot be made ({what}); choose another name for the target.") from error
    if not stat.S_ISDIR(mode):
        what = f"a link to {os.readlink(target)}" if stat.S_ISLNK(mode) else "not a folder"
        raise GrowthError(f"{target} is {what}; a growth makes a folder of its own. Choose another target.")


@contextmanager
def working_in(work: Path, target: Path, job: GrowthJob) -> Iterator[Path]:
    """Hold a hidden folder beside the target for this process alone; it stays only where a later call can go on."""
    needed = job.size + _RESERVE
    with _parents_of(work), lock(work):
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


@contextmanager
def _parents_of(work: Path) -> Iterator[None]:
    """Make the folders above a target; they go again if the growth fails, where they are still empty."""
    missing = [folder for folder in work.parents if not folder.exists()]
    try:
        make_folder(work.parent)
        yield
    except Exception as error:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise StoreError(f"{work.parent} cannot be made: {error}. Choose another target.") from error
        raise


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
