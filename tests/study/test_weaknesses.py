import re

import pytest

from hf_bootstrap.study.conduct import planned_runs
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.study.plan import make_plan
from hf_bootstrap.study.weaknesses import find_weaknesses
from hf_bootstrap.units import format_count

from .conftest import demo_study_record

MARKS = [204_800, 409_600, 819_200, 2_457_600]
SOUND = {"name": "continue", "text": "code", "tokens": MARKS, "scratch": "small"}
OF_ANOTHER = {"tokenizer": "org/b", "vocab_size": None}


def study(*methods, base_tokens=MARKS, seeds=(1, 2, 3), **changes):
    record = {**demo_study_record(), "methods": list(methods), "seeds": list(seeds)}
    record["bases"][0] = {"model": "small", "text": "docs", "tokens": list(base_tokens)}
    for path, value in changes.items():
        (record["training"] if path in record["training"] or path == "warmup_steps" else record)[path] = value
    return StudyConfig.from_dict(record)


def trained(config):
    return make_plan(config, planned_runs(config, None)[0]).tokens


def only(config):
    (found,) = find_weaknesses(config)
    return found


@pytest.mark.parametrize(
    ("sick", "cured", "cure"),
    [
        # A method with seeds of its own, the study's first among them or not.
        ({"tokens": MARKS[:3], "seeds": [1, 2, 3]}, {"tokens": [*MARKS[:3], 2_048_000], "seeds": [1, 2, 3]}, "2.05M"),
        ({"tokens": MARKS[:3], "seeds": [2, 3, 4]}, {"tokens": [*MARKS[:3], 2_048_000], "seeds": [2, 3, 4]}, "2.05M"),
        # Marks of the trunk are cheaper than new ones, and cross the grid.
        ({"base_tokens": [204_800, 2_457_600]}, {"base_tokens": MARKS}, "D1 = 410k and 819k, which the study has"),
        ({"base_tokens": MARKS[:3]}, {"base_tokens": MARKS}, "D1 = 2.46M, which the study has"),
        ({"tokens": [102_400, *MARKS[1:]]}, {"tokens": MARKS}, "Begin at 400 steps (205k tokens)"),
        ({"tokens": [102_400, 203_776, *MARKS[1:]]}, {"tokens": MARKS}, "Begin at 400 steps (205k tokens)"),
        ({"scratch": None}, {"scratch": "small"}, "Add scratch: small"),
        ({"scratch": None, "growth": {"depth": 2}}, {"scratch": "deep", "growth": {"depth": 2}}, "Add scratch: deep"),
        ({"seeds": [4]}, {}, "Add 2 of the study's seeds to its own"),
    ],
)
def test_a_cure_is_priced_at_what_the_cured_study_trains_more(sick, cured, cure):
    method = {"name": "other", "text": "docs", "tokens": MARKS, "scratch": "small", "seeds": [4, 2, 3]}
    methods = [{key: value for key, value in {**method, **some}.items() if value is not None} for some in (sick, cured)]
    studies = [study(SOUND, one, seeds=(1, 2, 3, 4)) for one in methods]
    found = only(studies[0])
    assert found.method == "other"
    assert cure in found.cure
    assert found.tokens == trained(studies[1]) - trained(studies[0]) != 0
    assert list(find_weaknesses(studies[1])) == []
    words = f"({format_count(abs(found.tokens))} tokens {'more' if found.tokens > 0 else 'fewer'})"
    assert str(found).endswith(words)


def test_seeds_are_priced_for_the_methods_that_would_have_them():
    pinned = {**SOUND, "name": "pinned", "text": "docs", "seeds": [1]}
    config, cured = (study(SOUND, pinned, seeds=seeds) for seeds in ([1], [1, 2, 3]))
    found = only(config)
    assert (found.method, found.cure) == (None, "Add 2 seeds")
    assert found.tokens == trained(cured) - trained(config)


def test_a_model_of_another_size_is_priced_where_the_study_has_none_of_the_right_one():
    config = study(SOUND, {**SOUND, "name": "thrice", "growth": {"depth": 3}, "scratch": "small"})
    found = only(config)
    record = config.to_dict()
    record["models"]["six"] = {"like": "small", "num_hidden_layers": 6}
    record["methods"][1]["scratch"] = "six"
    cured = StudyConfig.from_dict(record)
    assert found.cure == "Add scratch: MODEL of the same size"
    assert found.tokens == trained(cured) - trained(config)
    assert list(find_weaknesses(cured)) == []


def test_marks_that_are_the_same_run_are_one_level():
    found = only(study({**SOUND, "tokens": [204_800, 204_801, 819_200, 2_457_600]}))
    assert found.problem.startswith("3 levels of D2:")
    assert only(study(SOUND, base_tokens=[204_800, 204_801, 819_200, 2_457_600])).problem.startswith("3 levels of D1:")


def test_one_of_a_thing_is_no_plural():
    found = [str(weakness) for weakness in find_weaknesses(study({**SOUND, "tokens": [819_200]}, seeds=[1, 2]))]
    assert found[0].startswith("continue: 1 level of D2: ")
    assert "2 trunks: how" in found[1]
    assert "Add 1 seed (" in found[1]


def test_a_constant_ratio_comes_with_marks_and_a_price():
    config = study({**SOUND, "tokens": [819_200]}, base_tokens=[819_200])
    found = next(one for one in find_weaknesses(config) if "D2/D1" in one.problem)
    marks = re.search(r"such as 819k, (.*)M, (.*)M and (.*)M", found.cure)
    assert float(marks[3]) * 1e6 == pytest.approx(8_192_000, rel=1e-2)
    assert found.tokens > 8_192_000


def test_each_base_model_needs_trunks_of_its_own():
    record = study(SOUND, seeds=[1]).to_dict()
    record["bases"] += [{"model": name, "text": "docs", "tokens": MARKS} for name in ("deep", "wide")]
    record["methods"] += [{**SOUND, "name": f"continue-{name}", "scratch": name} for name in ("deep", "wide")]
    config = StudyConfig.from_dict(record)
    found = only(config)
    assert found.problem.startswith("1 trunk of each base: how much one base differs")
    assert found.cure == "Add 2 seeds"


def test_checkpoints_of_few_trainings_are_named_by_their_text():
    record = study(SOUND).to_dict() | OF_ANOTHER
    checkpoints = [{"path": f"org/m-{count}", "tokens": count, "run": "a"} for count in MARKS]
    record["bases"] = [{"text": "docs", "checkpoints": [*checkpoints, {"path": "org/b", "tokens": 1_024_000}]}]
    found = only(StudyConfig.from_dict(record))
    assert found.problem.startswith("2 trunks: how much")
    assert (found.cure, found.tokens) == ("Add checkpoints of 1 other training", None)
    record["bases"].append({"model": "small", "text": "docs", "tokens": MARKS})
    assert only(StudyConfig.from_dict(record)).problem.startswith("2 trunks of the bases on docs: how much")


def test_d1_of_checkpoints_that_a_method_leaves_out_are_offered():
    record = study({**SOUND, "base_tokens": MARKS[:2]}).to_dict() | OF_ANOTHER
    checkpoints = [{"path": f"org/m-{count}-{run}", "tokens": count, "run": run} for count in MARKS for run in "abc"]
    record["bases"] = [{"text": "docs", "checkpoints": checkpoints}]
    assert only(StudyConfig.from_dict(record)).cure == "Add D1 = 819k and 2.46M, which the study has"
    record["bases"][0]["checkpoints"] = checkpoints[:9]
    found = only(StudyConfig.from_dict(record))
    assert (found.cure, found.tokens) == ("Add checkpoints until there are 4 levels over a decade", None)


@pytest.mark.parametrize("model", ["small", "wide"])
def test_a_model_from_scratch_of_no_grown_size_is_named(model):
    config = study(SOUND, {**SOUND, "name": "stack", "text": "docs", "growth": {"depth": 2}, "scratch": model})
    found = only(config)
    assert found.method == "stack"
    assert f"its scratch, {model}, has" in found.problem
    # By hand: 4 layers of 4 * 64 * 64 + 3 * 64 * 176.
    assert "from a base on that text 201k: no law will use these rows" in found.problem
    assert found.cure == "Give scratch: deep"


def test_sizes_that_are_not_known_are_not_compared():
    record = study({**SOUND, "name": "stack", "growth": {"depth": 2}, "scratch": "wide"}).to_dict()
    del record["models"]["small"]["vocab_size"]
    record["models"]["wide"] = {**record["models"]["wide"], "vocab_size": 512}
    assert list(find_weaknesses(StudyConfig.from_dict(record))) == []


@pytest.mark.parametrize(("warmup", "cure"), [(40, "Add D2 = 410k"), (900, "Add D2 = 10.2M")])
def test_the_cheapest_cure_is_one_that_can_be_laid_out(warmup, cure):
    """800 steps have no room for a warm-up of 900."""
    long, narrow = [1_024_000, 2_048_000, 4_096_000, 10_240_000], [1_024_000, 1_536_000, 2_048_000, 4_096_000]
    found = only(study({**SOUND, "tokens": narrow}, base_tokens=long, warmup_steps=warmup))
    assert found.cure == cure
    assert found.tokens > 0


def test_a_study_that_cannot_be_laid_out_has_no_prices():
    assert only(study({**SOUND, "tokens": [2_048, *MARKS]})).tokens is None


def test_a_larger_base_than_text_was_reserved_for_is_priced():
    record = study(SOUND, {**SOUND, "name": "same", "text": "docs"}).to_dict()
    record["bases"][0] |= {"tokens": [1_024_000, 1_536_000, 2_048_000, 4_096_000], "reserve_tokens": 4_096_000}
    found = list(find_weaknesses(StudyConfig.from_dict(record)))
    assert [weakness.method for weakness in found] == ["continue", "same"]
    assert min(weakness.tokens for weakness in found) > 0


def test_bases_of_two_sizes_are_offered_a_model_from_scratch_each():
    record = study({**SOUND, "scratch": None}).to_dict()
    record["bases"].append({**record["bases"][0], "model": "deep"})
    found = only(StudyConfig.from_dict(record))
    assert found.cure == "Add scratch: [small, deep]"
    record["methods"][0]["scratch"] = "small"
    assert only(StudyConfig.from_dict(record)).cure == "Add scratch: [small, deep]"
    record["methods"][0]["scratch"] = ["small", "deep"]
    assert not list(find_weaknesses(StudyConfig.from_dict(record)))


def test_bases_of_each_size_need_levels_of_their_own():
    record = study({**SOUND, "scratch": ["small"]}).to_dict()
    record["bases"].append({**record["bases"][0], "model": "deep", "tokens": MARKS[::3]})
    record["methods"][0]["scratch"] = ["small", "deep"]
    found = only(StudyConfig.from_dict(record))
    assert found.problem.startswith("2 levels of D1 of deep")
    record["bases"][1]["tokens"] += [int(mark.replace("k", "000")) for mark in re.findall(r"\d+k", found.cure)]
    assert not list(find_weaknesses(StudyConfig.from_dict(record)))


def test_a_model_of_the_right_size_that_no_run_could_train_has_no_price():
    record = study({**SOUND, "scratch": None}).to_dict()
    record["models"] = {"short": {**record["models"]["small"], "max_position_embeddings": 64}, **record["models"]}
    found = only(StudyConfig.from_dict(record))
    assert (found.cure, found.tokens) == ("Add scratch: short", None)
