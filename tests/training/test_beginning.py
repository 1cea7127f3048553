"""Where a run starts: at a checkpoint of its study, or at a model trained elsewhere."""

from types import SimpleNamespace

import pytest

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import RunFolder
from hf_bootstrap.training.beginning import begin, start_folder

from .conftest import MODEL


def test_a_model_trained_elsewhere_needs_no_mark_of_ours(tmp_path):
    elsewhere = tmp_path / "model"
    elsewhere.mkdir()
    spec = SimpleNamespace(start=str(elsewhere), run_id="x")
    assert start_folder(SimpleNamespace(study=tmp_path), spec) == str(elsewhere)


def test_a_checkpoint_of_the_study_must_be_complete(tmp_path):
    inside = tmp_path / "runs/trunk/checkpoint-5"
    inside.mkdir(parents=True)
    spec = SimpleNamespace(start="trunk/checkpoint-5", run_id="x")
    with pytest.raises(TrainingError, match="was not written to its end"):
        start_folder(SimpleNamespace(study=tmp_path), spec)
    (inside / "complete.json").write_text("{}")
    assert start_folder(SimpleNamespace(study=tmp_path), spec) == str(inside)


def test_a_start_that_is_not_there_is_named_with_what_to_do(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    spec = RunSpec(
        method="continue", domain="words", seed=0, start=nowhere, base_tokens=100, data="train", tokens=64,
        eval_sets={"words": "held"}, peak_lr=1e-3, batch_size=2, sequence_length=16,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=rf"starts from {nowhere}, which cannot be loaded: .* Check the path"):
        begin(RunFolder.create(tmp_path, spec), spec)


def test_attention_that_a_model_has_not_is_named(tmp_path):
    spec = RunSpec(
        method="scratch", domain="words", seed=0, model=MODEL, data="train", tokens=64, attention="flash_attention_9",
        eval_sets={"words": "held"}, peak_lr=1e-3, batch_size=2, sequence_length=16,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"cannot be begun: .*flash_attention_9.* Mend the model or the attention"):
        begin(RunFolder.create(tmp_path, spec), spec)


def test_attention_asked_for_is_given_to_classes_that_take_it_when_they_are_made(tmp_path):
    small = {
        "model_type": "falcon",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    spec = RunSpec(
        method="scratch", domain="words", seed=0, model=small, data="train", tokens=64, attention="eager",
        eval_sets={"words": "held"}, peak_lr=1e-3, batch_size=2, sequence_length=16,
    )  # fmt: skip
    start = begin(RunFolder.create(tmp_path, spec), spec)
    assert start.attention.name == start.model.config._attn_implementation == "eager"
