"""The table of published counts: every entry has a source, and no count is more certain than its source."""

import re

import pytest
import yaml

from hf_bootstrap.advise.base_tokens import KINDS, PUBLISHED, find_base_tokens, read_base_tokens
from hf_bootstrap.errors import QuantityError
from hf_bootstrap.units import parse_count

ENTRIES = yaml.safe_load(PUBLISHED.read_text())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["models"][0])
def test_an_entry_says_what_its_source_says_and_where(entry):
    assert set(entry) == {"models", "tokens", "kind", "said", "source"}
    assert re.match(r"https://(arxiv\.org/abs/\d{4}\.\d{5}$|huggingface\.co/|github\.com/)", entry["source"])
    low, high = (parse_count(text) for text in entry["tokens"])
    assert 1e9 < low <= high < 1e14
    assert entry["kind"] in KINDS
    if entry["kind"] not in ("counted", "repeated"):
        assert low < high, "only a run that was counted has one number"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["models"][0])
def test_no_entry_hides_behind_an_earlier_one(entry):
    for pattern in entry["models"]:
        assert find_base_tokens(pattern.replace("*", "1B")).said == entry["said"]


# Figures as the papers and cards print them.
@pytest.mark.parametrize(
    ("name", "printed", "kind"),
    [
        ("meta-llama/Llama-2-7b-hf", 2.0e12, "annealed"),
        ("meta-llama/Llama-2-7b-chat-hf", 2.0e12, "fine-tuned"),
        ("meta-llama/Llama-3.1-8B", 15e12, "multi-stage"),
        ("meta-llama/Llama-3.1-8B-Instruct", 15e12, "fine-tuned"),
        ("meta-llama/Llama-3.2-1B", 9e12, "distilled"),
        ("Qwen/Qwen2-0.5B", 12e12, "multi-stage"),
        ("qwen/qwen2.5-7b", 18e12, "up-to"),
        ("Qwen/Qwen3-8B-Base", 36e12, "multi-stage"),
        ("Qwen/Qwen3-8B", 36e12, "fine-tuned"),
        ("allenai/OLMo-2-1124-7B", 4e12, "multi-stage"),
        ("HuggingFaceTB/SmolLM2-1.7B", 11e12, "multi-stage"),
        ("google/gemma-2-2b", 2e12, "distilled"),
        ("EleutherAI/pythia-410m", 299_892_736_000, "counted"),
        ("EleutherAI/pythia-410m-deduped", 299_892_736_000, "repeated"),
    ],
)
def test_the_printed_count_lies_in_the_range(name, printed, kind):
    found = find_base_tokens(name)
    assert found.kind == kind
    assert found.low <= printed <= found.high


def test_what_is_not_published_is_not_known():
    assert find_base_tokens("mistralai/Mistral-7B-v0.1") is None
    with pytest.raises(QuantityError, match="No published count"):
        read_base_tokens("mistralai/Mistral-7B-v0.1")


@pytest.mark.parametrize(("text", "low", "high"), [("15T", 15e12, 15e12), ("9T:24T", 9e12, 24e12), (1e9, 1e9, 1e9)])
def test_a_stated_count_is_taken_as_it_is(text, low, high):
    found = read_base_tokens(text)
    assert (found.low, found.high, found.kind) == (low, high, "stated")


@pytest.mark.parametrize("text", ["0", "24T:9T", "many", "-1"])
def test_a_count_that_makes_no_sense_is_refused(text):
    with pytest.raises(QuantityError, match="base_tokens"):
        read_base_tokens(text)
