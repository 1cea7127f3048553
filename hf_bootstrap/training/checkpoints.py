"""Checkpoints that can be believed: marked complete after their last byte, and thinned out.

A process that is killed while it saves leaves a folder that looks like a checkpoint, and Trainer takes it for one and
fails. Here a checkpoint is a folder that holds `complete.json`, which is written last; `store.RunFolder` finds them.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..store import COMPLETE, RunFolder, write_json

__all__ = ["Checkpoints"]


class Checkpoints(TrainerCallback):
    """Marks each checkpoint complete, and says at which steps to save.

    Args:
        steps: where to save what is kept for ever.
        every: save every so many steps too, to go on from after a kill; 0 leaves that to Trainer's `save_strategy`.
        newest: how many of the latter to keep; None keeps all.
    """

    def __init__(self, steps: Collection[int] = (), every: int = 0, newest: int | None = 1) -> None:
        self._steps, self._every, self._newest = frozenset(steps), every, newest

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ask for a checkpoint."""
        if state.global_step in self._steps or (self._every and state.global_step % self._every == 0):
            # The counts travel in the log history, which a checkpoint keeps.
            control.should_save = control.should_log = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Mark the new checkpoint complete once every process has written its part, then drop older ones."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            write_json(
                Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE, {"step": state.global_step}
            )
            self.thin_out(Path(str(args.output_dir)), self._newest)

    def thin_out(self, folder: Path, newest: int | None) -> None:
        """Remove checkpoints that were only there to go on from, except the newest ones."""
        passing = [p for p in RunFolder(folder).checkpoints() if int(p.name.rpartition("-")[2]) not in self._steps]
        for path in passing[: len(passing) - newest] if newest is not None else []:
            # Without its marker it is no checkpoint, so a kill in between leaves none half there.
            (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
