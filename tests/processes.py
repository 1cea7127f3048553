"""Child processes that begin with torch and the Trainer loaded: loading both costs seconds, once instead of each time.

What a real launcher adds is left to the slow tests that start one.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import socket

__all__ = ["CONTEXT", "start", "together"]

CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["torch", "transformers.trainer", "hf_bootstrap.training.loop", "hf_bootstrap.cli.main"]
_ours = None


def start(target, *arguments):
    """A process forked from a server that has everything loaded."""
    global _ours
    server = multiprocessing.forkserver._forkserver
    if _ours is None or server._forkserver_pid != _ours:
        # A test before may have started the session's only server, with nothing loaded.
        server._stop()
        CONTEXT.set_forkserver_preload(_PRELOAD)
        first = CONTEXT.Process(target=_nothing)
        first.start()
        first.join()  # it comes back when the server has loaded, so what is timed next is the work
        _ours = server._forkserver_pid
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def together(count, target, *arguments, seconds=240):
    """Run `target` in processes that find each other as those of torchrun do; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{**shared, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"} for rank in range(count)]
    processes = [start(_with_environment, rank, target, arguments) for rank in ranks]
    for process in processes:
        process.join(seconds)
    for process in processes:
        process.is_alive() and process.kill()
        process.join()
    return [process.exitcode for process in processes]


def _with_environment(variables, target, arguments):
    import torch

    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    target(*arguments)


def _nothing():
    pass
