"""Should I reuse this checkpoint: costs by hand, losses by the law's formula, and honest silence elsewhere."""

import json
import math

import pytest
from typer.testing import CliRunner

from hf_bootstrap import GrowthConfig, ScalingLaw
from hf_bootstrap.advise.candidates import make_budget, named_growth
from hf_bootstrap.advise.reuse import plan_reuse
from hf_bootstrap.cli.main import app
from hf_bootstrap.errors import GrowthError, LawError, QuantityError
from hf_bootstrap.study.config import StudyConfig

from .conftest import ROOT


def planned(folder, tokens=1_000_000, **options):
    options = {"base_tokens": "2M", "methods": ["continue"], **options}
    return plan_reuse(folder, budget=make_budget(tokens=tokens), **options)


def test_costs_are_those_of_hand_arithmetic(model_folder):
    plan = planned(model_folder(), ranks=3, memory_limit=10**9, methods=["continue", "stack", "split"])
    layer = 4 * 64 * 64 + 3 * 64 * 176
    once, deep, wide = plan.candidates
    assert once.n_params_non_embedding == 2 * (layer + 2 * 64) + 64
    assert once.n_params == once.n_params_non_embedding + 2 * 512 * 64
    assert once.flops_per_token == 6 * (2 * layer + 512 * 64) + 6 * 2 * 64 * 256
    assert once.flops == 1_000_000 * once.flops_per_token
    assert once.memory_whole == 16 * once.n_params  # float32: weights, gradients, two moments
    assert once.memory == math.ceil(once.memory_whole / 3)
    assert deep.n_params_non_embedding == 4 * (layer + 2 * 64) + 64
    assert wide.config["hidden_size"] == 128
    assert (once.keeps_function, deep.keeps_function, wide.keeps_function) == (True, False, True)
    assert plan.fits


def test_a_budget_of_flops_buys_fewer_tokens_of_a_larger_model(model_folder):
    budget = make_budget(gpu_hours=2, peak_flops=1e12, mfu=0.25)
    assert budget.flops == 2 * 3600 * 1e12 * 0.25
    plan = plan_reuse(model_folder(), budget=budget, methods=["continue", "stack"])
    for found in plan.candidates:
        assert found.tokens == int(budget.flops / found.flops_per_token)
        assert found.gpu_hours == pytest.approx(2)
    assert plan.candidates[1].tokens < plan.candidates[0].tokens


def test_the_expected_loss_is_the_law_at_the_base_and_the_budget(model_folder, demo_law):
    plan = planned(model_folder(), laws={"continue": demo_law})
    p, d1, d2 = demo_law.params_, math.log(2e6), math.log(1e6)
    by_hand = math.exp(math.log(p["A"]) - p["alpha1"] * d1 - p["alpha2"] * d2 + p["alpha3"] * d1 * d2) + p["E"]
    (outlook,) = plan.outlooks
    assert outlook.reused.value == pytest.approx(by_hand, rel=1e-9)
    assert outlook.reused.low < by_hand < outlook.reused.high
    assert outlook.scratch.value == pytest.approx(p["A_scratch"] * 1e6 ** -p["alpha_scratch"] + p["E"], rel=1e-9)


def test_the_recommendation_follows_the_expected_losses(model_folder, demo_law):
    short = planned(model_folder(), tokens=300_000, laws={"continue": demo_law}).recommendations[0]
    assert (short.choice, short.rival) == ("continue", "continue from scratch")
    assert short.probability[0] > 0.95
    long = planned(model_folder(), tokens=5_000_000, base_tokens="150k", laws={"continue": demo_law})
    assert long.recommendations[0].choice == "continue from scratch"
    assert long.recommendations[0].probability[0] > 0.5


def test_a_law_in_bits_per_byte_is_told_in_them_and_a_scratch_law_in_nats_is_no_rival(model_folder, demo_law):
    law = ScalingLaw(resamples=50).fit(ROOT / "docs/demo/continue.jsonl", columns={"loss": "bits_per_byte"})
    plan = planned(model_folder(), laws={"continue": law})
    told = str(plan)
    assert "What to expect (bits per byte, 95% intervals)" in told
    assert " bits below " in told
    assert "nats" not in told
    apart = planned(model_folder(), laws={"continue": law}, scratch_law=demo_law)
    assert apart.outlooks[0].scratch is None
    assert any("those of scratch= in nats per token" in note for note in apart.outlooks[0].notes)


def test_a_range_of_base_tokens_widens_the_answer(model_folder, demo_law):
    one, many = (
        planned(model_folder(), base_tokens=text, laws={"continue": demo_law}).outlooks[0] for text in ("1M", "500k:2M")
    )
    assert many.reused.low < one.reused.low
    assert many.reused.high > one.reused.high
    assert many.probability[0] < one.probability[0] < many.probability[1]


@pytest.mark.parametrize(
    ("fields", "options", "reason"),
    [
        ({"hidden_size": 512, "head_dim": 256}, {}, "reads no size"),
        ({}, {"base_tokens": "2T"}, "base_tokens 2T lies 6.0 decades beyond"),
        ({}, {"tokens": 10**12}, "tokens 1T lies 6.0 decades beyond"),
    ],
)
def test_where_a_law_does_not_apply_there_is_no_number(fields, options, reason, model_folder, demo_law):
    plan = planned(model_folder(**fields), laws={"continue": demo_law}, **options)
    assert plan.outlooks[0].reused is None
    assert reason in plan.outlooks[0].notes[0]
    assert plan.recommendations[0].choice is None
    assert "No law applies" in str(plan)


def test_a_method_this_model_cannot_take_says_why_and_leaves_the_others(model_folder):
    plan = planned(model_folder(num_hidden_layers=3), methods=["continue", "solar:2", ("odd", GrowthConfig(depth=2))])
    assert [c.problem is None for c in plan.candidates] == [True, False, True]
    assert "solar" in plan.candidates[1].problem


def test_without_base_tokens_the_page_asks_for_them(model_folder, demo_law):
    plan = planned(model_folder(), base_tokens=None, laws={"continue": demo_law})
    assert plan.base_tokens is None
    assert plan.experiment is None
    assert "--base-tokens" in str(plan)


def test_a_tuned_release_is_called_a_lower_bound(model_folder):
    text = str(planned(model_folder(), base_tokens="meta-llama/Llama-2-7b-chat-hf"))
    assert "or more" in text
    assert "lower bound" in text
    assert "https://arxiv.org/abs/2307.09288" in text


def test_experts_nobody_can_count_hide_the_flops_and_tokens_still_work(model_folder):
    fields = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 2}
    (known,) = planned(model_folder(**fields)).candidates
    assert known.flops == known.flops_per_token * known.tokens
    fields["num_experts_per_tok"] = 0
    (by_tokens,) = planned(model_folder(**fields)).candidates
    assert by_tokens.flops is None
    assert by_tokens.tokens == 1_000_000
    (by_flops,) = plan_reuse(model_folder(**fields), budget=make_budget(flops=1e15), methods=["continue"]).candidates
    assert "state the budget in tokens" in by_flops.problem


def test_the_study_that_would_settle_it_can_be_read_and_stays_cheap(model_folder, tmp_path):
    plan = planned(model_folder(), methods=["continue", "stack"])
    plan.experiment.write(tmp_path / "study.yaml")
    study = StudyConfig.from_file(tmp_path / "study.yaml")
    assert [m.name for m in study.methods] == ["continue", "stack"]
    assert study.bases[0].checkpoints[0].tokens == 2_000_000
    assert study.methods[0].tokens == (7812, 15625, 31250, 62500)
    assert study.methods[1].growth == {"depth": 2, "depth_method": "stack"}
    assert study.model("stack-model")["num_hidden_layers"] == 4
    batch = study.training.batch_size * study.training.sequence_length
    assert 7812 // batch >= 200
    shown = CliRunner().invoke(app, ["study", "plan", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.exception
    # One trunk to 0.8 of the last mark and a decay of 0.2 for each mark, reused and from scratch.
    once = 0.8 * 62500 + 0.2 * (7812 + 15625 + 31250 + 62500)
    assert plan.experiment.tokens == pytest.approx(2 * 2 * once, abs=4)
    assert plan.experiment.share < 0.5


@pytest.mark.parametrize(
    "asked", [{}, {"tokens": 1, "flops": 1.0}, {"flops": 1.0, "mfu": 0}, {"gpu_hours": 1.0}, {"tokens": 0}]
)
def test_a_budget_is_one_thing_and_makes_sense(asked):
    with pytest.raises(QuantityError):
        make_budget(**asked)


def test_methods_go_by_the_names_that_points_carry():
    assert named_growth("split") == named_growth("expand-split")
    assert named_growth("stack:3") == ("stack", GrowthConfig(depth=3))
    with pytest.raises(GrowthError, match="Did you mean 'stack'"):
        named_growth("stak")


def test_a_law_of_another_method_is_not_used_for_this_one(model_folder, law_folder):
    with pytest.raises(LawError, match="is a law of the method 'continue'"):
        planned(model_folder(), methods=["stack"], laws=[str(law_folder)])


def test_the_command_prints_a_page_and_the_same_as_json(model_folder, law_folder):
    words = ["plan", str(model_folder()), "--base-tokens", "2M", "--tokens", "1M", "--method", "continue"]
    words += ["--law", str(law_folder)]
    page = CliRunner().invoke(app, words)
    assert page.exit_code == 0
    assert "Should I reuse" in page.output
    record = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert record["recommendations"][0]["choice"] == "continue"
    assert f"{record['outlooks'][0]['reused']['value']:.4f}" in page.output


def test_a_study_that_cannot_be_laid_out_is_not_left_out_in_silence(model_folder, tmp_path):
    words = ["plan", str(model_folder()), "--tokens", "1M", "--emit-study", str(tmp_path / "study.yaml")]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, QuantityError)
    assert "--base-tokens" in str(result.exception)
    assert not (tmp_path / "study.yaml").exists()


def test_the_exit_code_says_that_it_does_not_fit(model_folder):
    words = ["plan", str(model_folder()), "--tokens", "1M", "--memory", "1MB"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    assert "DOES NOT FIT" in result.output
