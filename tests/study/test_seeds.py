"""Repeats of a study: how far seeds differ, whether methods share exponents, and both in the reports."""

from dataclasses import replace
from statistics import fmean, stdev

import pytest

from hf_bootstrap.study.analysis import across_methods, analyse
from hf_bootstrap.study.prose import seed_words
from hf_bootstrap.study.report import write_report
from hf_bootstrap.study.seeds import seed_spread
from hf_bootstrap.study.tables import seed_table

from .conftest import points_of


@pytest.fixture(scope="module")
def two_seeds(demo_grid):
    """Two trunks; stack and expand-split made equal in size, so that they can be compared."""
    points = points_of(replace(demo_grid, seeds=(0, 1)))
    return [replace(p, n_params_non_embedding=min(p.n_params_non_embedding, 201_280)) for p in points]


@pytest.fixture(scope="module")
def reported(two_seeds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds-out")
    findings = analyse(folder, two_seeds, draws=9)
    page = write_report(folder, two_seeds, findings).read_text()
    return findings, page, (folder / "report.md").read_text()


def test_every_cell_has_the_mean_and_spread_of_its_seeds(two_seeds):
    chosen = [p for p in two_seeds if p.method == "continue" and p.phase == "end"]
    found = seed_spread(chosen, "continue")
    assert len(found.cells) == 4 * 4
    for cell in found.cells:
        losses = [p.loss for p in chosen if (p.base_tokens, p.tokens) == (cell.base_tokens, cell.tokens)]
        assert (cell.loss, cell.spread, cell.seeds) == (fmean(losses), stdev(losses), 2)
    assert found.typical == pytest.approx(0.003 * 0.6, rel=0.7)  # the noise planted, on the part above the floor
    assert set(found.alpha3) == {0, 1}
    assert found.alpha3_spread == (fmean(found.alpha3.values()), stdev(found.alpha3.values()))


def test_one_seed_has_no_spread(demo_points):
    found = seed_spread([p for p in demo_points if p.method == "continue" and p.phase == "end"], "continue")
    assert (found.typical, found.alpha3, found.alpha3_spread) == (None, {}, None)
    assert {cell.spread for cell in found.cells} == {None}
    assert seed_words(found) == ""


def test_the_report_shows_seeds_and_exponents_across_methods(reported):
    findings, page, told = reported
    table = seed_table(findings[0])
    for text in (page, told):
        assert table["rows"][0]["base"] == "from scratch"
        assert table["rows"][1]["cells"][0] in text
        assert "Each seed alone gives" in text
        assert "The exponents of stack and expand-split" in text
        assert "alpha3 of stack less that of expand-split" in text
    assert told.count("\n## ") == 3 + 3  # a section for each method; across, limits, text
    assert not [line for line in told.splitlines() if line.startswith("|") and not line.endswith("|")]


def test_methods_of_other_sizes_or_texts_are_not_compared(reported, two_seeds):
    findings = reported[0]
    assert across_methods(two_seeds, findings[:1]) == []
    assert across_methods(two_seeds, [findings[0], findings[1]]) == []


def test_methods_that_share_no_bases_are_named_with_the_reason(reported, two_seeds):
    foreign = [
        replace(p, base_checkpoint_id=f"other {p.base_checkpoint_id}") if p.method == "stack" else p for p in two_seeds
    ]
    (told,) = across_methods(foreign, reported[0])
    assert "were not compared" in told
    assert "do not share 3 bases" in told
