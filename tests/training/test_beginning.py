"""Where a run starts: at a checkpoint of its study, or at a model trained elsewhere."""

from types import SimpleNamespace

import pytest

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.training.beginning import start_folder


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
