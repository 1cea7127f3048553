"""The folder of one run, whose state is which files it holds.

`run.json`, then checkpoints, then points, then `done.json` last, so a killed job needs nobody to correct a status.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, RecordError
from ..records import RunSpec, ScalingPoint
from .files import read_json, write_json
from .points_file import read_points

__all__ = ["COMPLETE", "RunFolder"]

# Written into a checkpoint folder after everything else; a folder without it is not a checkpoint.
COMPLETE = "complete.json"


class RunFolder:
    """The folder of one run; which files it holds is the state of the run.

    Args:
        path: ``runs/<run_id>`` inside a study's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, study: str | Path, spec: RunSpec) -> "RunFolder":
        """Make, or find again, the folder of a spec under ``<study>/runs``.

        Raises:
            StoreError: the folder holds another run, or cannot be made.
        """
        folder = cls(Path(study) / "runs" / spec.run_id)
        if (folder.path / "run.json").exists():
            folder.spec()  # refuses a run.json that was changed
        else:
            write_json(folder.path / "run.json", spec.to_dict())
        return folder

    @property
    def study(self) -> Path:
        """The study's folder, which every path in the spec starts from."""
        return Path(os.path.abspath(self.path)).parent.parent

    @property
    def points_file(self) -> Path:
        """Where the run's points are."""
        return self.path / "points.jsonl"

    def spec(self) -> RunSpec:
        """What the run was asked to do.

        Raises:
            StoreError: there is no `run.json`.
            CorruptFileError: it is not a run, or not the one that gave the folder its name.
        """
        path = self.path / "run.json"
        try:
            spec = RunSpec.from_dict(read_json(path))
        except RecordError as error:
            raise CorruptFileError(f"{path} is not a run: {error}") from error
        name = Path(os.path.abspath(self.path)).name
        if spec.run_id != name:
            raise CorruptFileError(
                f"{path} asks for run {spec.run_id}, but its folder is named {name}. A run is named by its content, so "
                "one of them was changed. Restore it, or make the changed run in a folder of its own."
            )
        return spec

    def is_done(self) -> bool:
        """Whether the run ended well."""
        return (self.path / "done.json").exists()

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write `done.json`, the last file of a run."""
        write_json(self.path / "done.json", record)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first; a folder without its `complete.json` is none."""
        found = [
            (int(m.group(1)), p)
            for p in self.path.glob("checkpoint-*")
            if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
        ]
        return [path for _, path in sorted(found) if (path / COMPLETE).exists()]

    def points(self) -> list[ScalingPoint]:
        """The run's points, each once; what a crash left behind is passed over.

        Raises:
            CorruptFileError: a line that was damaged after it was written.
        """
        if not self.points_file.exists():
            return []
        read = read_points(self.points_file)
        damaged = [f"line {number}: {why}" for number, why in read.problems if number not in read.harmless]
        if damaged:
            raise CorruptFileError(
                f"{self.points_file} has lines that are not points of this run ({'; '.join(damaged[:3])}"
                f"{', and more' if len(damaged) > 3 else ''}). Delete them, or the run's folder, and run again."
            )
        return read.points
