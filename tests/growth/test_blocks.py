"""A tensor grown in blocks of rows is the tensor grown whole, and small models have one block a tensor."""

import pytest
import torch

from hf_bootstrap.growth import recipe as module
from hf_bootstrap.growth.anatomy import Segment
from hf_bootstrap.growth.operators import OPERATORS
from hf_bootstrap.growth.recipe import Recipe


def segment(dimension, length, block=1):
    return (Segment(dimension=dimension, length=length, block=block),)


def recipe(shape, factors, reads, axes, **changes):
    grown = tuple(n * factors.get(axis[0].dimension, 1) for n, axis in zip(shape, axes, strict=True))
    return Recipe(
        target="t", source="s", shape=grown, axes=axes, factors=factors, reads=reads, operator="split", **changes
    )


LINEAR = ((12, 10), {"mlp": 3, "hidden": 2}, 1, (segment("mlp", 12), segment("hidden", 10)))
CONV1D = ((12, 10), {"mlp": 3, "hidden": 2}, 0, (segment("hidden", 12), segment("mlp", 10)))
HEADS = ((12, 10), {"heads": 2, "hidden": 2}, 1, (segment("heads", 12, 4), segment("hidden", 10)))


@pytest.mark.parametrize("case", [LINEAR, CONV1D, HEADS], ids=["linear", "conv1d", "heads"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("method", OPERATORS)
def test_blocks_of_any_size_sum_to_the_source(monkeypatch, case, scale, method):
    shape, factors, reads, axes = case
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = recipe(shape, factors, reads, axes, scale=scale)
    for block in (1, 50, 173, 10**6):
        monkeypatch.setattr(module, "BLOCK", block)
        assert made.blocks()[0][0] == 0
        assert made.blocks()[-1][1] == shape[0]
        grown = made.grow(weight, OPERATORS[method], 5)
        assert tuple(grown.shape) == made.shape
        torch.testing.assert_close(made.fold(grown), made.expected_sum(weight), rtol=1e-12, atol=1e-12)


def test_blocks_have_random_numbers_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 40)
    made = recipe((6, 10), {"hidden": 2}, 1, (segment(None, 6), segment("hidden", 10)))
    assert made.blocks() == [(0, 2), (2, 4), (4, 6)]
    grown = made.grow(torch.ones(6, 10), OPERATORS["split"], 0)
    assert not torch.equal(grown[0:2], grown[2:4])
    assert torch.equal(grown, made.grow(torch.ones(6, 10), OPERATORS["split"], 0))


def test_what_is_copied_and_what_is_made():
    plain = Recipe(target="t", source="s", shape=(4, 4))
    assert plain.is_copy
    assert not Recipe(target="t", source="s", shape=(4,), axes=(segment("hidden", 4),), scale=0.5).is_copy
    assert not recipe(*LINEAR).is_copy
    assert Recipe(target="t", source="s", shape=(4,), axes=(segment("hidden", 4),), factors={"hidden": 1}).is_copy
