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


def test_the_slurm_script_says_what_a_base_needs():
    script = (ROOT / "examples/accelerate/multi_node.slurm").read_text(encoding="utf-8")
    for flag in ("--model_name_or_path", "--base_tokens", "--max_tokens", "--train_file", "--validation_file"):
        assert flag in script


def test_under_zero3_growth_finds_whole_tensors():
    config = load_config_from_file(str(ROOT / "examples/accelerate/zero3.yaml")).deepspeed_config
    assert (config["zero3_init_flag"], config["gradient_accumulation_steps"]) == (False, "auto")
