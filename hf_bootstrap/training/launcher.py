"""A process that a launcher started ends with it.

`accelerate launch` and torchrun leave their processes behind when they are killed themselves: those would train on, and
hold the run's folder against the next call.
"""

import os
import threading
import time
from pathlib import Path

__all__ = ["follow_launcher"]

# Seconds between looks at the parent; a look costs a system call.
_TICK = 0.5


def follow_launcher() -> None:
    """End this process soon after the launcher that started it is gone; without a launcher, do nothing.

    A run that ends so is a killed run: its files are whole, and the next call goes on from its newest checkpoint.
    """
    parent = os.getppid()
    if _is_launched(parent):
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _is_launched(parent: int) -> bool:
    """Whether torchrun (which accelerate uses for several processes) or accelerate (for one) started this process.

    Anything else that started it, such as a shell with nohup, may well go first.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:  # not Linux, or gone already
        return False
    return any(os.path.basename(word) == b"accelerate" or word.startswith(b"accelerate.commands") for word in words)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_TICK)
    os._exit(1)
