"""The advice on the learning rate says what its sources say, and the width rule does what it promises."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from hf_bootstrap import GrowthConfig, bootstrap_from_pretrained
from hf_bootstrap.errors import TrainingError
from hf_bootstrap.growth.learning_rate import recorded_factors
from hf_bootstrap.growth.plan import plan_growth
from hf_bootstrap.training.advice import advise_second_stage
from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.schedule import Schedule
from hf_bootstrap.training.trainer import TokenTrainer

BILLION = 10**9


def advise(**changes):
    stage = {"n_params": BILLION, "base_tokens": 100 * BILLION, "tokens": 20 * BILLION, "batch_tokens": 4 * 10**6}
    return advise_second_stage(**{**stage, **changes})


def test_from_scratch_the_peak_is_that_of_the_paper_for_its_own_models():
    # DeepSeek LLM 7B: 2T tokens, batch 2304 x 4096, peak 4.2e-4 (arXiv:2401.02954, table 2); N without embeddings.
    peak = advise(n_params=6.5 * BILLION, base_tokens=0, tokens=2000 * BILLION, batch_tokens=2304 * 4096).peak_lr.value
    assert peak == pytest.approx(4.2e-4, rel=0.2)


def test_for_the_miniature_model_the_peak_is_among_those_measured_to_be_best():
    # docs/log.md: the 0.1M model, 819,200 tokens, 512 a step: 1e-3, 2e-3 and 3e-3 end within 0.04 nats, 4e-3 worse.
    tiny = advise(n_params=100_672, base_tokens=0, tokens=819_200, batch_tokens=512)
    assert 1e-3 <= tiny.peak_lr.value <= 3e-3


def test_the_peak_falls_with_the_tokens_and_the_size_of_the_base():
    assert advise(base_tokens=1000 * BILLION).peak_lr.value < advise().peak_lr.value
    assert advise(n_params=10 * BILLION).peak_lr.value < advise().peak_lr.value
    assert advise(batch_tokens=10**5).peak_lr.value < advise().peak_lr.value


def test_a_known_peak_of_the_base_goes_before_any_formula():
    assert advise(base_peak_lr=3e-4).peak_lr.value == 3e-4


def test_a_decayed_base_is_rewarmed_and_an_undecayed_one_only_fills_the_moments():
    decayed = advise(base_decayed=True)
    assert decayed.rewarm_tokens.value == max(0.01 * 20 * BILLION, 40 * 4 * 10**6)
    assert decayed.decay_tokens.value == 0.2 * 20 * BILLION
    stable = advise(base_decayed=False)
    assert stable.rewarm_tokens.value == 40 * 4 * 10**6
    assert stable.decay_tokens.value == 0.1 * 120 * BILLION, "the decay that the base did not have is still owed"
    assert advise(base_decayed=False, optimizer_reset=False).rewarm_tokens.value == 0


@pytest.mark.parametrize("decayed", [True, False])
@pytest.mark.parametrize("tokens", [1, 10, 10**6, 10**15])
def test_rises_and_falls_always_fit_into_the_stage(decayed, tokens):
    found = advise(tokens=tokens, base_decayed=decayed)
    assert found.rewarm_tokens.value + found.decay_tokens.value <= tokens


def test_what_is_printed_has_formula_source_and_doubts():
    growth = plan_growth(LlamaConfig(num_hidden_layers=1), GrowthConfig(width=2)).learning_rate
    text = str(advise(growth=growth, tokens=1000, base_tokens=1000, n_params=1000))
    assert "0.3118 C^-0.125" in text
    assert text.count("arXiv:") >= 6
    assert "taken for decayed" in text
    assert "fitted from 1e+17" in text
    assert "rate of matrices    x 0.5" in text
    assert "their weight decay  x 2" in text
    assert "rate of matrices" not in str(advise())


def test_growth_says_once_what_the_rate_of_its_matrices_becomes():
    for growth in (GrowthConfig(width=3), GrowthConfig(depth=2), GrowthConfig(intermediate_size=22016)):
        theirs = plan_growth(LlamaConfig(num_hidden_layers=1), growth).learning_rate
        ours = advise(growth=theirs)
        assert (ours.matrix_lr.value, ours.matrix_weight_decay.value) == (
            theirs.tensor_factor,
            theirs.weight_decay_factor,
        )
        assert ours.matrix_lr.formula == theirs.formula


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"base_tokens": -1}, {"adam_beta2": 1.0}, {"base_peak_lr": 0.0}])
def test_senseless_counts_are_refused(wrong):
    with pytest.raises(TrainingError, match="no rate can be advised"):
        advise(**wrong)


def losses_of(model, study, output, rate_factors):
    steps, batch = 30, 2 * 16
    args = TrainingArguments(
        output_dir=str(output), max_steps=steps, per_device_train_batch_size=2, learning_rate=2e-3, weight_decay=0.1,
        adam_epsilon=1e-30, max_grad_norm=0, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    blocks = PackedBlocks(study / "train.safetensors", 16)
    schedule = Schedule(tokens=steps * batch, warmup_tokens=5 * batch, decay_tokens=10 * batch)
    trainer = TokenTrainer(
        model=model,
        args=args,
        train_dataset=blocks,
        schedule=schedule,
        batch_tokens=batch,
        rate_factors=rate_factors,
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "growth",
    [
        pytest.param({"width": 2}, marks=pytest.mark.slow, id="all"),
        pytest.param({"intermediate_size": 72}, marks=pytest.mark.slow, id="MLP alone"),
        pytest.param({"width": 3, "intermediate_size": 48}, id="unequal"),
    ],
)
def test_a_tiled_model_follows_its_base_with_the_rates_its_config_keeps(growth, model, study, tmp_path):
    """Each tensor has its own: with the MLP alone three times as wide, one of a layer's matrices reads copies."""
    grown = bootstrap_from_pretrained(model, GrowthConfig(**growth, width_method="clone"))
    grown.save_pretrained(tmp_path / "grown")
    wide = [LlamaForCausalLM.from_pretrained(tmp_path / "grown", dtype=torch.float64) for _ in range(2)]
    rates = recorded_factors(wide[0].config, [name for name, _ in wide[0].named_parameters()])
    base = losses_of(model.double(), study, tmp_path, {})
    with_rule, without = losses_of(wide[0], study, tmp_path, rates), losses_of(wide[1], study, tmp_path, {})
    assert base[-1] < base[0] - 0.3
    torch.testing.assert_close(torch.tensor(with_rule), torch.tensor(base), rtol=1e-6, atol=0)
    assert abs(without[-1] - base[-1]) > 1e-3
