"""Which run of a set may start next, how much of the set is done, and which checkpoints nobody needs any more.

All of it is read from the files of the runs; starting and watching processes is the business of `run`.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import StudyError
from ..records import RunSpec
from ..store import COMPLETE, RunFolder
from .costs import chain_costs, costs, own_tokens
from .grid import start_run_id

__all__ = ["Queue", "lacks_start"]


def lacks_start(spec: RunSpec) -> bool:
    """Whether a run starts from a folder where no model is; a name on the Hub is looked up by the run itself."""
    return spec.start is not None and os.path.isabs(spec.start) and not (Path(spec.start) / "config.json").exists()


class Queue:
    """The runs of a study in one folder.

    Args:
        specs: the runs, in any order.
        study: the study's folder.

    Attributes:
        specs, folders: by run id.
        waiting: ids of runs that are neither done nor taken.
        stuck: run id -> why it can never start, for runs whose base is gone.

    Raises:
        StudyError: runs that start from each other in a circle.
    """

    def __init__(self, specs: Sequence[RunSpec], study: str | Path) -> None:
        self.study = Path(study)
        self.specs = {spec.run_id: spec for spec in specs}
        self.folders = {run_id: RunFolder(self.study / "runs" / run_id) for run_id in self.specs}
        self.waiting = {run_id for run_id, folder in self.folders.items() if not folder.is_done()}
        self.stuck: dict[str, str] = {}
        self._costs = costs(self._ordered())
        self._chains = chain_costs(self.specs, self._costs)

    def take(self, may: Callable[[str], bool] = lambda _: True) -> str | None:
        """The waiting run with the longest line of work behind it among those whose start is written.

        It is no longer waiting; `put_back` makes it so. None when no run can start yet.

        Args:
            may: asked for each in turn whether this process may have it.
        """
        ready = [run_id for run_id in self.waiting - self.stuck.keys() if self.can_start(run_id)]
        for run_id in sorted(ready, key=lambda run_id: (self._chains[run_id], run_id), reverse=True):
            if may(run_id):
                self.waiting.discard(run_id)
                return run_id
        return None

    def refresh(self) -> None:
        """Notice what other processes have finished."""
        self.waiting -= {run_id for run_id in self.waiting if self.folders[run_id].is_done()}

    def put_back(self, run_id: str) -> None:
        """Let a run be taken again."""
        self.waiting.add(run_id)

    def share_done(self, running: Mapping[str, int]) -> float:
        """Share of the compute that is done, given the trained tokens of the runs in hand; 0 to 1."""
        total = sum(self._costs.values())
        done = sum(cost for run_id, cost in self._costs.items() if run_id not in self.waiting and run_id not in running)
        for run_id, tokens in running.items():
            own = own_tokens(self.specs[run_id])
            before = self.specs[run_id].tokens - own
            done += self._costs[run_id] * min(max(tokens - before, 0) / max(own, 1), 1.0)
        return done / total if total else 1.0

    def tidy(self) -> None:
        """Remove each checkpoint that only decays resumed, once they and the run that wrote it are done.

        Models that a new stage started from, the bases, stay; so does the last checkpoint of every run at constant
        rate, from which the stage can be prolonged.
        """
        last = {
            f"{run_id}/checkpoint-{max(spec.checkpoints) // spec.batch_tokens}"
            for run_id, spec in self.specs.items()
            if spec.checkpoints and not spec.decay_tokens
        }
        needed = {spec.start for spec in self.specs.values() if not spec.resume}
        needed |= {spec.start for run_id, spec in self.specs.items() if not self.folders[run_id].is_done()}
        for spec in self.specs.values():
            writer = self._start_of(spec)
            if spec.start not in needed | last and writer is not None and self.folders[writer].is_done():
                checkpoint = self.study / "runs" / str(spec.start)
                # Without its marker it is no checkpoint, so a kill in between leaves none half there.
                (checkpoint / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(checkpoint, ignore_errors=True)

    def _start_of(self, spec: RunSpec) -> str | None:
        """The run of this study that a spec starts from; None for scratch, a folder or a Hub name."""
        run_id = start_run_id(spec)
        return run_id if run_id in self.specs else None

    def can_start(self, run_id: str) -> bool:
        """Whether a run's start is written; notes it as stuck where it never will be."""
        spec = self.specs[run_id]
        writer = self._start_of(spec)
        if writer is None:
            if lacks_start(spec):
                self.stuck[run_id] = f"starts from {spec.start}, where no model is: no config.json is there."
            return run_id not in self.stuck
        # Asked before the checkpoint is looked for: a run that ends in between has written it by then.
        is_over = self.folders[writer].is_done()
        checkpoint = self.study / "runs" / str(spec.start)
        if (checkpoint / COMPLETE).exists():
            return True
        # Another process may have finished this run meanwhile, and removed what it started from.
        if is_over and not self.folders[run_id].is_done():
            self.stuck[run_id] = (
                f"starts from {checkpoint}, which is not there although the run that writes it is done. "
                f"Delete {self.folders[writer].path} to train it again."
            )
        return False

    def _ordered(self) -> list[RunSpec]:
        """The runs, each after the one it starts from."""
        placed: dict[str, RunSpec] = {}
        rest = dict(self.specs)
        while rest:
            ready = [run_id for run_id, spec in rest.items() if self._start_of(spec) not in rest]
            if not ready:
                raise StudyError(
                    f"These runs start from each other in a circle: {', '.join(rest)}. Check their starts."
                )
            placed |= {run_id: rest.pop(run_id) for run_id in ready}
        return list(placed.values())
