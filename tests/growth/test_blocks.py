"""A tensor grown in blocks is the tensor grown whole, blocks are small, and files are read by boxes."""

import math
import os
from fractions import Fraction

import pytest
import torch
from safetensors.torch import save_file

from hf_bootstrap.growth import recipe as module
from hf_bootstrap.growth.anatomy import Segment
from hf_bootstrap.growth.checkpoint import open_checkpoint
from hf_bootstrap.growth.operators import OPERATORS
from hf_bootstrap.growth.recipe import Recipe
from hf_bootstrap.growth.tensors import read_box


def segment(dimension, length, block=1):
    return (Segment(dimension=dimension, length=length, block=block),)


def recipe(shape, factors, reads, axes, **changes):
    grown = tuple(n * factors.get(axis[0].dimension, 1) for n, axis in zip(shape, axes, strict=True))
    return Recipe(
        target="t", source="s", shape=grown, axes=axes, factors=factors, reads=reads, operator="split", **changes
    )


LINEAR = ((12, 10), {"mlp": 3, "hidden": 2}, 1, (segment("mlp", 12), segment("hidden", 10)))
CONV1D = ((12, 10), {"mlp": 3, "hidden": 2}, 0, (segment("hidden", 12), segment("mlp", 10)))
EXPERTS_OUT_IN = (
    (3, 8, 10), {"mlp": 3, "hidden": 2}, 2, (segment(None, 3), segment("mlp", 8), segment("hidden", 10))
)  # fmt: skip
EXPERTS_IN_OUT = (
    (3, 10, 8), {"mlp": 3, "hidden": 2}, 1, (segment(None, 3), segment("hidden", 10), segment("mlp", 8))
)  # fmt: skip
HEADS = ((12, 10), {"heads": 2, "hidden": 2}, 1, (segment("heads", 12, 4), segment("hidden", 10)))


CASES = {"linear": LINEAR, "conv1d": CONV1D, "out, in": EXPERTS_OUT_IN, "in, out": EXPERTS_IN_OUT, "heads": HEADS}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("method", OPERATORS)
def test_blocks_of_any_size_sum_to_the_source(monkeypatch, case, scale, method):
    shape, factors, reads, axes = case
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = recipe(shape, factors, reads, axes, scale=scale)
    for block in (1, 50, 173, 10**6):
        monkeypatch.setattr(module, "BLOCK", block)
        seen = torch.zeros(shape)
        for box in made.blocks():
            seen[tuple(slice(*pair) for pair in box)] += 1
        assert bool((seen == 1).all())
        grown = made.grow(weight, OPERATORS[method], 5)
        assert tuple(grown.shape) == made.shape
        torch.testing.assert_close(made.fold(grown), made.expected_sum(weight), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("block", [40, 60, 100])
def test_no_block_is_larger_than_allowed_while_an_axis_can_be_cut(monkeypatch, case, block):
    shape, factors, reads, axes = case
    monkeypatch.setattr(module, "BLOCK", block)
    made = recipe(shape, factors, reads, axes)
    for box in made.blocks():
        positions, grown = made.grow_block(torch.ones(shape)[tuple(slice(*p) for p in box)], box, OPERATORS["split"], 0)
        unit = grown.numel() // (box[-1][1] - box[-1][0])
        assert grown.numel() == math.prod(map(len, positions)) <= max(block, unit)
        assert grown.numel() <= made.block_entries


def test_a_mean_over_rows_sees_all_of_them_in_every_block(monkeypatch):
    axes = (segment("hidden", 12), segment("mlp", 10))
    made = Recipe(target="t", source="s", shape=(18, 10), axes=axes, factors={"hidden": Fraction(3, 2)},
                  operator="zero_pad", fills=("mean", "zero"))  # fmt: skip
    weight = torch.randn(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = made.grow(weight, OPERATORS["zero_pad"], 0)
    torch.testing.assert_close(whole[12:], weight.mean(0).expand(6, -1), rtol=1e-14, atol=1e-14)
    monkeypatch.setattr(module, "BLOCK", 40)
    assert list(made.blocks()) == [((0, 12), (start, start + 2)) for start in range(0, 10, 2)]
    assert torch.equal(made.grow(weight, OPERATORS["zero_pad"], 0), whole)


def test_the_blocks_of_a_part_are_those_that_make_some_of_it(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 60)
    made = recipe(*EXPERTS_OUT_IN)
    part = ((1, 2), (9, 18), (0, 20))  # of one expert; units 3 to 5 of its MLP
    inside = set(made.blocks(part))
    for box in made.blocks():
        rows, _ = made.grow_block(torch.ones(3, 8, 10)[tuple(slice(*p) for p in box)], box, OPERATORS["split"], 0)
        makes_some = all(any(a <= n < b for n in units.tolist()) for units, (a, b) in zip(rows, part, strict=True))
        assert (box in inside) is makes_some


def test_a_box_is_read_as_it_is_sliced(tmp_path):
    tensor = torch.arange(4 * 5 * 6, dtype=torch.int16).reshape(4, 5, 6)
    save_file({"first": torch.ones(3), "t": tensor}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    entry, descriptor = checkpoint.entries["t"], os.open(tmp_path / "model.safetensors", os.O_RDONLY)
    try:
        for box in ((), ((1, 3),), ((0, 4), (2, 5)), ((3, 4), (1, 2), (2, 6)), ((0, 4), (0, 5), (1, 2)), ((2, 2),)):
            assert torch.equal(read_box(descriptor, entry, box), tensor[tuple(slice(*pair) for pair in box)]), box
    finally:
        os.close(descriptor)


def test_blocks_have_random_numbers_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 40)
    made = recipe((6, 10), {"hidden": 2}, 1, (segment(None, 6), segment("hidden", 10)))
    assert list(made.blocks()) == [((0, 2),), ((2, 4),), ((4, 6),)]
    grown = made.grow(torch.ones(6, 10), OPERATORS["split"], 0)
    assert not torch.equal(grown[0:2], grown[2:4])
    assert torch.equal(grown, made.grow(torch.ones(6, 10), OPERATORS["split"], 0))


def test_what_is_copied_and_what_is_made():
    plain = Recipe(target="t", source="s", shape=(4, 4))
    assert plain.is_copy
    assert not Recipe(target="t", source="s", shape=(4,), axes=(segment("hidden", 4),), scale=0.5).is_copy
    assert not recipe(*LINEAR).is_copy
    assert Recipe(target="t", source="s", shape=(4,), axes=(segment("hidden", 4),), factors={"hidden": 1}).is_copy
