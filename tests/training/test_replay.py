"""Replay is exact at every length, forgets no block, and finds its place by arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bootstrap.errors import DataError
from hf_bootstrap.training.data import PackedBlocks, load_tokenizer, pack, train_tokenizer
from hf_bootstrap.training.replay import Replay

from .conftest import DOCUMENTS


def sources(study):
    return PackedBlocks(study / "train.safetensors", 16), PackedBlocks(study / "held.safetensors", 16)


def origin(block, target, base):
    """Which source a block came from, and its place there, found by looking through both."""
    for name, blocks in (("base", base), ("target", target)):
        for place in range(len(blocks)):
            if block["input_ids"].equal(blocks[place]["input_ids"]):
                return name, place
    raise AssertionError("a block of neither source")


def test_five_percent_are_spread_evenly_in_order(study):
    target, base = sources(study)
    mixed = Replay(target, base, 0.05, blocks=100)
    found = [origin(mixed[i], target, base) for i in range(100)]
    assert [place for name, place in found if name == "base"] == list(range(5))
    assert [place for name, place in found if name == "target"] == list(range(95))
    assert [i for i, (name, _) in enumerate(found) if name == "base"] == [19, 39, 59, 79, 99]


@settings(max_examples=60, deadline=None)
@given(ratio=st.fractions(0, Fraction(9, 10), max_denominator=50), blocks=st.integers(1, 80))
def test_the_ratio_is_exact_after_every_block_and_no_target_block_is_lost(ratio, blocks, study):
    target, base = sources(study)
    mixed = Replay(target, base, ratio, blocks=blocks)
    reads = {"target": [], "base": []}

    class Spy:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, index):
            reads[self.name].append(index)

    mixed.target, mixed.base = Spy("target"), Spy("base")
    for i in range(blocks):
        mixed[i]
        assert len(reads["base"]) == int((i + 1) * ratio)
    assert all(read == list(range(len(read))) for read in reads.values())


def test_by_default_the_whole_target_is_used(study):
    target, base = PackedBlocks(study / "held.safetensors", 16), PackedBlocks(study / "train.safetensors", 16)
    mixed = Replay(target, base, "1/4")
    assert len(mixed) - int(len(mixed) * 0.25) == len(target)
    ends = [origin(mixed[i], target, base) for i in range(len(mixed) - 2, len(mixed))]
    assert ("target", len(target) - 1) in ends


def test_the_points_learn_the_ratio_and_a_hash_that_depends_on_both_texts_and_the_ratio(study):
    target, base = sources(study)
    facts = [Replay(*pair, r).point_facts for pair, r in (((target, base), 0.01), ((target, base), 0.02))]
    assert [f["replay_ratio"] for f in facts] == [0.01, 0.02]
    hashes = {f["hashes"]["data"] for f in facts} | {target.facts.hash, base.facts.hash}
    assert len(hashes) == 4


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, "much", float("nan")])
def test_a_ratio_that_is_no_share_is_refused(study, ratio):
    with pytest.raises(DataError, match="replay ratio"):
        Replay(*sources(study), ratio)


def test_too_little_text_to_replay_is_refused_with_both_numbers(study):
    target, base = sources(study)
    with pytest.raises(DataError, match=f"which has {len(base):,}"):
        Replay(target, base, 0.9)


def test_sources_that_do_not_fit_are_refused(study, tmp_path):
    target, _ = sources(study)
    with pytest.raises(DataError, match="block length differs"):
        Replay(target, PackedBlocks(study / "held.safetensors", 8), 0.05)
    with pytest.raises(DataError, match="isolation"):
        Replay(target, PackedBlocks(study / "held.safetensors", 16, isolate=True), 0.05)
    other = load_tokenizer(str(train_tokenizer(DOCUMENTS, 280, tmp_path)))
    pack(DOCUMENTS, other, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="tokenizer differs"):
        Replay(target, PackedBlocks(tmp_path / "other.safetensors", 16), 0.05)
