"""stories260K: a real, over-trained Llama of 260,032 parameters, from the folder of shared data."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.verify import verify_growth

SHARED = Path(os.environ.get("HF_BOOTSTRAP_SHARED", Path(__file__).parents[3] / "shared"))
STORIES = SHARED / "data" / "checkpoints" / "stories260K"

pytestmark = pytest.mark.skipif(
    not STORIES.exists(), reason=f"needs the checkpoint stories260K in {STORIES}; set HF_BOOTSTRAP_SHARED"
)


@pytest.fixture(scope="module")
def source():
    return AutoModelForCausalLM.from_pretrained(STORIES).eval()


@pytest.fixture(scope="module")
def stories():
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    text = (STORIES / "sample_tinystories.txt").read_text()
    return [tokenizer(story.strip(), return_tensors="pt").input_ids for story in text.split("<|endoftext|>")[:5]]


@torch.no_grad()
def loss(model, stories):
    """Nats per token over all stories, by the model's own loss."""
    model.eval()
    counts = [ids.shape[1] - 1 for ids in stories]
    return sum(model(input_ids=s, labels=s).loss.item() * n for s, n in zip(stories, counts, strict=True)) / sum(counts)


def greedy(model):
    start = torch.tensor([[1]])
    model.eval()
    return model.generate(start, max_new_tokens=200, min_new_tokens=200, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("method", ["split", "clone", "partition"])
@pytest.mark.parametrize("factor", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_wider_story_teller_tells_the_same_story(source, stories, method, factor):
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=factor, width_method=method))
    assert loss(source, stories) == pytest.approx(1.266, abs=1e-3)  # stated in the checkpoint's PROVENANCE.md
    assert loss(grown, stories) == pytest.approx(loss(source, stories), abs=1e-5)
    assert torch.equal(greedy(grown), greedy(source))


def test_silent_layers_tell_the_same_story(source, stories):
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2, depth_method="identity"))
    assert grown.config.num_hidden_layers == 2 * source.config.num_hidden_layers
    assert loss(grown, stories) == pytest.approx(loss(source, stories), abs=1e-5)
    assert torch.equal(greedy(grown), greedy(source))


def test_any_size_tells_the_same_story_too(source, stories):
    sizes = {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 6, "intermediate_size": 300}
    grown = bootstrap_from_pretrained(source, GrowthConfig(width_method="zero_pad", **sizes))
    assert loss(grown, stories) == pytest.approx(loss(source, stories), abs=1e-5)
    assert torch.equal(greedy(grown), greedy(source))


def test_the_jump_of_what_promises_nothing_is_measured(source, stories):
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method="aki"))
    report = verify_growth(source, grown, stories[0])
    assert not report.keeps_function
    assert report.loss_after == pytest.approx(loss(grown, stories[:1]), abs=1e-5)
    assert report.loss_after > report.loss_before + 1


@pytest.mark.parametrize("method", ["stack", "interpose"])
def test_a_deeper_one_runs_and_its_jump_is_reported(source, stories, tmp_path, method):
    bootstrap_from_pretrained(STORIES, GrowthConfig(depth=2, depth_method=method)).save_pretrained(tmp_path)
    grown = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert grown.config.num_hidden_layers == 10
    assert greedy(grown).shape == (1, 201)
    report = verify_growth(source, grown, stories[0])
    assert report.loss_before == pytest.approx(loss(source, stories[:1]), abs=1e-5)
    assert report.loss_after == pytest.approx(loss(grown, stories[:1]), abs=1e-5)
    assert report.loss_after > report.loss_before + 0.1
