"""What does not fit together is refused before any compute, in words."""

import pytest
import torch

from hf_bootstrap.errors import DataError
from hf_bootstrap.training.checks import check_fit
from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.replay import Replay


def test_what_fits_passes(model, study):
    blocks = PackedBlocks(study / "train.safetensors", 63)
    check_fit(model, "training", blocks)
    check_fit(model, "training", Replay(blocks, PackedBlocks(study / "held.safetensors", 63), "0.01"))
    check_fit(model, "held-out", [{"input_ids": torch.arange(5)}])


def test_data_that_does_not_fit_the_model_is_refused(model, study):
    with pytest.raises(DataError, match="65 positions, the model 64"):
        check_fit(model, "training", PackedBlocks(study / "train.safetensors", 64))
    model.config.vocab_size = 200
    with pytest.raises(DataError, match="vocabulary ends at 199"):
        check_fit(model, "training", PackedBlocks(study / "train.safetensors", 16))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no whole block"),
        ([{"text": "x"}], "have text but no input_ids"),
        ([[1, 2]], "have list but no input_ids"),
        ([{"input_ids": [1, 300]}], "token 300"),
        ([{"input_ids": [1] * 70}], "70 positions"),
    ],
)
def test_items_that_cannot_be_trained_on_are_refused(model, data, message):
    with pytest.raises(DataError, match=message):
        check_fit(model, "training", data)


def test_a_text_shorter_than_a_block_is_refused(model, study):
    with pytest.raises(DataError, match="no whole block"):
        check_fit(model, "training", PackedBlocks(study / "train.safetensors", 10**6))
