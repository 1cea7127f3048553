"""The `evaluate` metric loads from its folder without a network, and finds what a plain loop finds."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ..processes import start
from .conftest import DOCUMENTS

METRIC = Path(__file__).parents[2] / "examples/metrics/token_loss"
TEXTS = ["ä short one", *DOCUMENTS[:3]]


def compute(folder):
    """In a process of its own, where nothing of `evaluate` has been read yet and no server answers."""
    os.environ |= {"HF_MODULES_CACHE": str(folder / "modules"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    import evaluate

    torch.set_num_threads(1)
    metric = evaluate.load(str(METRIC), cache_dir=str(folder / "cache"))
    found = [
        metric.compute(predictions=TEXTS, model_id=str(folder / "model"), batch_size=size, dtype="float64")
        for size in (1, 16)
    ]
    (folder / "found.json").write_text(json.dumps(found))


def test_it_loads_offline_and_equals_a_plain_loop(model, tokenizer, tokenizer_folder, tmp_path):
    model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_folder / name, tmp_path / "model")
    process = start(compute, tmp_path)
    process.join(120)
    assert process.exitcode == 0
    nats, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        for begin in range(0, ids.shape[1] - 1, 63):  # the model has 64 positions
            window = ids[:, begin : begin + 64]
            with torch.no_grad():
                logits = model.double()(input_ids=window).logits[0, :-1]
            nats += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
            count += window.shape[1] - 1
    size = sum(len(text.encode()) for text in TEXTS)
    for found in json.loads((tmp_path / "found.json").read_text()):
        assert (found["count"], found["bytes"]) == (count, size)
        assert found["loss"] == pytest.approx(nats / count, rel=1e-9)
        assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-9)


def test_its_folder_is_a_space_that_can_be_published():
    header = yaml.safe_load((METRIC / "README.md").read_text().split("---")[1])
    assert header["tags"] == ["evaluate", "metric"]
    assert (METRIC / header["app_file"]).exists()
    assert "hf_bootstrap" in (METRIC / "requirements.txt").read_text().split()
