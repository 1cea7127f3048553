"""A model's config without weights, and the demo's law of continued training."""

import json
from pathlib import Path

import pytest

from hf_bootstrap import ScalingLaw

ROOT = Path(__file__).parents[2]
DEMO = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 176,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512,
    "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def model_folder(tmp_path):
    def make(**fields):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**DEMO, **fields}))
        return folder

    return make


@pytest.fixture(scope="session")
def demo_law():
    return ScalingLaw(resamples=200).fit(ROOT / "docs/demo/continue.jsonl")


@pytest.fixture(scope="session")
def law_folder(demo_law, tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws") / "law"
    demo_law.save_pretrained(folder)
    return folder
