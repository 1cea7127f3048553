"""What a law's numbers count is stored with it, or why it is not known; and used where FLOPs are divided."""

import json

import numpy as np
import pytest

from hf_bootstrap import ScalingLaw, ScalingPoint
from hf_bootstrap.errors import PredictionError

from .grids import TRUTH, chinchilla_240, demo_design, measured

CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


def recorded(factors):
    """Points of the demo's design whose FLOPs are `factors` per parameter and token, in turn."""
    table = measured(demo_design(), noise=0.003)
    rows = zip(table["base_tokens"].tolist(), table["tokens"].tolist(), table["loss"].tolist(), strict=True)
    return [
        ScalingPoint(
            run_id=f"run-{i}", base_tokens=d1, tokens=d2, loss=loss, n_params_non_embedding=1000,
            flops=factors[i % len(factors)] * 1000.0 * d2, flops_formula="by hand",
        )
        for i, (d1, d2, loss) in enumerate(rows)
    ]  # fmt: skip


def stored(law, folder):
    law.save_pretrained(folder)
    assert ScalingLaw.from_pretrained(folder).fitted.definitions == law.fitted.definitions
    return json.loads((folder / "law.json").read_text())["definitions"]


def test_points_that_were_recorded_say_what_they_count(tmp_path):
    found = stored(ScalingLaw(resamples=20).fit(recorded([7.5])), tmp_path)
    assert found["n_params"] == {"value": "non-embedding parameters", "reason": None}
    assert found["flops_per_param_token"]["value"] == pytest.approx(7.5)
    assert "`flops_per_param_token`: 7.5" in (tmp_path / "README.md").read_text()


def test_what_is_not_said_is_null_with_the_reason(tmp_path):
    law = ScalingLaw("chinchilla", resamples=10).fit(chinchilla_240())
    found = stored(law, tmp_path)
    assert found["n_params"] == {"value": None, "reason": "with or without embeddings: the points do not say it"}
    assert found["flops_per_param_token"]["value"] is None
    assert "no FLOPs" in found["flops_per_param_token"]["reason"]
    assert any("Whether n_params counts the embeddings is not said" in sentence for sentence in law.checks_)
    said = ScalingLaw("chinchilla", resamples=10).fit(chinchilla_240(), n_params_are="total parameters")
    assert said.fitted.definitions["n_params"].value == "total parameters"
    assert not any("embeddings" in sentence for sentence in said.checks_)
    given = ScalingLaw.from_params("chinchilla", **CHINCHILLA).fitted.definitions
    assert all(definition.value is None and definition.reason for definition in given.values())


def test_several_ways_of_counting_flops_are_no_factor():
    law = ScalingLaw(resamples=10).fit(recorded([6.0, 7.5]))
    definition = law.fitted.definitions["flops_per_param_token"]
    assert (definition.value, definition.reason) == (None, "it varies between the points, from 6 to 7.5")


def test_budgets_are_divided_by_the_factor_the_points_were_counted_with():
    truth = ScalingLaw.from_params("bootstrap", **{**TRUTH, "A_scratch": 2000.0})
    points = recorded([7.5])
    for i, point in enumerate(points):
        loss = truth.predict(base_tokens=point.base_tokens, tokens=point.tokens).value * (1 + 1e-3 * (-1) ** i)
        object.__setattr__(point, "loss", loss)
    law = ScalingLaw(resamples=10).fit(points)
    found = law.best_split(flops=7.5 * 1e5 * 2e6, n_params_base=1e5)
    assert found.also["base_tokens"][0] + found.also["tokens"][0] == pytest.approx(2e6)


def test_decisions_take_the_columns_that_their_form_reads():
    repeated = ScalingLaw.from_params("data_constrained", **CHINCHILLA, R_D=15.0, R_N=5.0)
    scarce, plenty = (repeated.compute_optimal(flops=1e21, unique_tokens=u) for u in (1e9, 1e13))
    unlimited = ScalingLaw.from_params("chinchilla", **CHINCHILLA).compute_optimal(flops=1e21)
    assert plenty.also["loss"][0] == pytest.approx(unlimited.also["loss"][0], rel=1e-4)
    assert scarce.also["loss"][0] > plenty.also["loss"][0] + 0.05
    goal = repeated.predict(tokens=4e9, n_params=1e8, unique_tokens=1e9).value
    found = repeated.tokens_for(loss=goal, n_params=1e8, unique_tokens=1e9)
    assert found.value == pytest.approx(4e9, rel=1e-3)
    mixed = ScalingLaw.from_params("d_cpt", **CHINCHILLA, eta=0.3, C=0.5, gamma=0.4, epsilon=0.1)
    size = mixed.compute_optimal(flops=1e20, mixture_ratio=0.5)
    assert np.isfinite(size.value)
    assert mixed.tokens_for(loss=4.0, n_params=1e9, mixture_ratio=0.5).value > 1


@pytest.mark.parametrize(
    ("question", "missing"),
    [
        (lambda law: law.compute_optimal(flops=1e21), "needs unique_tokens="),
        (lambda law: law.tokens_for(loss=3.0, n_params=1e8), "needs unique_tokens="),
        (lambda law: law.compute_optimal(flops=1e21, unique_tokens=1e9, mixture_ratio=1.0), "not read mixture_ratio"),
    ],
    ids=["size", "tokens", "not read"],
)  # fmt: skip
def test_a_column_that_is_missing_or_not_read_is_named(question, missing):
    with pytest.raises(PredictionError, match=missing):
        question(ScalingLaw.from_params("data_constrained", **CHINCHILLA, R_D=15.0, R_N=5.0))
