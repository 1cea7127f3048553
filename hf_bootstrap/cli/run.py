"""`hf-bootstrap run`: one run folder, carried to its end in one process or as many as a launcher starts."""

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .bars import progress_bar

__all__ = ["run"]


def run(
    folder: Annotated[Path, typer.Argument(help="runs/<run id> with its run.json; paths there start two folders up.")],
    save_every: Annotated[
        str, typer.Option(help="Trained tokens between checkpoints to go on from; by default a tenth of the run.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train the run that a folder's run.json asks for, or go on with it after a kill.

    It goes on from its newest complete checkpoint. Exit codes: 0 done (or done before), 1 failed, 130 after Ctrl-C, 143
    after SIGTERM. Under `accelerate launch -m hf_bootstrap.cli run DIR` all processes train one run.

    Example: hf-bootstrap run study/runs/0123456789abcdef --json
    """
    from ..store import RunFolder
    from ..units import format_count, parse_count

    here = RunFolder(folder)
    spec = here.spec()
    before = here.is_done()
    if not before:
        every = parse_count(save_every, "--save-every") if save_every else max(spec.tokens // 10, 1)
        # Trainer prints its logs; standard output is for the answer.
        bar = progress_bar(format_count, "tokens", quiet=quiet or as_json or _rank() > 0)
        with contextlib.redirect_stdout(sys.stderr), _terminable(), bar as show:
            _train(here, every, None if show is None else lambda done: show(done, spec.tokens))
    if _rank() == 0:
        _say(here, before, as_json)


def _train(here: Any, every: int, report: Callable[[int], None] | None) -> None:
    """Train under the folder's lock; when every object of the run is gone, part from the other processes."""
    import torch

    from ..store import lock
    from ..training.launcher import follow_launcher
    from ..training.loop import run_one

    follow_launcher()
    with contextlib.ExitStack() as stack:
        if _rank() == 0:
            stack.enter_context(lock(here.path))
        run_one(here, report, save_every=every)
    # The Trainer's wrapped model holds the process group; gloo's threads abort the exit of a process that keeps it.
    gc.collect()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _say(here: Any, before: bool, as_json: bool) -> None:
    last = (here.points() or [None])[-1]
    record = {
        "run_id": here.path.name,
        "folder": str(here.path),
        "was_done": before,
        "points": len(here.points()),
        "tokens": last and last.tokens,
        "loss": last and last.loss,
    }
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    how = "was done before" if before else "is done"
    end = f": loss {last.loss:.4f} at {last.tokens:,} tokens" if last else ""
    typer.echo(f"Run {here.path.name} {how}{end}. Points: {here.points_file}")
    if last and not before:
        typer.echo(f"Attention: {last.attention} ({last.attention_reason or 'asked for'})")


def _rank() -> int:
    """Number of this process among those a launcher started; 0 when alone."""
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which schedulers send, unwind as Ctrl-C does, and end with its own exit code."""

    def stop(number: int, _: object) -> None:
        typer.secho("Terminated. Run the same command again to go on from the newest checkpoint.", err=True)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
