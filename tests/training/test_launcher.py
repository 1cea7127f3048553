"""What a killed launcher started ends too; what a shell started does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = "import time; from hf_bootstrap.training.launcher import follow_launcher; follow_launcher(); time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {CHILD!r}]).pid, flush=True)
time.sleep(60)
"""


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("launched", [True, False])
def test_a_process_ends_with_its_launcher_and_with_nobody_else(launched):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"TORCHELASTIC_RUN_ID": "none"} if launched else {}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    try:
        time.sleep(1.5)
        assert lives(child), "it must not end before its parent does"
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + (20 if launched else 1.5)
        while lives(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert lives(child) != launched
    finally:
        parent.kill()
        parent.stdout.close()
        if lives(child):
            os.kill(child, signal.SIGKILL)
