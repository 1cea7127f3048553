import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from hf_bootstrap.errors import StudyError
from hf_bootstrap.study.costs import costs, tokens_needed
from hf_bootstrap.study.grid import Checkpoint, start_run_id


def test_the_demo_is_seventy_runs_that_share_their_stages(demo_grid):
    """5 of the trunk; 4 bases x (1 + 4), (1 + 3), (1 + 3); from scratch 5 + 4 + 4."""
    specs = demo_grid.specs()
    assert len({spec.run_id for spec in specs}) == len(specs) == 70
    assert Counter(spec.method for spec in specs) == {"scratch": 18, "continue": 20, "stack": 16, "expand-split": 16}
    assert sum(spec.decay_tokens > 0 for spec in specs) == 70 - 16


def test_every_run_comes_after_the_run_whose_kept_checkpoint_it_starts_from(demo_grid):
    before = {}
    for spec in demo_grid.specs():
        if spec.start is not None:
            run_id, _, checkpoint = spec.start.partition("/checkpoint-")
            assert int(checkpoint) * 512 in before[run_id].checkpoints
        before[spec.run_id] = spec


def test_a_mark_is_reached_by_a_decay_of_its_last_fifth_in_whole_steps(demo_grid):
    stages = {spec.run_id: spec for spec in demo_grid.specs()}
    for spec in stages.values():
        if spec.resume:
            stage, begin = stages[start_run_id(spec)], int(spec.start.rpartition("-")[2]) * 512
            assert begin + spec.decay_tokens == spec.tokens
            assert 0.2 * spec.tokens - 512 < spec.decay_tokens <= 0.2 * spec.tokens
            assert (spec.data, spec.data_offset, spec.warmup_tokens) == (
                stage.data,
                stage.data_offset,
                stage.warmup_tokens,
            )
            assert (spec.method, spec.base_tokens, spec.peak_lr) == (stage.method, stage.base_tokens, stage.peak_lr)


def test_bases_are_the_decayed_models_of_one_trunk(demo_grid):
    specs = demo_grid.specs()
    runs, trunk = {spec.run_id: spec for spec in specs}, specs[0]
    assert trunk.checkpoints == (104_960, 262_144, 655_360, 1_638_400)
    stages = [spec for spec in specs if spec.base_tokens and not spec.resume]
    assert len(stages) == 12
    for stage in stages:
        base = runs[start_run_id(stage)]
        assert base.tokens == stage.base_tokens == base.checkpoints[0]
        assert base.decay_tokens > 0
        assert base.parent_run_id == stage.base_run_id == trunk.run_id
        assert stage.base_checkpoint_id == f"{trunk.run_id}/step-{base.tokens // 512}"
        assert stage.base_decayed
    assert {stage.growth["depth"] for stage in stages if stage.method == "stack"} == {2}


def test_growth_never_sees_a_token_of_the_trunk_and_neither_does_its_rival_from_scratch(demo_grid):
    trunk, *rest = demo_grid.specs()
    second = [spec for spec in rest if spec.parent_run_id != trunk.run_id]
    on_docs = [spec for spec in second if spec.domain == "docs"]
    assert {spec.data_offset * 128 for spec in on_docs} == {2_048_000}
    assert {spec.data_offset for spec in second if spec.domain == "code"} == {0}
    assert {spec.method for spec in on_docs} == {"scratch", "stack", "expand-split"}


def test_each_method_is_compared_with_the_same_model_from_scratch_on_the_same_marks(demo_grid):
    ends = [spec for spec in demo_grid.specs() if spec.decay_tokens]
    for method in demo_grid.methods:
        marks = {spec.tokens for spec in ends if spec.method == method.name}
        models = [s.run_id for s in demo_grid.specs() if s.model == method.scratch and s.domain == method.corpus.domain]
        assert marks <= {s.tokens for s in ends if start_run_id(s) in models and s.method == "scratch"}


def test_tokens_needed_is_what_the_last_block_of_each_file_needs(demo_grid):
    assert tokens_needed(demo_grid.specs()) == {"docs.tokens": 2_048_000 + 524_288, "code.tokens": 1_048_576}


def test_costs_follow_tokens_and_size(demo_grid):
    specs = demo_grid.specs()
    found = costs(specs)
    assert set(found) == {spec.run_id for spec in specs}
    stable = {s.method: found[s.run_id] / s.tokens for s in specs if s.base_tokens and not s.resume}
    assert stable["stack"] / stable["continue"] == pytest.approx(56 / 33, rel=0.05)
    assert stable["expand-split"] / stable["continue"] == pytest.approx(62 / 33, rel=0.05)
    decay = next(spec for spec in specs if spec.resume)
    assert found[decay.run_id] / decay.decay_tokens == pytest.approx(found[specs[0].run_id] / specs[0].tokens)


def test_seeds_share_nothing(demo_grid):
    one, two = (replace(demo_grid, seeds=(seed,)).specs() for seed in (1, 2))
    both = replace(demo_grid, seeds=(1, 2)).specs()
    assert {spec.run_id for spec in both} == {spec.run_id for spec in one + two}
    assert len(both) == 140


def test_a_grid_laid_out_twice_is_the_same_and_any_change_of_data_renames_its_runs(demo_grid):
    ids = {spec.run_id for spec in demo_grid.specs()}
    assert {spec.run_id for spec in demo_grid.specs()} == ids
    other = replace(demo_grid, corpus=replace(demo_grid.corpus, data_hash="0"))
    changed = {spec.run_id for spec in other.specs()}
    # The models from scratch beside each method never met the base's text; every other run is another.
    assert len(ids & changed) == 5 + 4 + 4


def test_marks_are_rounded_down_to_whole_steps(tiny_grid):
    ends = {spec.tokens for spec in replace(tiny_grid, base_tokens=(5_600,)).specs() if spec.method == "scratch"}
    assert 5_120 in ends
    assert not any(tokens % 512 for tokens in ends)


def test_a_method_finds_the_checkpoints_it_names_at_any_number_of_tokens(tiny_grid):
    """1e9 tokens are no whole number of steps of 3 blocks."""
    bases = tuple(Checkpoint(path=f"org/{count}", tokens=count) for count in (1_000_000_000, 2_000_000_000))
    (method,) = tiny_grid.methods
    one = replace(method, base_tokens=(1_000_000_000,))
    grid = replace(tiny_grid, model=None, bases=bases, base_tokens=(), batch_size=3, methods=(one,))
    assert {spec.base_tokens for spec in grid.specs() if spec.base_tokens} == {1_000_000_000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_tokens": ()}, "at least one base mark"),
        ({"seeds": ()}, "one seed"),
        ({"decay_share": 0.0}, "decay_share is 0.0"),
        ({"base_tokens": (1_024,)}, "the base: a mark of 1,024 tokens is 2 steps, too short to decay"),
        ({"warmup_steps": 9}, "the base: a mark of 5,120 tokens is 10 steps; a warm-up of 9"),
    ],
)
def test_a_grid_that_cannot_be_laid_out_is_refused(tiny_grid, change, message):
    with pytest.raises(StudyError, match=message):
        replace(tiny_grid, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": (10_240, 1_024)}, "method 'continue': a mark of 1,024 tokens is 2 steps, too short"),
        ({"scratch_tokens": (1_024,)}, "method 'continue', its run from scratch: a mark of 1,024 tokens"),
    ],
)
def test_a_mark_that_is_too_short_is_named_with_its_method(tiny_grid, change, message):
    (method,) = tiny_grid.methods
    with pytest.raises(StudyError, match=message):
        replace(tiny_grid, methods=(replace(method, **change),))


def test_each_stage_is_judged_by_its_own_warm_up(tiny_grid):
    (method,) = tiny_grid.methods
    long = {"base_tokens": (51_200,), "warmup_steps": 50}
    short = replace(method, scratch=None)
    assert replace(tiny_grid, **long, methods=(short,)).specs()
    with pytest.raises(StudyError, match=r"its run from scratch: .* a warm-up of 50"):
        replace(tiny_grid, **long, methods=(method,))


def test_planning_loads_no_torch():
    code = "import sys, hf_bootstrap.study.grid; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_method_warms_up_as_it_says(tiny_grid):
    (method,) = tiny_grid.methods
    second = [s for s in replace(tiny_grid, methods=(replace(method, rewarm_steps=0),)).specs() if s.base_tokens]
    assert {spec.warmup_tokens for spec in second} == {0}
    assert {spec.warmup_tokens for spec in tiny_grid.specs() if spec.base_tokens} == {tiny_grid.batch_tokens}
    with pytest.raises(StudyError, match=r"'continue': .* a warm-up of 9 \(rewarm_steps\)"):
        replace(tiny_grid, methods=(replace(method, rewarm_steps=9),))
