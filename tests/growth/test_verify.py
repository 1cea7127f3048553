import json

import pytest
import torch

from hf_bootstrap.errors import GrowthError, VerificationError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.index_maps import gather
from hf_bootstrap.growth.operators import OPERATORS
from hf_bootstrap.growth.verify import verify_growth

from .models import random_ids, tiny


def test_a_sound_growth_passes_and_says_what_was_seen():
    source = tiny("phi")
    report = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(width=3)), random_ids())
    assert report.passed
    assert report.keeps_function
    assert report.logit_drift < 1e-12
    assert abs(report.kl) < 1e-12
    assert report.weight_error == 0.0
    assert report.copies_differ is True
    assert report.loss_before == pytest.approx(report.loss_after, abs=1e-12)
    assert (report.n_tokens, report.text) == (24, "the given text")
    assert "bit for bit" in str(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def test_the_loss_is_the_models_own():
    source, ids = tiny("phi"), random_ids()
    report = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(width=2)), ids)
    with torch.no_grad():
        assert report.loss_before == pytest.approx(source(input_ids=ids, labels=ids).loss.item(), abs=1e-6)


def test_clone_is_seen_to_have_equal_copies():
    source = tiny("llama")
    report = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(width=2, width_method="clone")))
    assert report.copies_differ is False
    assert "will not part" in str(report)


def test_depth_growth_reports_its_jump_and_promises_nothing():
    source = tiny("llama")
    report = verify_growth(source, bootstrap_from_pretrained(source, GrowthConfig(depth=2)))
    assert report.passed
    assert not report.keeps_function
    assert report.tolerance is None
    assert report.logit_drift > 1e-2
    assert report.loss_after != report.loss_before
    assert report.weight_error == 0.0
    assert report.copies_differ is None


@pytest.mark.parametrize(
    ("growth", "tensor"),
    [
        (GrowthConfig(width=2), "model.layers.0.mlp.up_proj.weight"),
        (GrowthConfig(width=2), "model.norm.weight"),
        (GrowthConfig(depth=2), "model.layers.5.mlp.up_proj.weight"),
        (GrowthConfig(depth=2, width=2), "model.layers.5.mlp.up_proj.weight"),
    ],
    ids=str,
)
def test_one_wrong_entry_is_found(growth, tensor):
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, growth)
    with torch.no_grad():
        grown.get_parameter(tensor).flatten()[3] += 0.01
    with pytest.raises(VerificationError, match="FAILED"):
        verify_growth(source, grown)


def test_layers_in_the_wrong_order_are_found():
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2))
    layers = grown.model.layers
    layers[4], layers[5] = layers[5], layers[4]
    with pytest.raises(VerificationError):
        verify_growth(source, grown)


def test_a_value_that_is_not_finite_is_found():
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2))
    with torch.no_grad():
        grown.lm_head.weight[5, 5] = torch.inf
    with pytest.raises(VerificationError, match="finite NO"):
        verify_growth(source, grown)


def test_a_lost_tie_is_found():
    source = tiny("gpt2")
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2))
    grown.lm_head.weight = torch.nn.Parameter(grown.lm_head.weight.detach().clone())
    with pytest.raises(VerificationError, match="ties kept       NO"):
        verify_growth(source, grown)


def test_an_operator_that_loses_weight_is_caught_by_the_promise(monkeypatch):
    monkeypatch.setitem(OPERATORS, "split", lambda weight, axis, source, generator: gather(weight, axis, source))
    with pytest.raises(VerificationError, match="do not add up"):
        bootstrap_from_pretrained(tiny("llama"), GrowthConfig(width=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("factor", [2, 3])
def test_half_precision_passes_its_own_check(dtype, model_type, factor):
    source = tiny(model_type, dtype=dtype)
    for method in ("split", "clone"):
        grown = bootstrap_from_pretrained(source, GrowthConfig(width=factor, width_method=method))
        report = grown.config.hf_bootstrap["growth"][0]["verification"]
        assert report["precision"] == "float32"


def test_models_keep_their_mode_and_dropout_does_not_blur_the_check():
    source = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2))
    assert source.training
    assert all(module.training for module in grown.modules())


def test_a_source_that_cannot_run_is_told_from_a_grown_model_that_cannot():
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, GrowthConfig(width=2))
    with pytest.raises(GrowthError, match="The source model cannot read"):
        verify_growth(source, grown, [5, 10**6])


def test_text_that_is_no_text_is_refused():
    source = tiny("llama")
    grown = bootstrap_from_pretrained(source, GrowthConfig(depth=2))
    with pytest.raises(GrowthError, match="two or more"):
        verify_growth(source, grown, [5])


def test_a_model_that_was_not_grown_has_nothing_to_be_held_to():
    with pytest.raises(GrowthError, match="does not say how it was grown"):
        verify_growth(tiny("llama"), tiny("llama"))
