"""A layout is worked out once per version of transformers, and a cache that is wrong in any way is made again."""

import json

import pytest
from transformers import AutoModelForCausalLM

from hf_bootstrap import GrowthConfig, grow_checkpoint
from hf_bootstrap.growth import layout_cache
from hf_bootstrap.growth.architecture import build_meta
from hf_bootstrap.growth.hub_layout import hub_layout
from hf_bootstrap.growth.layout_cache import known_layout

from .zoo import tiny_config, tiny_model


@pytest.fixture
def worked_out(tmp_path, monkeypatch):
    """The models whose layout was worked out and not read."""
    found = []

    def counted(model):
        found.append(type(model).__name__)
        return hub_layout(model)

    monkeypatch.setenv("HF_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout_cache, "hub_layout", counted)
    return found


def entries(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3", "qwen3_moe", "olmo_hybrid"])
def test_what_is_read_is_what_was_worked_out(model_type, worked_out, tmp_path):
    model = build_meta(tiny_config(model_type))
    assert known_layout(model) == known_layout(model) == hub_layout(model)
    assert list(known_layout(model).shapes) == list(hub_layout(model).shapes)  # the order of the file
    assert len(worked_out) == 1


def test_another_version_size_or_class_is_another_entry(worked_out, monkeypatch, tmp_path):
    known_layout(build_meta(tiny_config("mixtral")))
    known_layout(build_meta(tiny_config("mixtral", num_local_experts=4)))
    known_layout(build_meta(tiny_config("qwen3_moe")))
    monkeypatch.setattr(layout_cache, "version", lambda name: "9.9.9")
    known_layout(build_meta(tiny_config("mixtral")))
    assert len(worked_out) == len(entries(tmp_path)) == 4
    assert {entry.parent.name for entry in entries(tmp_path)} > {"transformers-9.9.9"}


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: data.replace(b"experts", b"exports"), lambda _: b"\0"],
)
def test_an_entry_that_is_damaged_is_made_again(damage, worked_out, tmp_path):
    model = build_meta(tiny_config("mixtral"))
    expected = known_layout(model)
    (entry,) = entries(tmp_path)
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    assert known_layout(model) == expected
    assert entry.read_bytes() == good
    assert len(worked_out) == 2


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(worked_out, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    model = build_meta(tiny_config("mixtral"))
    assert known_layout(model) == known_layout(model)
    assert len(worked_out) == 2


def test_what_takes_no_conversion_is_not_kept(worked_out, tmp_path):
    known_layout(build_meta(tiny_config("llama")))
    assert entries(tmp_path) == []


def test_growth_from_the_cache_writes_the_same_bytes(worked_out, tmp_path):
    tiny_model("mixtral").save_pretrained(tmp_path / "base")
    growth = GrowthConfig(depth=2, width=2)
    first = grow_checkpoint(tmp_path / "base", tmp_path / "one", growth)
    assert len(worked_out) == 2  # before and after growth
    again = grow_checkpoint(tmp_path / "base", tmp_path / "two", growth)
    assert len(worked_out) == 2
    assert first.files == again.files
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "two").num_parameters() == again.n_params
    assert all(
        set(json.loads(entry.read_text().partition("\n")[2])) == {"parts", "ties"} for entry in entries(tmp_path)
    )
