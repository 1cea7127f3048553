"""A grown folder held against its source: a sound one passes, and each kind of damage is found."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hf_bootstrap import GrowthConfig, grow_checkpoint
from hf_bootstrap.cli.main import app
from hf_bootstrap.errors import GrowthError, UnsupportedModelError, VerificationError
from hf_bootstrap.growth import recipe as recipes
from hf_bootstrap.growth import verify_files
from hf_bootstrap.growth.verify_files import verify_checkpoint

from .models import tiny

SHARED = Path(os.environ.get("HF_BOOTSTRAP_SHARED", Path(__file__).parents[3] / "shared"))
STORIES = SHARED / "data" / "checkpoints" / "stories260K"


def pair(tmp_path, model_type="llama", growth=None, dtype=torch.bfloat16):
    tiny(model_type, dtype=dtype).save_pretrained(tmp_path / "base")
    grow_checkpoint(tmp_path / "base", tmp_path / "grown", growth or GrowthConfig(width=2, depth=2))
    return tmp_path / "base", tmp_path / "grown"


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text"])
def test_a_sound_growth_passes_in_pieces(tmp_path, monkeypatch, model_type):
    monkeypatch.setattr(recipes, "BLOCK", 900)
    report = verify_checkpoint(*pair(tmp_path, model_type))
    assert report.passed
    assert report.hashes_match is True
    assert report.weight_error <= (0 if model_type != "gemma3_text" else 2**-7)
    assert report.logit_drift < 1e-4 or not report.keeps_function
    assert report.gradient_reach is True
    assert json.dumps(report.to_dict())
    assert "growth.json" in str(report)


def change(folder, name, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights[name])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("method", ["split", "partition", "clone"])
def test_a_share_that_is_off_is_found_and_named(tmp_path, method):
    base, grown = pair(tmp_path, growth=GrowthConfig(width=2, width_method=method))
    change(grown, "model.layers.1.mlp.down_proj.weight", lambda w: w[5, 5].mul_(1.5).add_(0.5))
    (grown / "growth.json").unlink()
    with pytest.raises(VerificationError, match=r"model\.layers\.1\.mlp\.down_proj|not what its method promises"):
        verify_checkpoint(base, grown)


def test_a_flipped_bit_is_found_by_the_hash_alone(tmp_path, monkeypatch):
    base, grown = pair(tmp_path, growth=GrowthConfig(depth=2))
    with open(grown / "model.safetensors", "r+b") as file:
        place = file.seek(-1000, 2)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    monkeypatch.setattr(verify_files, "_compare_weights", lambda job, after: (0.0, [], True))
    monkeypatch.setattr(verify_files, "_compare_functions", lambda *arguments: (None, None, ["not asked"]))
    with pytest.raises(VerificationError, match="OTHER than in growth"):
        verify_checkpoint(base, grown)


def test_other_names_numbers_and_histories_are_refused(tmp_path):
    base, grown = pair(tmp_path)
    change(grown, "model.norm.weight", lambda w: w[0].fill_(torch.nan))
    with pytest.raises(GrowthError, match="NaN"):
        verify_checkpoint(base, grown)
    weights = load_file(grown / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(3)
    save_file(weights, grown / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError, match=r"model\.norm\.weight is .*\(3,\)"):
        verify_checkpoint(base, grown)
    with pytest.raises(GrowthError, match="does not say how"):
        verify_checkpoint(base, base)


def test_an_architecture_that_cannot_be_run_in_blocks_is_compared_by_its_tensors_and_the_report_says_so(
    tmp_path, monkeypatch
):
    def refuse(*arguments):
        raise UnsupportedModelError("llama cannot be run block by block: it hides its weights")

    monkeypatch.setattr(verify_files, "BlockwiseModel", refuse)
    report = verify_checkpoint(*pair(tmp_path))
    assert report.logit_drift is None
    assert report.gradient_reach is None
    assert any("hides its weights" in note for note in report.notes)
    assert "not compared" in str(report)


@pytest.mark.skipif(not STORIES.exists(), reason=f"needs {STORIES}; set HF_BOOTSTRAP_SHARED")
def test_the_command_verifies_a_real_checkpoint_on_its_own_text(tmp_path):
    grow_checkpoint(STORIES, tmp_path / "grown", GrowthConfig(width=2))
    arguments = ["verify", str(STORIES), str(tmp_path / "grown"), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--text", str(STORIES / "sample_tinystories.txt")])
    assert result.exit_code == 0, result.exception
    report = json.loads(result.stdout)
    assert report["weight_error"] == 0
    assert report["loss_after"] == pytest.approx(report["loss_before"], abs=1e-5)
    assert report["text"] == "the given text"
