"""What growth in memory opens is held to the rules of growth on disk: no file elsewhere, no pickle, no code unasked."""

import builtins
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_bootstrap.errors import BootstrapError, CorruptFileError, GrowthError, UnsupportedModelError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig

from .models import tiny
from .test_source import COMMIT, hub, with_code  # noqa: F401  (a fixture)

AS_IT_IS, DEEPER = GrowthConfig(), GrowthConfig(depth=2)
each_growth = pytest.mark.parametrize("growth", [AS_IT_IS, DEEPER], ids=["as it is", "deeper"])


@pytest.fixture
def base(tmp_path):
    tiny("llama", dtype=torch.float32).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def change_config(base, **changes):
    record = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(record | changes))


@each_growth
@pytest.mark.parametrize("absolute", [False, True], ids=["..", "absolute"])
def test_an_index_that_points_out_of_the_folder_is_refused(base, tmp_path, absolute, growth):
    outside = tmp_path / "outside.safetensors"
    os.rename(base / "model.safetensors", outside)
    places = dict.fromkeys(load_file(outside), str(outside) if absolute else "../outside.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with pytest.raises(CorruptFileError, match="points to"):
        bootstrap_from_pretrained(base, growth)


@each_growth
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused(base, tmp_path, name, growth):
    os.rename(base / name, tmp_path / "outside")
    os.symlink(tmp_path / "outside", base / name)
    with pytest.raises(CorruptFileError, match="is a link"):
        bootstrap_from_pretrained(base, growth)


def test_other_files_that_would_be_read_instead_are_refused(base, tmp_path):
    change_config(base, transformers_weights="../outside.safetensors")
    with pytest.raises(UnsupportedModelError, match="transformers_weights"):
        bootstrap_from_pretrained(base, DEEPER)
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "elsewhere")}))
    with pytest.raises(UnsupportedModelError, match="depends on another place"):
        bootstrap_from_pretrained(base, DEEPER)
    for option in ({"use_safetensors": False}, {"weights_only": False}, {"variant": "fp16"}, {"gguf_file": "x.gguf"}):
        with pytest.raises(GrowthError, match=next(iter(option))):
            bootstrap_from_pretrained(base, DEEPER, **option)


@each_growth
def test_pickles_are_read_only_when_asked_for_and_guarded(base, tmp_path, growth):
    expected = bootstrap_from_pretrained(base, growth).state_dict()
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="allow_pickle=True"):
        bootstrap_from_pretrained(base, growth)
    found = bootstrap_from_pretrained(base, growth, allow_pickle=True).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    torch.save({"x": Hostile(tmp_path / "ran")}, base / "pytorch_model.bin")
    with pytest.raises(CorruptFileError, match="weights_only"):
        bootstrap_from_pretrained(base, growth, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_damage_of_any_kind_is_an_error_of_ours(base):
    whole = (base / "model.safetensors").read_bytes()
    for damaged in (whole[:100], whole[:-1], b"", b"x" * 200):
        (base / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CorruptFileError):
            bootstrap_from_pretrained(base, DEEPER)
    (base / "model.safetensors").unlink()
    (base / "one.safetensors").write_bytes(whole)
    index = {"weight_map": dict.fromkeys(load_file(base / "one.safetensors"), "one.safetensors")}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))  # transformers asks for "metadata" too
    with pytest.raises(GrowthError, match="KeyError: 'metadata'"):
        bootstrap_from_pretrained(base, DEEPER)
    (base / "pytorch_model.bin").write_bytes(b"no pickle")
    (base / "model.safetensors.index.json").unlink()
    with pytest.raises(CorruptFileError, match="weights_only"):
        bootstrap_from_pretrained(base, DEEPER, allow_pickle=True)


def test_the_code_of_a_folder_never_runs_and_nobody_is_asked(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *text: pytest.fail("transformers asked whether code may run"))
    with_code(base)
    for options in ({}, {"trust_remote_code": True}, {"trust_remote_code": True, "revision": COMMIT}):
        with pytest.raises(BootstrapError):
            bootstrap_from_pretrained(base, DEEPER, **options)
    change_config(base, model_type="llama")  # a type transformers knows: its own class is taken
    bootstrap_from_pretrained(base, DEEPER)
    assert not list(tmp_path.rglob("ran"))


def test_code_from_the_hub_runs_only_at_a_commit(hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_code(hub[0])
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(GrowthError, match="nobody can say which code"):
            bootstrap_from_pretrained("org/base", DEEPER, trust_remote_code=True, revision=revision)
    with pytest.raises(GrowthError, match="code_revision"):
        bootstrap_from_pretrained("org/base", DEEPER, trust_remote_code=True, revision=COMMIT, code_revision="main")
    grown = bootstrap_from_pretrained("org/base", DEEPER, trust_remote_code=True, revision=COMMIT)
    assert type(grown).__name__ == "MineForCausalLM"
    assert grown.config.hf_bootstrap["growth"][0]["source"]["name_or_path"] == "org/base"
    with_code(hub[0], where="somebody/else--modeling_mine")
    with pytest.raises(GrowthError, match="another repository"):
        bootstrap_from_pretrained("org/base", DEEPER, trust_remote_code=True, revision=COMMIT)


def test_weights_beside_an_index_that_is_theirs_are_read(base, tmp_path):
    weights = load_file(base / "model.safetensors")
    expected = bootstrap_from_pretrained(base, DEEPER).state_dict()
    (base / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, base / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found = bootstrap_from_pretrained(base, DEEPER).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
