"""Progress: seen on a terminal and nowhere else."""

import os
import pty
import subprocess
import sys

import pytest

from hf_bootstrap import GrowthConfig
from hf_bootstrap.growth.stream import grow_checkpoint

from ..growth.models import tiny


def on_a_terminal(*words, **env):
    """What a command writes to a terminal as standard error, and how it ends."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **env}
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_bootstrap.cli", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux says that the other side is gone
        pass
    os.close(ours)
    return shown.decode(), process.wait(60)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny("llama").save_pretrained(folder)
    return folder


def test_growth_tells_how_many_bytes_are_written(base, tmp_path):
    told = []
    report = grow_checkpoint(
        base,
        tmp_path / "grown",
        GrowthConfig(depth=2),
        max_shard_size=20_000,
        on_progress=lambda *now: told.append(now),
    )
    assert len(report.files) > 1
    written, sizes = zip(*told, strict=True)
    assert list(written) == sorted(written)
    assert set(sizes) == {report.bytes_written}
    assert written[-1] == report.bytes_written


def test_a_terminal_sees_a_bar_unless_it_asked_for_quiet(base, tmp_path):
    shown, code = on_a_terminal("grow", base, tmp_path / "loud", "--depth", "2")
    assert code == 0
    assert " of " in shown
    assert "B" in shown
    shown, code = on_a_terminal("grow", base, tmp_path / "quiet", "--depth", "2", "--quiet")
    assert (shown, code) == ("", 0)
