"""Checkpoints that can be believed: marked complete after their last byte, and thinned out.

A process that is killed while it saves leaves a folder that looks like a checkpoint, and Trainer takes it for one and
fails. Here a checkpoint is a folder that holds `complete.json`, which is written last; `store.RunFolder` finds them.
"""

import math
import shutil
import time
from collections.abc import Collection
from pathlib import Path

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..errors import TrainingError
from ..store import COMPLETE, RunFolder, write_json
from .evaluation import from_first_process

__all__ = ["Checkpoints", "resume_point", "save_interval"]


class Checkpoints(TrainerCallback):
    """Marks each checkpoint complete, and says at which steps to save.

    Args:
        steps: where to save what is kept for ever.
        every: save every so many steps too, to go on from after a kill; 0 leaves that to Trainer's `save_strategy`.
        newest: how many of the latter to keep; None keeps all.
        patience: seconds that must have passed since the last checkpoint, or since training began, for one of the
            latter; and 50 times what that one took.
    """

    def __init__(
        self, steps: Collection[int] = (), every: int = 0, newest: int | None = 1, patience: float = 0.0
    ) -> None:
        self._steps, self._every, self._newest, self._patience = frozenset(steps), every, newest, patience
        self._asked = self._due = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin to wait."""
        self._due = time.monotonic() + self._patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ask for a checkpoint."""
        if state.global_step in self._steps or (
            self._every and state.global_step % self._every == 0 and self._is_due()
        ):
            self._asked = time.monotonic()
            # The counts travel in the log history, which a checkpoint keeps.
            control.should_save = control.should_log = True

    def _is_due(self) -> bool:
        # Clocks of processes differ, and all of them must save or none.
        return not self._patience or from_first_process(lambda: time.monotonic() >= self._due)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Mark the new checkpoint complete once every process has written its part, then drop older ones."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            write_json(
                Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE, {"step": state.global_step}
            )
            self.thin_out(Path(str(args.output_dir)), self._newest)
        now = time.monotonic()
        self._due = now + max(self._patience, 50 * (now - self._asked))

    def thin_out(self, folder: Path, newest: int | None) -> None:
        """Remove checkpoints that were only there to go on from, except the newest ones."""
        passing = [p for p in RunFolder(folder).checkpoints() if int(p.name.rpartition("-")[2]) not in self._steps]
        for path in passing[: len(passing) - newest] if newest is not None else []:
            # Without its marker it is no checkpoint, so a kill in between leaves none half there.
            (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def save_interval(args: TrainingArguments, steps_per_pass: int) -> int:
    """Steps between checkpoints by Trainer's flags, for `Checkpoints(every=)`; 0 where none are wanted.

    Args:
        args: with `max_steps` set.
        steps_per_pass: optimizer steps of one pass over the text, for ``save_strategy epoch``.

    Raises:
        TrainingError: a strategy that keeps the best checkpoint.
    """
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy == "best":
        raise TrainingError(
            "--save_strategy best is not heeded here: a point belongs to the newest weights, and a killed run goes on "
            "from them. Use steps, epoch or no, and keep more with --save_total_limit."
        )
    if strategy == "epoch":
        return steps_per_pass
    every = math.ceil(args.save_steps * args.max_steps) if args.save_steps < 1 else int(args.save_steps)
    return every if strategy == "steps" else 0


def resume_point(folder: Path, asked: str | None) -> str | None:
    """The checkpoint to go on from: the one asked for, else the newest complete one of the folder.

    A checkpoint of another folder is where a branch begins: once the folder has one of its own, it goes on from that.

    Raises:
        TrainingError: there is no such checkpoint.
    """
    own = [str(path) for path in RunFolder(folder).checkpoints()[-1:]]
    if asked is not None and not Path(asked).is_dir():
        raise TrainingError(
            f"--resume_from_checkpoint {asked} is no folder here. Give one such as out/checkpoint-500; without the "
            "flag a run goes on from its own newest one."
        )
    is_branch = asked is not None and Path(asked).resolve().parent != folder.resolve()
    if asked is None or (is_branch and own):
        return own[0] if own else None
    return asked
