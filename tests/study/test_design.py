from dataclasses import replace

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from hf_bootstrap import ScalingLaw
from hf_bootstrap.cli.main import app
from hf_bootstrap.demo import demo_study
from hf_bootstrap.errors import StudyError
from hf_bootstrap.study.aims import Aim
from hf_bootstrap.study.conduct import planned_runs
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.study.design import propose_grid
from hf_bootstrap.study.plan import make_plan

from .conftest import demo_study_record

PARAMS = {
    "A": 1.37e4, "alpha1": 0.387, "alpha2": 0.655, "alpha3": 0.0247, "E": 1.71, "A_scratch": 368.0,
    "alpha_scratch": 0.433,
}  # fmt: skip
CROSSOVER = Aim(kind="crossover", base_tokens=1e6)
LOSS = Aim(kind="loss", base_tokens=1e7, tokens=1e7)
AIMS = {"alpha3": Aim(), "crossover": CROSSOVER, "loss": LOSS}


@pytest.fixture(scope="module")
def law():
    return ScalingLaw.from_params("bootstrap", **PARAMS)


def only_continue():
    return demo_study().narrowed(methods=["continue"])


@pytest.fixture(scope="module", params=AIMS)
def proposal(law, request):
    return propose_grid(demo_study(), law, AIMS[request.param], budget_flops=3e13, noise=0.001)


def test_derivatives_promise_what_studies_of_drawn_points_then_find(proposal):
    assert proposal.best.simulated == pytest.approx(proposal.best.expected, rel=0.25)
    assert proposal.best.lost == 0
    assert len(proposal.best.base_tokens) >= 4
    assert proposal.best.base_tokens[-1] / proposal.best.base_tokens[0] > 9.9


@pytest.mark.parametrize(
    ("steps", "seeds", "gain"),
    [
        ((400, 800, 2000, 4000), 2, 0.98),  # a plain grid is as good as any, within a few per cent
        ((800, 1000, 1250, 1600), 5, 2.0),  # five repeats of a third of a decade tell little
    ],
    ids=["plain", "narrow"],
)
def test_at_the_price_of_another_grid_the_proposal_tells_more(law, proposal, steps, seeds, gain):
    marks = tuple(512 * count for count in steps)
    other = only_continue()
    other = replace(
        other,
        bases=(replace(other.bases[0], tokens=marks),),
        methods=(replace(other.methods[0], tokens=marks),),
        seeds=tuple(range(seeds)),
    )
    aim = next(aim for aim in AIMS.values() if str(aim) == proposal.aim)
    price = make_plan(other, planned_runs(other, None)[0]).flops
    found = propose_grid(other, law, aim, budget_flops=price, noise=0.001, draws=2)
    assert found.best.flops <= price
    assert gain * min(layout.expected for layout in (found.best, *found.others)) < found.own.expected


def test_the_price_is_that_of_the_runs_the_plan_counts(proposal):
    for config, layout in ((proposal.study, proposal.best), (only_continue(), proposal.own)):
        specs, _ = planned_runs(config, None)
        assert make_plan(config, specs).flops == pytest.approx(layout.flops, rel=2e-3)
    assert proposal.best.flops <= proposal.budget_flops
    ends = [spec for spec in planned_runs(proposal.study, None)[0] if spec.base_tokens and spec.decay_tokens]
    assert len(ends) == proposal.best.runs


def test_a_grown_model_costs_what_its_runs_cost(law):
    proposal = propose_grid(demo_study(), law, Aim(), method="stack", budget_flops=1e14, draws=20)
    specs, _ = planned_runs(proposal.study, None)
    assert [method.name for method in proposal.study.methods] == ["stack"]
    assert make_plan(proposal.study, specs).flops == pytest.approx(proposal.best.flops, rel=2e-3)


def test_the_crossover_is_the_one_the_law_decides_by(law):
    theta = law.fitted.theta[None]
    assert np.exp(CROSSOVER.ask(law.fitted.form, theta)[0]) == pytest.approx(law.crossover(base_tokens=1e6).value)
    assert np.exp(LOSS.ask(law.fitted.form, theta)[0]) == pytest.approx(
        float(law.predict(base_tokens=1e7, tokens=1e7, extrapolate=True).value)
    )


def test_noise_is_read_off_the_points_of_the_law():
    proposal = propose_grid(
        demo_study(), ScalingLaw().fit("docs/demo/continue.jsonl"), Aim(), budget_flops=2e13, draws=20
    )
    assert 0.001 < proposal.noise < 0.02
    assert not any("assumed" in note for note in proposal.notes)


def test_a_law_without_points_says_what_is_assumed(law):
    proposal = propose_grid(demo_study(), law, Aim(), budget_flops=2e13, draws=20)
    assert proposal.noise == 0.003
    assert "assumed" in str(proposal)
    assert "1 trunk:" in str(proposal)


@pytest.mark.parametrize(
    ("aim", "change", "options", "words"),
    [
        (Aim(), {}, {"budget_flops": None}, "how many FLOPs"),
        (Aim(), {}, {"budget_flops": 1e9}, "buy no grid"),
        (Aim(), {}, {"budget_flops": float("nan")}, "how many FLOPs"),
        (Aim(), {}, {"method": "stak"}, "stack"),
        (Aim(), {}, {"noise": 0.0}, "above 0"),
        (CROSSOVER, {"methods": ()}, {}, "no method"),
        (Aim(), {"models": {**demo_study().models, "small": {"model_type": "llama"}}}, {}, "states no hidden_size"),
    ],
)
def test_what_cannot_be_designed_is_refused(law, aim, change, options, words):
    with pytest.raises(StudyError, match=words):
        propose_grid(replace(demo_study(), **change), law, aim, **{"budget_flops": 2e13, "draws": 20, **options})


def test_laws_of_another_kind_are_refused(law):
    other = ScalingLaw.from_params("total_tokens", A=10.0, alpha=0.2, E=1.0)
    with pytest.raises(StudyError, match="total_tokens"):
        propose_grid(demo_study(), other, Aim(), budget_flops=1e14)
    alone = ScalingLaw.from_params("bootstrap", **{k: v for k, v in PARAMS.items() if "scratch" not in k})
    with pytest.raises(StudyError, match="from scratch"):
        propose_grid(demo_study(), alone, Aim(), budget_flops=1e14)


@pytest.mark.parametrize("wrong", [{"kind": "alpha4"}, {"kind": "crossover"}, {"kind": "loss", "base_tokens": 1e6}])
def test_an_aim_is_a_question(wrong):
    with pytest.raises(StudyError):
        Aim(**wrong)


def test_the_command_writes_a_study_that_is_read_again(tmp_path, law):
    law.save_pretrained(tmp_path / "law")
    file, to = tmp_path / "study.yaml", tmp_path / "larger.yaml"
    file.write_text(yaml.safe_dump(demo_study().to_dict()))
    assert StudyConfig.from_file(file) == demo_study()
    done = CliRunner().invoke(
        app, ["study", "design", str(file), "--law", str(tmp_path / "law"), "--budget-flops", "2e13", "--to", str(to)]
    )
    assert done.exit_code == 0, done.output
    assert "proposed" in done.output
    written = StudyConfig.from_file(to)
    assert written.methods[0].name == "continue"
    assert len(written.bases[0].tokens) >= 4
    assert (written.texts, written.training) == (demo_study().texts, demo_study().training)


def test_a_grid_is_designed_for_the_first_of_several_bases(law):
    record = demo_study_record()
    record["bases"].append({**record["bases"][0], "model": "deep"})
    record["methods"] = [{**record["methods"][0], "scratch": ["small", "deep"]}]
    proposal = propose_grid(StudyConfig.from_dict(record), law, Aim(kind="alpha3"), budget_flops=4e13, draws=9)
    assert proposal.study.methods[0].scratch == ("small",)
