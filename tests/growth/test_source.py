"""Where a source comes from: a folder, the Hub's cache with its links, and whose code may run."""

import json
import os
import time

import pytest
import torch

from hf_bootstrap import GrowthConfig, grow_checkpoint
from hf_bootstrap.errors import CorruptFileError, GrowthError, StoreError, UnsupportedModelError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.source import find_source

from .models import tiny

WIDER, COMMIT = GrowthConfig(width=2), "0123456789abcdef0123456789abcdef01234567"


def snapshot(root, model_type="llama"):
    """A model as the Hub's cache keeps it: links into the blobs of the repository."""
    repository = root / "models--org--base"
    (repository / "blobs").mkdir(parents=True)
    folder = repository / "snapshots" / COMMIT
    tiny(model_type, dtype=torch.bfloat16).save_pretrained(folder)
    for number, file in enumerate(sorted(folder.iterdir())):
        os.rename(file, repository / "blobs" / str(number))
        os.symlink(f"../../blobs/{number}", file)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that has one model; `asked` is what was asked of it."""
    folder, asked = snapshot(tmp_path / "cache"), {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return folder, asked


def test_a_name_on_the_hub_is_fetched_and_grown_from_the_links_of_its_cache(hub, tmp_path):
    folder, asked = hub
    report = grow_checkpoint("org/base", tmp_path / "grown", WIDER, revision="main")
    assert report.n_params > report.n_params_source
    assert (asked["name"], asked["revision"]) == ("org/base", "main")
    assert "*.safetensors" in asked["allow_patterns"]
    assert "*.bin" not in asked["allow_patterns"]
    assert (tmp_path / "grown/generation_config.json").read_bytes() == (folder / "generation_config.json").read_bytes()
    assert not (tmp_path / "grown/generation_config.json").is_symlink()


def test_templates_in_a_folder_of_the_cache_travel(hub, tmp_path):
    folder, _ = hub
    (folder / "additional_chat_templates").mkdir()
    (folder.parents[1] / "blobs/template").write_text("{{ tools }}")
    os.symlink("../../../blobs/template", folder / "additional_chat_templates/tools.jinja")
    os.symlink("/etc/hostname", folder / "additional_chat_templates/other.jinja")
    report = grow_checkpoint("org/base", tmp_path / "grown", WIDER)
    assert (tmp_path / "grown/additional_chat_templates/tools.jinja").read_text() == "{{ tools }}"
    assert os.listdir(tmp_path / "grown/additional_chat_templates") == ["tools.jinja"]
    assert "not carried over: additional_chat_templates" in report.notes


def test_a_name_that_cannot_be_fetched_is_one_typed_error(tmp_path):
    with pytest.raises(StoreError, match=r"not a folder here, and could not be fetched"):
        grow_checkpoint("no-such-organisation/no-such-model", tmp_path / "grown", WIDER)
    assert os.listdir(tmp_path) == []


def test_links_out_of_the_repository_are_refused(tmp_path):
    folder = snapshot(tmp_path / "cache")
    (tmp_path / "elsewhere").write_bytes((folder / "model.safetensors").read_bytes())
    for target in (tmp_path / "elsewhere", "../../../../elsewhere"):
        (folder / "model.safetensors").unlink()
        os.symlink(target, folder / "model.safetensors")
        with pytest.raises(CorruptFileError, match="a link"):
            grow_checkpoint(folder, tmp_path / "grown", WIDER)
    plain = tmp_path / "plain"
    tiny("llama", dtype=torch.bfloat16).save_pretrained(plain)
    os.rename(plain / "config.json", tmp_path / "config.json")
    os.symlink(tmp_path / "config.json", plain / "config.json")
    with pytest.raises(CorruptFileError, match="a link"):
        grow_checkpoint(plain, tmp_path / "grown", WIDER)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper() + "x"])
def test_code_is_trusted_only_with_a_pinned_commit(hub, revision):
    with pytest.raises(GrowthError, match="nobody can say which code"):
        find_source("org/base", revision=revision, trust_remote_code=True)


def test_code_in_a_folder_is_never_trusted_and_a_folder_has_no_revision(tmp_path):
    with pytest.raises(GrowthError, match="a folder has no revision"):
        find_source(tmp_path, trust_remote_code=True)
    with pytest.raises(GrowthError, match="is a path"):
        find_source(tmp_path, revision=COMMIT)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
from pathlib import Path
Path(__file__).with_name("ran").touch()
class MineConfig(LlamaConfig):
    model_type = "mine"
class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


def with_code(folder, where="modeling_mine"):
    for name in ("config.json", "modeling_mine.py"):
        (folder / name).unlink(missing_ok=True)
    record = tiny("llama", dtype=torch.bfloat16).config.to_dict()
    record |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "dtype": "bfloat16"}
    names = {"AutoConfig": "MineConfig", "AutoModelForCausalLM": "MineForCausalLM"}
    record["auto_map"] = {key: f"{where}.{name}" for key, name in names.items()}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "modeling_mine.py").write_text(CODE)


def test_remote_code_runs_only_when_trusted_at_a_commit(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_code(hub[0])
    with pytest.raises(UnsupportedModelError):
        grow_checkpoint("org/base", tmp_path / "grown", WIDER, revision=COMMIT)
    assert not list(tmp_path.rglob("ran"))
    report = grow_checkpoint("org/base", tmp_path / "grown", WIDER, revision=COMMIT, trust_remote_code=True)
    assert report.n_params > report.n_params_source
    assert (tmp_path / "grown/modeling_mine.py").read_text() == CODE
    assert json.loads((tmp_path / "grown/config.json").read_text())["model_type"] == "mine"


def test_code_of_another_repository_is_not_pinned_and_refused(hub, tmp_path):
    with_code(hub[0], where="somebody/else--modeling_mine")
    with pytest.raises(GrowthError, match="another repository"):
        grow_checkpoint("org/base", tmp_path / "grown", WIDER, revision=COMMIT, trust_remote_code=True)


def test_quantised_weights_are_refused_with_the_reason(tmp_path):
    tiny("llama", dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    record = json.loads((tmp_path / "base/config.json").read_text())
    record["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "base/config.json").write_text(json.dumps(record))
    with pytest.raises(UnsupportedModelError, match=r"gptq.*original weights"):
        grow_checkpoint(tmp_path / "base", tmp_path / "grown", WIDER)
    assert sorted(os.listdir(tmp_path)) == ["base"]


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_a_config_with_more_layers_than_tensors_is_refused_at_once(tmp_path, model_type):
    tiny(model_type, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    record = json.loads((tmp_path / "base/config.json").read_text())
    record["n_layer" if model_type == "gpt2" else "num_hidden_layers"] = 10**9
    record.pop("layer_types", None)
    (tmp_path / "base/config.json").write_text(json.dumps(record))
    began = time.process_time()
    with pytest.raises(GrowthError, match=r"1,000,000,000, and the checkpoint holds \d+ tensors"):
        grow_checkpoint(tmp_path / "base", tmp_path / "grown", WIDER)
    with pytest.raises(GrowthError, match="fewer than one for each layer"):
        bootstrap_from_pretrained(tmp_path / "base", WIDER)
    assert time.process_time() - began < 1
    assert sorted(os.listdir(tmp_path)) == ["base"]
