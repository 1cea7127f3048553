"""Loading torch and transformers for a command, which keeps them to its end."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["loading_for_good"]


@contextmanager
def loading_for_good() -> Iterator[None]:
    """Import in here: the collector of garbage rests meanwhile, and later passes by what was imported.

    Millions of objects that stay are otherwise looked through again and again while they are made, and once more when
    the process ends: a third of the CPU time of a command that loads transformers (docs/log.md).
    """
    if "transformers.modeling_utils" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
