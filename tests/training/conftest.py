"""Tiny text, tokenizer, token files and models, made once."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}

DOCUMENTS = [f"Document {i}: " + " ".join(f"word{(i * j) % 17} and {i + j}" for j in range(40)) for i in range(60)]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    return train_tokenizer(DOCUMENTS, 300, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    return load_tokenizer(str(tokenizer_folder))


@pytest.fixture(scope="session")
def study(tmp_path_factory, tokenizer):
    """A study folder with token files: `train` and `held`."""
    folder = tmp_path_factory.mktemp("study")
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")
    return folder


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"}))
