"""The launcher files are ones that accelerate reads, and the Slurm script is a script."""

import subprocess

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from .pages import ROOT

FILES = sorted((ROOT / "examples" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_accelerate_reads_every_file(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "bf16"
    assert config.num_processes >= 1


def test_the_slurm_script_parses():
    script = ROOT / "examples/accelerate/multi_node.slurm"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(FILES) == 4
