"""Small studies that really train: an adapter, and stages that keep Adam, stopped half-way and gone on with."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_bootstrap.store import RunFolder
from hf_bootstrap.study.conduct import conduct_study
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.training import data

from .test_run import alive, wait_until

RUN_ONE = "hf_bootstrap.training.loop:run_one"
SCRIPT = """
import sys
from tests.study.test_trained_studies import conduct
if __name__ == "__main__":
    conduct(sys.argv[1], sys.argv[2])
"""
SMALL = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
STUDY = {
    "name": "small",
    "texts": {"words": {"files": "*.txt"}},
    "vocab_size": 300,
    "held_out_characters": 3000,
    "models": {"small": SMALL},
    "bases": [{"model": "small", "text": "words", "tokens": 640}],
    "methods": [
        {"name": "lora", "text": "words", "tokens": [640, 960], "lora": {"r": 2, "dropout": 0.1}},
        {"name": "kept", "scratch": "small", "text": "words", "tokens": 640, "optimizer": "grow"},
        {
            "name": "deeper", "text": "words", "tokens": 640, "optimizer": "grow", "base_decayed": False,
            "growth": {"depth": 2, "depth_method": "identity"},
        },
    ],
    "training": {
        "peak_lr": 1e-2, "batch_size": 2, "sequence_length": 16, "warmup_steps": 2, "rewarm_steps": 1,
        "attention": "eager",
    },
}  # fmt: skip


def conduct(folder, corpora):
    return conduct_study(
        StudyConfig.from_dict(STUDY), folder, data, RUN_ONE, corpora=corpora, workers=1, say=lambda _: None
    )


@pytest.fixture
def corpora(tmp_path):
    folder = tmp_path / "corpora"
    folder.mkdir()
    for number in range(60):
        text = " ".join(f"word{(number * j) % 17} and {number + j}" for j in range(80))
        (folder / f"{number:02}.txt").write_text(f"Document {number}: {text}\n")
    return folder


def measured(points):
    return [dataclasses.replace(point, tokens_per_second=None) for point in points]


def test_a_study_stopped_half_way_ends_with_the_points_of_an_undisturbed_one(tmp_path, corpora):
    straight = conduct(tmp_path / "straight", corpora)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    stopped = tmp_path / "stopped"
    study = subprocess.Popen([sys.executable, "-c", SCRIPT, str(stopped), str(corpora)], env=environment)
    wait_until(lambda: len(list(stopped.glob("runs/*/done.json"))) > len(straight) // 2, seconds=120)
    study.kill()
    study.wait()
    before = len(list(stopped.glob("runs/*/done.json")))
    assert measured(conduct(stopped, corpora)) == measured(straight)
    assert before < len(list(stopped.glob("runs/*/done.json"))), "it was stopped half-way"
    assert not alive(stopped)

    ends = {(p.method, p.base_tokens, p.tokens): p for p in straight if p.phase == "end" and p.base_tokens}
    assert sorted({method for method, *_ in ends}) == ["deeper", "kept", "lora"]
    assert {(p.method, p.optimizer_reset) for p in ends.values()} == {
        ("lora", True), ("kept", False), ("deeper", False)
    }  # fmt: skip
    scratch = {p.n_params_non_embedding for p in straight if p.method == "scratch"}
    adapted = [point for point in ends.values() if point.method == "lora"]
    assert len(adapted) == 2
    assert {p.n_params_non_embedding for p in adapted} == scratch, "a law compares it with the same model from scratch"
    assert all(point.n_params > point.n_params_base for point in adapted)
    assert len({point.n_params_base for point in ends.values()}) == 1
    # Branches resume the stage's adapter; its base stays where the stage found it.
    decays = [RunFolder(path.parent).spec() for path in stopped.glob("runs/lora-*/run.json")]
    assert any(spec.resume and spec.lora for spec in decays)
