"""A run: exact counts, exact resume, a decay branched from a trunk, and clear refusals."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import COMPLETE, RunFolder
from hf_bootstrap.training import checkpoints
from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.loop import run_one

from .conftest import MODEL

BATCH = 2 * 16


def spec(**changes):
    facts = {
        "method": "scratch", "domain": "words", "seed": 1, "data": "train.safetensors",
        "eval_sets": {"words": "held.safetensors"}, "tokens": 20 * BATCH, "peak_lr": 1e-2, "batch_size": 2,
        "sequence_length": 16, "warmup_tokens": 4 * BATCH, "decay_tokens": 5 * BATCH, "attention": "eager",
        "model": MODEL,
    }  # fmt: skip
    return RunSpec(**{**facts, **changes})


@pytest.fixture
def here(study, tmp_path):
    """A fresh study folder with the token files."""
    for name in ("train", "held"):
        shutil.copy(study / f"{name}.safetensors", tmp_path)
    return tmp_path


def carry_out(here, wanted):
    folder = RunFolder.create(here, wanted)
    run_one(folder)
    return folder


def measured(folder):
    """What must be equal between two ways to the same end: everything but speed."""
    return [dataclasses.replace(p, tokens_per_second=None) for p in folder.points()]


def test_a_run_leaves_points_with_exact_counts_and_done(here):
    folder = carry_out(here, spec(marks=(0, 10 * BATCH)))
    assert folder.is_done()
    assert [(p.step, p.tokens, p.tokens_seen, p.token_slots, p.phase) for p in folder.points()] == [
        (0, 0, 0, 0, "warmup"),
        (10, 10 * 32, 10 * 34, 10 * 34, "stable"),
        (20, 20 * 32, 20 * 34, 20 * 34, "end"),
    ]
    first, _, last = folder.points()
    assert last.loss < first.loss
    assert last.n_params_non_embedding == 4 * 16 * 16 * 2 + 3 * 16 * 24 * 2 + 5 * 16
    assert last.flops == pytest.approx(20 * 32 * (6 * (last.n_params_non_embedding - 80 + 300 * 16) + 6 * 2 * 16 * 16))


def test_the_loss_is_that_on_the_domain_trained_on_whatever_the_sets_are_called(here):
    sets = {"aaa": "train.safetensors", "words": "held.safetensors", "zzz": "train.safetensors"}
    point = carry_out(here, spec(eval_sets=sets)).points()[-1]
    assert set(point.eval) == set(sets)
    assert point.loss == point.eval["words"]["sum"] / point.eval["words"]["count"] != point.eval["aaa"]["sum"]


def test_progress_is_reported_in_trained_tokens(here):
    seen = []
    run_one(RunFolder.create(here, spec()), seen.append)
    assert seen == [BATCH * step for step in range(1, 21)]


def test_a_killed_run_goes_on_and_ends_where_an_undisturbed_one_does(here, tmp_path):
    straight = carry_out(here, spec(checkpoints=(8 * BATCH, 20 * BATCH), marks=(5 * BATCH, 12 * BATCH)))
    again = tmp_path / "again"
    again.mkdir()
    for name in ("train", "held"):
        shutil.copy(here / f"{name}.safetensors", again)
    wanted = straight.spec()
    killed = RunFolder.create(again, wanted)

    def kill(tokens):
        if tokens == 14 * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(killed, kill)
    torn = killed.path / "checkpoint-14"
    shutil.copytree(killed.path / "checkpoint-8", torn)
    (torn / COMPLETE).unlink()  # a checkpoint whose writer died must not be believed
    assert not killed.is_done()
    run_one(killed)
    assert measured(killed) == measured(straight)
    ends = [load_file(f.path / "checkpoint-20" / "model.safetensors") for f in (straight, killed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_killed_after_its_last_step_trains_no_step_more(here):
    folder = carry_out(here, spec(checkpoints=(20 * BATCH,)))
    straight = folder.points()
    (folder.path / "done.json").unlink()
    seen = []
    run_one(folder, seen.append)
    assert folder.is_done()
    assert seen == []
    assert folder.points() == straight


def test_a_branched_decay_equals_one_run_with_the_whole_schedule(here):
    whole = carry_out(here, spec())
    trunk = carry_out(here, spec(decay_tokens=0, tokens=18 * BATCH, checkpoints=(15 * BATCH,)))
    branch = carry_out(here, spec(model=None, start=f"{trunk.spec().run_id}/checkpoint-15", resume=True))
    assert trunk.points()[-1].phase == "stable"
    end, expected = branch.points()[-1], whole.points()[-1]
    assert (end.loss, end.tokens, end.tokens_seen, end.phase) == (expected.loss, 20 * 32, 20 * 34, "end")
    assert end.parent_run_id == trunk.spec().run_id


def test_a_grown_second_stage_starts_at_the_loss_of_its_base_and_resets_the_counts(here):
    base = carry_out(here, spec(checkpoints=(20 * BATCH,)))
    second = carry_out(
        here,
        spec(
            model=None, method="expand-split", growth={"width": 2, "width_method": "split"}, data_offset=20,
            start=f"{base.spec().run_id}/checkpoint-20", base_tokens=20 * BATCH, marks=(0,),
        ),
    )  # fmt: skip
    start, end = second.points()
    assert start.loss == pytest.approx(base.points()[-1].loss, rel=1e-6)
    assert (start.tokens, start.base_tokens, end.tokens) == (0, 20 * BATCH, 20 * BATCH)
    assert end.n_params_base == base.points()[-1].n_params < end.n_params
    assert end.optimizer_reset is True


def test_attention_implementations_agree(here):
    losses = [carry_out(here, spec(attention=name)).points()[-1].loss for name in ("eager", "sdpa")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_too_little_text_is_refused_before_training(here):
    with pytest.raises(TrainingError, match="never repeated in silence"):
        carry_out(here, spec(data_offset=10**6))


def test_an_unfinished_start_is_refused(here):
    trunk = carry_out(here, spec(checkpoints=(20 * BATCH,)))
    (trunk.path / "checkpoint-20" / COMPLETE).unlink()
    with pytest.raises(TrainingError, match="not written to its end"):
        carry_out(here, spec(model=None, method="continue", start=f"{trunk.spec().run_id}/checkpoint-20"))


def test_a_diverging_run_says_so(here):
    with pytest.raises(TrainingError, match="diverged"):
        carry_out(here, spec(peak_lr=1e30, tokens=200 * BATCH, decay_tokens=0))


def test_a_branch_off_the_first_log_counts_from_its_checkpoint(here):
    """A point at step 0 once left its counts, all zero, to the first log; a checkpoint there took them for its own."""
    trunk = carry_out(here, spec(decay_tokens=0, marks=(0,), tokens=18 * BATCH, checkpoints=(15 * BATCH,)))
    branch = carry_out(here, spec(model=None, start=f"{trunk.spec().run_id}/checkpoint-15", resume=True))
    assert [(point.step, point.tokens) for point in (*trunk.points(), *branch.points())] == [
        (0, 0), (18, 18 * BATCH), (20, 20 * BATCH)
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["data", "eval_set", "tokenizer", "eval_set/more"])
def test_a_text_that_was_packed_again_is_refused_before_any_compute(here, study, what):
    sets = {"words": "held.safetensors", "more": "train.safetensors"}
    train, held = (PackedBlocks(study / f"{name}.safetensors", 16).facts for name in ("train", "held"))
    found = {"data": train.hash, "eval_set": held.hash, "tokenizer": train.tokenizer_hash, "eval_set/more": train.hash}
    folder = RunFolder.create(here, spec(eval_sets=sets, hashes={**found, what: "0" * 64}))
    with pytest.raises(TrainingError, match=f"asked for with {what} 000000000000, .* has {found[what][:12]} now"):
        run_one(folder)
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]
    assert carry_out(here, spec(eval_sets=sets, hashes=found)).points()[-1].hashes == found


def test_products_in_bfloat16_leave_the_weights_and_the_counts_and_are_named(here):
    exact, cast = (carry_out(here, spec(autocast=name)) for name in ("no", "bf16"))
    (before,), (after,) = exact.points(), cast.points()
    assert (before.autocast, after.autocast) == ("no", "bf16")
    assert (before.dtype, after.dtype) == ("float32", "float32")
    assert (before.tokens, before.flops) == (after.tokens, after.flops)
    assert before.loss != after.loss == pytest.approx(before.loss, rel=1e-2)
    assert "autocast" not in json.loads((exact.path / "run.json").read_text())


def test_a_tenth_is_saved_only_when_training_has_taken_long_enough_to_be_worth_it(monkeypatch, tmp_path):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock.now))
    saving = checkpoints.Checkpoints(every=10, patience=300.0)
    args, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=0, is_world_process_zero=False)
    control = SimpleNamespace(should_save=False)
    saving.on_train_begin(args, state, control)

    def saves(step, now, took):
        state.global_step, clock.now, control.should_save = step, now, False
        saving.on_step_end(args, state, control)
        if control.should_save:
            clock.now += took
            saving.on_save(args, state, control)
        return control.should_save

    assert not saves(10, 299, 1)  # too early
    assert not saves(11, 400, 1)  # no tenth
    assert saves(20, 400, 1)
    assert not saves(30, 700, 1)
    assert saves(40, 701, 20)
    assert not saves(50, 1700, 20)  # what takes 20 s is worth it every 1000 s
    assert saves(60, 1721, 20)
