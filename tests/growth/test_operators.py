from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bootstrap.growth.index_maps import copy_ranks, gather, interleave, pad_heads, pad_units, sum_copies
from hf_bootstrap.growth.operators import (
    OPERATORS,
    clone,
    give_first,
    keyed_generator,
    noise,
    partition,
    rescale,
    split,
    split_in_two,
)

# Every finite bit pattern of a type, so that zeros, subnormal and huge numbers all come up.
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


@st.composite
def weights(draw, dtype):
    integer = BITS[dtype]
    info = torch.iinfo(integer)
    # the four smallest numbers of the type
    patterns = draw(st.lists(st.integers(info.min, info.max), min_size=1, max_size=12))
    tensor = torch.tensor(patterns, dtype=integer).view(dtype)
    extreme = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).tiny, 0.0, -0.0], dtype=dtype)
    smallest = torch.tensor([0, 1, 2, 3], dtype=integer).view(dtype)
    tensor = torch.cat([tensor[torch.isfinite(tensor)], extreme, smallest])
    return tensor.reshape(-1, 1)


def exact_sum(parts):
    return [sum((Fraction(value) for value in row), Fraction()) for row in parts.double().tolist()]


@pytest.mark.parametrize("method", [split, partition, give_first])
@pytest.mark.parametrize("dtype", BITS, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_shares_add_up_bit_for_bit_whatever_the_value(method, dtype, data):
    weight = data.draw(weights(dtype))
    copies = data.draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    grown = method(weight, 1, torch.zeros(copies, dtype=torch.int64), generator)
    assert grown.dtype == dtype
    # Python's rational numbers are the oracle: no rounding anywhere.
    assert exact_sum(grown) == exact_sum(weight)


@settings(max_examples=60, deadline=None)
@given(weight=weights(torch.bfloat16), uniform=st.floats(0, 1, exclude_max=True, width=32))
def test_two_parts_have_the_sign_of_the_whole_and_add_up(weight, uniform):
    first, second = split_in_two(weight, torch.full(weight.shape, uniform, dtype=torch.float32))
    assert torch.equal(first + second, weight)
    assert bool(((first * weight.sign() >= 0) & (second * weight.sign() >= 0)).all())


def test_split_copies_differ_and_clone_copies_do_not():
    weight, source = torch.randn(16, 4), interleave(4, 2)
    for method, differ in ((split, True), (partition, True), (noise, True), (give_first, True), (clone, False)):
        grown = method(weight, 1, source, torch.Generator().manual_seed(0))
        assert torch.equal(grown[:, 0::2], grown[:, 1::2]) is not differ


def test_no_copy_gets_more_than_another_on_average():
    grown = split(torch.ones(100_000, 1), 1, torch.zeros(3, dtype=torch.int64), torch.Generator().manual_seed(0))
    # 3 copies are cut as (2, 1): means 1/4, 1/4, 1/2; two copies get one half each.
    assert grown.mean(0).tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2], abs=5e-3)
    halves = split(torch.ones(100_000, 1), 1, torch.zeros(2, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert halves.mean(0).tolist() == pytest.approx([1 / 2, 1 / 2], abs=5e-3)


@pytest.mark.parametrize("method", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("source", [[0, 0, 1, 1, 2, 2], [2, 0, 1, 0, 0, 2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_layer_reads_any_widened_vector_as_before(method, source, axis):
    source = torch.tensor(source)
    weight = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vector = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grown = method(weight, axis, source, torch.Generator().manual_seed(2))
    wide = vector[source]
    ours, theirs = (grown @ wide, weight @ vector) if axis == 1 else (wide @ grown, vector @ weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", OPERATORS.values(), ids=OPERATORS)
def test_summing_copies_undoes_every_operator(method):
    weight, source = torch.randn(5, 4), torch.tensor([3, 0, 0, 1, 2, 0, 3])
    grown = method(weight, 1, source, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sum_copies(grown, 1, source, 4), weight.double(), rtol=1e-7, atol=1e-7)


def test_new_units_that_are_no_copies_come_after_the_old_ones():
    index, fresh = pad_units(3, 5)
    assert index[~fresh].tolist() == [0, 1, 2]
    assert index[fresh].tolist() == [0, 1]
    # 4 heads of 2 channels for 2 key heads become 6: a new one at the end of each group.
    index, fresh = pad_heads(4, 6, 2, 2, 2)
    assert index[~fresh].tolist() == list(range(8))
    assert fresh.reshape(6, 2).any(1).tolist() == [False, False, True, False, False, True]


def test_interleaving_keeps_blocks_whole():
    assert interleave(4, 2, block=2).tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert interleave(3, 2).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("query_factor", "key_factor"), [(2, 2), (3, 1), (4, 2), (6, 3), (2, 1)])
def test_interleaved_query_heads_find_a_copy_of_their_own_key_head(query_factor, key_factor):
    heads, kv_heads = 8, 2
    queries, keys = interleave(heads, query_factor), interleave(kv_heads, key_factor)
    group = len(queries) // len(keys)
    for j, old in enumerate(queries.tolist()):
        assert keys[j // group] == old // (heads // kv_heads)


def test_ranks_count_the_copies_of_each_unit():
    assert copy_ranks(torch.tensor([3, 5, 3, 4, 3])).tolist() == [0, 0, 1, 0, 2]


def test_gathering_copies_rows():
    assert gather(torch.arange(6).reshape(3, 2), 0, torch.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]


def test_rescaling_a_norm_that_adds_one_scales_what_it_applies():
    weight = torch.tensor([0.0, -0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(1 + rescale(weight, 1 / 3, offset=1.0), (1 + weight) / 3)
    assert torch.equal(rescale(weight.bfloat16(), 0.5), weight.bfloat16() / 2)


def test_the_random_numbers_of_a_tensor_depend_on_seed_and_name_alone():
    draw = lambda seed, name: torch.rand(4, generator=keyed_generator(seed, name)).tolist()  # noqa: E731
    assert draw(0, "a") == draw(0, "a")
    assert len({tuple(draw(seed, name)) for seed in (0, 1) for name in ("a", "b")}) == 4
