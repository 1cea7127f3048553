"""Pickled weights: refused unless asked for, never unpickled into anything but tensors, and grown to the same bits."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from hf_bootstrap import GrowthConfig, grow_checkpoint
from hf_bootstrap.errors import CorruptFileError, UnsupportedModelError
from hf_bootstrap.growth.pickled import open_pickled

from .models import tiny

BOTH = GrowthConfig(width=2, depth=2)


@pytest.fixture
def base(tmp_path):
    """A checkpoint in safetensors, and the same one pickled."""
    model = tiny("gpt2", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    model.config.save_pretrained(tmp_path / "pickled")
    torch.save(model.state_dict(), tmp_path / "pickled/pytorch_model.bin")
    return tmp_path


def test_pickles_are_refused_unless_asked_for_and_then_grow_to_the_same_bits(base):
    with pytest.raises(UnsupportedModelError, match="allow_pickle"):
        grow_checkpoint(base / "pickled", base / "grown", BOTH)
    assert not (base / "grown").exists()
    grow_checkpoint(base / "base", base / "expected", BOTH)
    report = grow_checkpoint(base / "pickled", base / "grown", BOTH, allow_pickle=True)
    ours, theirs = (load_file(base / name / "model.safetensors") for name in ("grown", "expected"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any("tied" in note for note in report.notes)  # the pickle holds the tied head twice


def test_a_sharded_pickle_is_read_by_its_index_and_the_index_may_not_point_elsewhere(base):
    folder = base / "pickled"
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names, places = sorted(state), {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name].clone() for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert set(open_pickled(folder).entries) == set(state)
    for wrong in ("../../etc/passwd.bin", "/etc/passwd", 3):
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": wrong}}))
        with pytest.raises(CorruptFileError, match="points to"):
            open_pickled(folder)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_the_code_never_runs(base):
    torch.save({"weight": torch.zeros(3), "bomb": Bomb(base / "ran")}, base / "pickled/pytorch_model.bin")
    with pytest.raises(CorruptFileError, match="weights_only"):
        grow_checkpoint(base / "pickled", base / "grown", BOTH, allow_pickle=True)
    assert not (base / "ran").exists()
    assert not (base / "grown").exists()


def test_what_is_no_plain_state_dict_is_refused(base):
    path = base / "pickled/pytorch_model.bin"
    for record, match in (([1, 2], "no state dict"), ({"step": 3}, "no state dict")):
        torch.save(record, path)
        with pytest.raises(CorruptFileError, match=match):
            open_pickled(base / "pickled")
    torch.save({"turned": torch.arange(6.0).reshape(2, 3).t()}, path)
    with pytest.raises(UnsupportedModelError, match="strides"):
        open_pickled(base / "pickled")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError):
        open_pickled(base / "pickled")
