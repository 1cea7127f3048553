"""A study that grows trains only what is new."""

from dataclasses import replace

import pytest

from hf_bootstrap.study.runs import known_runs
from hf_bootstrap.study.stages import Known

from .fake_runs import read_journal
from .test_run import ended, run


def grown(grid, tokens=None, base_tokens=None):
    (method,) = grid.methods
    return replace(
        grid,
        base_tokens=base_tokens or grid.base_tokens,
        methods=(replace(method, tokens=tokens or method.tokens),),
    )


@pytest.mark.parametrize(
    ("tokens", "new"),
    [
        ((5_120, 10_240, 20_480), 3 * 2),  # of scratch and of both bases: a piece of stable run, and a decay
        ((5_120, 7_680, 10_240), 3 * 2),  # between: a branch of its own, and its decay
        ((5_120,), 0),
    ],
)
def test_another_mark_trains_only_its_own_tokens(tiny_grid, tmp_path, tokens, new):
    first = run(tiny_grid.specs(), tmp_path)
    before = {spec.run_id for spec in tiny_grid.specs()}
    larger = grown(tiny_grid, tokens=tokens).specs(known_runs(tmp_path))
    assert len({spec.run_id for spec in larger} - before) == new
    points = run(larger, tmp_path)
    assert len(ended(tmp_path)) == len(set(ended(tmp_path))) == len(before) + new
    ends = {(p.method, p.base_tokens, p.tokens) for p in points if p.phase == "end" and p.domain == "code"}
    assert {tokens for _, _, tokens in ends} == set(tokens)
    kept = {point.run_id: point for point in first}
    assert all(kept[point.run_id] == point for point in points if point.run_id in kept)


def test_the_grown_plan_twice_is_the_same_before_and_after_it_ran(tiny_grid, tmp_path):
    run(tiny_grid.specs(), tmp_path)
    larger = grown(tiny_grid, tokens=(5_120, 10_240, 20_480))
    planned = {spec.run_id for spec in larger.specs(known_runs(tmp_path))}
    run(larger.specs(known_runs(tmp_path)), tmp_path)
    assert {spec.run_id for spec in larger.specs(known_runs(tmp_path))} == planned
    count = len(read_journal(tmp_path))
    run(larger.specs(known_runs(tmp_path)), tmp_path)
    assert len(read_journal(tmp_path)) == count


def test_another_base_goes_on_from_the_trunk_and_names_the_same_trunk(tiny_grid, tmp_path):
    run(tiny_grid.specs(), tmp_path)
    larger = grown(tiny_grid, base_tokens=(5_120, 10_240, 20_480))
    specs = larger.specs(known_runs(tmp_path))
    old = {spec.run_id for spec in tiny_grid.specs()}
    new = [spec for spec in specs if spec.run_id not in old]
    # A piece of trunk, a decay, and the new base's second stage: its stable part and two decays.
    assert len(new) == 5
    assert len({spec.base_run_id for spec in specs if spec.base_tokens}) == 1
    piece = next(spec for spec in new if spec.method == "scratch" and not spec.decay_tokens)
    assert piece.resume
    assert piece.tokens - int(piece.start.rpartition("-")[2]) * 512 == 16_384 - 8_192
    run(specs, tmp_path)
    assert len(ended(tmp_path)) == len(set(ended(tmp_path)))


def test_a_checkpoint_that_is_gone_is_not_built_upon(tiny_grid, tmp_path):
    specs = tiny_grid.specs()
    trunk = specs[0]
    last = f"{trunk.run_id}/checkpoint-{trunk.tokens // 512}"
    known = Known(specs, done=[spec.run_id for spec in specs], lost=[last])
    larger = replace(tiny_grid, base_tokens=(5_120, 10_240, 20_480)).specs(known)
    piece = next(s for s in larger if s.method == "scratch" and s.domain == "docs" and s.tokens == 16_384)
    assert piece.start == f"{trunk.run_id}/checkpoint-8"


def test_without_anything_known_the_layout_is_one_run_for_each_stage(tiny_grid):
    assert tiny_grid.specs(Known()) == tiny_grid.specs()


def test_text_beyond_the_largest_base_can_be_reserved(tiny_grid):
    (method,) = tiny_grid.methods
    same = replace(tiny_grid, methods=(replace(method, corpus=tiny_grid.corpus),), reserve_tokens=20_480)
    larger = replace(same, base_tokens=(5_120, 10_240, 20_480))
    second = {spec.run_id for spec in same.specs() if spec.base_tokens}
    trunk = same.specs()[0]
    known = Known([trunk], done=[trunk.run_id])
    assert second <= {spec.run_id for spec in larger.specs(known)}
    assert {spec.data_offset for spec in larger.specs(known) if spec.base_tokens} == {160}
    with pytest.raises(Exception, match="Reserve more"):
        replace(larger, reserve_tokens=10_240).specs()
