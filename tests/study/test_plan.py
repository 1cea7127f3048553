import subprocess
import sys

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from hf_bootstrap import demo
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.study.conduct import planned_runs
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.study.costs import checkpoint_bytes, costs, flops, own_tokens, shapes
from hf_bootstrap.study.plan import make_plan
from hf_bootstrap.study.weaknesses import find_weaknesses

from .conftest import demo_study_record

MARKS = [204_800, 409_600, 819_200, 2_457_600]


def sound(**changes):
    """A study of one method that can tell what it is asked."""
    record = demo_study_record()
    record["bases"][0]["tokens"] = MARKS
    record["methods"] = [{"name": "continue", "text": "code", "tokens": MARKS, "scratch": "small"}]
    record["seeds"] = [1, 2, 3]
    for path, value in changes.items():
        place = record["bases"][0] if path == "base_tokens" else record["methods"][0]
        if path in ("seeds",):
            record[path] = value
        elif value is None:
            place.pop(path)
        else:
            place["tokens" if path == "base_tokens" else path] = value
    return StudyConfig.from_dict(record)


def test_the_demos_plan_adds_up():
    config = demo.demo_study()
    specs, is_final = planned_runs(config, None)
    plan = make_plan(config, specs, tokens_per_second=30_000, workers=2, done=frozenset({specs[0].run_id}))
    assert not is_final
    assert (plan.runs, plan.runs_done, plan.trunks, plan.stages, plan.decays) == (70, 1, 1, 15, 54)
    # By hand: the trunk trains 0.8 * 2,048,000 tokens, its decays a fifth of each mark in whole steps.
    trunk = sum(s.tokens for s in specs[:1]) + sum(s.decay_tokens for s in specs[1:5])
    assert trunk == 1_638_400 + sum(int(0.2 * (m // 512) + 1e-9) * 512 for m in (131_072, 327_680, 819_200, 2_048_000))
    assert plan.tokens - plan.tokens_to_do == 1_638_400
    # Independent runs: each mark from its beginning.
    d2, grown = 131_072 + 262_144 + 524_288 + 1_048_576, 131_072 + 262_144 + 524_288
    bases = 131_072 + 327_680 + 819_200 + 2_048_000
    assert plan.tokens_unshared == bases + 5 * d2 + 2 * 5 * grown
    assert 0.3 < plan.saved < 0.4
    assert plan.hours == pytest.approx(0.09, abs=0.01)
    for words in ("70 runs, 1 done", "saves 35%", "not prepared", "(1 trunk, 15 stages"):
        assert words in str(plan)


def test_flops_are_six_a_weight_and_token_and_attention():
    config = StudyConfig.from_dict({**demo_study_record(), "methods": [], "budget_flops": 1e12})
    specs, _ = planned_runs(config, None)
    plan = make_plan(config, specs)
    matmul = 2 * (4 * 64 * 64 + 3 * 64 * 176) + 64 * 512
    assert plan.flops == pytest.approx(plan.tokens * 6 * (matmul + 2 * 64 * 128))
    assert plan.over_budget == pytest.approx(plan.flops - 1e12)
    assert "Over budget" in str(plan)
    assert plan.hours is None


def test_a_lora_costs_what_its_points_will_say():
    """Against the count of the real model with PEFT's adapter."""
    record = {**demo_study_record(), "methods": [{"name": "lora", "text": "code", "tokens": MARKS, "lora": {"r": 4}}]}
    config = StudyConfig.from_dict(record)
    spec = next(spec for spec in planned_runs(config, None)[0] if spec.lora)
    shape = config.model("small")
    adapted = get_peft_model(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)),
        LoraConfig(r=4, target_modules="all-linear"),
    )
    size = measure_size(adapted)
    assert size.adapter
    assert spec.checkpoints
    assert flops(spec, shape) == own_tokens(spec) * size.flops_per_token(spec.sequence_length)
    assert checkpoint_bytes(spec, shape) == len(spec.checkpoints) * 12 * size.adapter


def test_flops_of_a_model_with_other_names_for_its_sizes():
    record = {**demo_study_record(), "methods": []}
    record["models"] = {
        "small": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256, "vocab_size": 512}
    }
    config = StudyConfig.from_dict(record)
    plan = make_plan(config, planned_runs(config, None)[0])
    matmul = (
        2 * (4 * 64 * 64 + 2 * 64 * 256) + 64 * 512
    )  # no gate, four times the hidden size where n_inner is left out
    assert plan.flops == pytest.approx(plan.tokens * 6 * (matmul + 2 * 64 * 128))
    assert plan.unknown == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None, "hiden_size": 64}, "model 'small' states no hidden_size."),
        ({"vocab_size": None}, "model 'small' states no vocab_size."),
        ({"model_type": "mixtral"}, "model 'small' is of a type whose layers are not known here (mixtral)."),
    ],
)
def test_sizes_left_to_transformers_make_a_plan_of_unknowns(change, words):
    """A llama with none stated has seven thousand million parameters, not a hundred thousand."""
    record = demo_study_record()
    small = {**record["models"]["small"], **change}
    record["models"]["small"] = {key: value for key, value in small.items() if value is not None}
    config = StudyConfig.from_dict(record)
    specs, _ = planned_runs(config, None)
    plan = make_plan(config, specs, tokens_per_second=30_000)
    assert (plan.flops, plan.flops_to_do, plan.disk_bytes, plan.hours, plan.saved) == (None,) * 5
    assert checkpoint_bytes(*shapes(specs)[specs[0].run_id]) == 0
    for line in ("FLOPs not known", "Time: not known", "Disk: not known", "saves a share that is not known", words):
        assert line in str(plan)
    assert min(costs(specs).values()) > 0


def test_what_a_base_from_elsewhere_costs_is_not_known():
    base = {"text": "docs", "checkpoints": [{"path": "org/model", "tokens": "1B"}]}
    methods = [{"name": "a", "text": "code", "tokens": [131072], "growth": {"layer_map": [0, 0, 1]}}]
    changes = {"bases": [base], "methods": methods, "budget_flops": 1e12, "vocab_size": None, "tokenizer": "org/model"}
    config = StudyConfig.from_dict({**demo_study_record(), **changes})
    plan = make_plan(config, planned_runs(config, None)[0], tokens_per_second=30_000)
    assert (plan.flops, plan.disk_bytes, plan.hours, plan.saved) == (None,) * 4
    assert plan.unknown[-1] == "whether 1T FLOPs, the budget, suffice"
    for line in (
        "FLOPs not known",
        "Disk: not known",
        "Time: not known",
        "Not known: a base's model is not in the file",
    ):
        assert line in str(plan)


def test_hours_are_no_fewer_than_those_of_runs_that_wait_for_each_other():
    """Workers beyond the runs that can go at once save nothing: the trunk's stable part, then a decay of it."""
    config = StudyConfig.from_dict({**demo_study_record(), "methods": []})
    specs, _ = planned_runs(config, None)
    speed = 1000.0
    hours = [
        make_plan(config, specs, tokens_per_second=speed, workers=workers).hours * 3600 * speed
        for workers in (1, 2, 99)
    ]
    stable = max(spec.tokens for spec in specs if not spec.decay_tokens)
    longest = stable + max(spec.decay_tokens for spec in specs)
    assert hours == pytest.approx([sum(map(own_tokens, specs)), longest, longest])
    rest = make_plan(config, specs, tokens_per_second=speed, workers=99, done=frozenset({specs[0].run_id}))
    assert rest.hours * 3600 * speed == pytest.approx(max(spec.decay_tokens for spec in specs))


def test_a_sound_grid_has_no_weakness():
    assert list(find_weaknesses(sound())) == []


@pytest.mark.parametrize(
    ("changes", "problem", "cure"),
    [
        # Between the widest gap of the logarithms, 819,200 and 2,457,600: their middle, in whole steps.
        ({"tokens": [204_800, 819_200, 2_457_600]}, "3 levels of D2", "Add D2 = 410k"),
        ({"tokens": [204_800, 409_600, 819_200, 1_638_400]}, "D2 spans 0.9 decades", "Add D2 = 2.05M"),
        ({"base_tokens": [204_800, 819_200, 2_457_600]}, "3 levels of D1", "Add D1 = 410k"),
        ({"tokens": [20_480, 409_600, 819_200, 2_457_600]}, "the shortest D2 is 40 steps", "Begin at 400 steps"),
        ({"scratch": None}, "no rows with D1 = 0", "Add scratch"),
        ({"seeds": [1]}, "1 trunk", "Add 2 seeds"),
    ],
)
def test_a_weakness_is_named_with_the_cheapest_cure(changes, problem, cure):
    (found,) = find_weaknesses(sound(**changes))
    assert problem in str(found)
    assert cure in str(found)


def test_one_trunk_of_a_method_with_seeds_of_its_own_is_named_with_what_the_others_cost():
    record = sound().to_dict()
    rates = {"name": "rates", "text": "code", "tokens": MARKS, "scratch": "small"}
    record["methods"] = [*record["methods"], {**rates, "seeds": 1}]
    config = StudyConfig.from_dict(record)
    (found,) = find_weaknesses(config)
    assert str(found).startswith("rates: 1 trunk: how much one base differs")
    assert "Add 2 of the study's seeds to its own" in found.cure
    record["methods"][-1] = rates
    cured = StudyConfig.from_dict(record)
    assert list(find_weaknesses(cured)) == []
    tokens = [make_plan(study, planned_runs(study, None)[0]).methods["rates"]["tokens"] for study in (config, cured)]
    assert found.tokens == tokens[1] - tokens[0]


def test_the_cure_named_cures_and_costs_what_it_says():
    config = sound(tokens=[204_800, 409_600, 819_200, 1_638_400])
    (found,) = find_weaknesses(config)
    cured = sound(tokens=[204_800, 409_600, 819_200, 1_638_400, 2_048_000])
    assert list(find_weaknesses(cured)) == []
    plans = [make_plan(study, planned_runs(study, None)[0]) for study in (config, cured)]
    assert found.tokens == plans[1].tokens - plans[0].tokens


def test_a_constant_ratio_and_a_single_checkpoint_are_named():
    found = [str(weakness) for weakness in find_weaknesses(sound(tokens=[819_200], base_tokens=[819_200]))]
    assert any("D2/D1 is one constant" in words for words in found)


def test_planning_loads_no_torch():
    code = (
        "import sys, hf_bootstrap.demo as d\n"
        "from hf_bootstrap.study.conduct import planned_runs\n"
        "from hf_bootstrap.study.plan import make_plan\n"
        "print(make_plan(d.demo_study(), planned_runs(d.demo_study(), None)[0]))\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'scipy', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
