"""What benchmarks/selection.py takes for granted: which form contains which on its rows, and one draw of its table."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from hf_bootstrap.laws.evidence import RIVALS
from hf_bootstrap.laws.fitted import completed
from hf_bootstrap.laws.fitting import fit_form
from hf_bootstrap.laws.forms import find_form
from hf_bootstrap.laws.points import Points

PATH = Path(__file__).parents[2] / "benchmarks" / "selection.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("selection", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("planted", RIVALS)
def test_the_benchmark_says_truly_which_forms_have_parameters_a_planted_one_does_not_need(benchmark, planted):
    """A form with more parameters describes noise-free points exactly where it is said to contain theirs."""
    points = Points.read(benchmark.draw(planted, 0, noise=0.0))
    forms = {name: completed(find_form(name), points)[0] for name in RIVALS}
    larger = [name for name in RIVALS if len(forms[name].parameters) > len(forms[planted].parameters)]
    worst = {}
    for name in larger:
        fit = fit_form(forms[name], points.logs(forms[name]), points.loss)
        worst[name] = np.abs(np.expm1(fit.residuals)).max()
    contained = {name for name, error in worst.items() if error < 1e-5}
    assert contained == set(benchmark.CONTAINS.get(planted, ()))
    assert all(error > 1e-3 for name, error in worst.items() if name not in contained)


def test_every_candidate_is_planted_and_a_draw_has_the_rows_the_issue_asks_for(benchmark):
    assert set(benchmark.PLANTED) == set(RIVALS)
    table = benchmark.draw("unified", 1)
    d1 = np.array(table["base_tokens"])
    assert sorted(np.unique(d1, return_counts=True)[1]) == [6] * 7
    for column in (d1[d1 > 0], np.array(table["tokens"])):
        assert np.log10(column.max() / column.min()) == pytest.approx(1.5, abs=0.01)
    quiet = benchmark.draw("unified", 1, noise=0.0)
    assert np.std(np.log(table["loss"] / quiet["loss"])) == pytest.approx(0.003, rel=0.3)
