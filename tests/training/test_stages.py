"""Second stages that train an adapter, or go on with the base's Adam: exact, resumable, and honest in their points."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.store import RunFolder
from hf_bootstrap.training.beginning import carried_moments
from hf_bootstrap.training.loop import run_one

from .test_loop import BATCH, carry_out, here, measured, spec

__all__ = ["here"]  # a fixture
LORA = {"r": 2, "dropout": 0.1, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture
def trunk(here):
    """At constant rate, with a checkpoint half-way; none of its steps warms up."""
    return carry_out(here, spec(warmup_tokens=0, decay_tokens=0, checkpoints=(10 * BATCH, 20 * BATCH)))


def second(trunk, step=20, **changes):
    """A stage of ten steps on unseen text, from a checkpoint of the trunk."""
    facts = {
        "model": None, "method": "continue", "start": f"{trunk.spec().run_id}/checkpoint-{step}", "warmup_tokens": 0,
        "data_offset": 2 * step, "base_tokens": step * BATCH, "tokens": 10 * BATCH, "decay_tokens": 0,
    }  # fmt: skip
    return spec(**{**facts, **changes})


def killed_at(here, wanted, step, save_every=BATCH):
    """Carried out with a kill after a step, and once more from what was saved."""
    again = here / "again"
    again.mkdir()
    for name in ("train", "held"):
        shutil.copy(here / f"{name}.safetensors", again)
    shutil.copytree(here / "runs", again / "runs")
    folder = RunFolder.create(again, wanted)

    def kill(tokens):
        if tokens == step * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(folder, kill, save_every=save_every)
    run_one(folder, save_every=save_every)
    return folder


# --- Adam's moments --------------------------------------------------------------------------------------------


def test_a_stage_with_the_moments_of_its_base_is_the_base_going_on(here, trunk):
    """The trunk saw the same blocks at the same rate from step 10 to 20, so every bit of the two must agree."""
    kept = carry_out(here, second(trunk, 10, optimizer="grow")).points()[-1]
    assert kept.loss == trunk.points()[-1].loss
    assert kept.optimizer_reset is False
    fresh = carry_out(here, second(trunk, 10)).points()[-1]
    assert fresh.loss != kept.loss
    assert fresh.optimizer_reset is True


def test_a_killed_stage_with_carried_moments_ends_where_an_undisturbed_one_does(here, trunk):
    wanted = second(trunk, optimizer="grow", marks=(0, 5 * BATCH), growth={"depth": 2, "depth_method": "identity"})
    killed = killed_at(here, wanted, 7)
    assert measured(killed) == measured(carry_out(here, wanted))
    assert {p.optimizer_reset for p in killed.points()} == {False}


def test_a_killed_stage_that_saved_nothing_begins_with_the_moments_again(here, trunk):
    wanted = second(trunk, optimizer="grow")
    assert measured(killed_at(here, wanted, 7, save_every=0)) == measured(carry_out(here, wanted))


def test_a_decay_branched_off_a_stage_with_moments_says_what_its_stage_did(here, trunk):
    stage = carry_out(here, second(trunk, optimizer="grow", checkpoints=(10 * BATCH,)))
    facts = {"start": f"{stage.spec().run_id}/checkpoint-10", "resume": True, "tokens": 15 * BATCH}
    branch = dataclasses.replace(stage.spec(), **facts, decay_tokens=5 * BATCH, checkpoints=())
    assert carry_out(here, branch).points()[-1].optimizer_reset is False
    with pytest.raises(TrainingError, match="goes on as its stage began"):
        carry_out(here, dataclasses.replace(branch, optimizer="reset"))


@pytest.mark.parametrize(
    ("growth", "why"),
    [
        ({"width": 2, "width_method": "split"}, "shares of split are unequal"),
        ({"depth": 2, "depth_method": "stack"}, "change the function"),
        ({"width_method": "zero_pad", "hidden_size": 20}, "no moments yet"),
    ],
    ids=["split", "stack", "zero_pad"],
)
def test_moments_no_exact_rule_is_known_for_are_refused_before_the_first_step(here, trunk, growth, why):
    with pytest.raises(TrainingError, match=why):
        carry_out(here, second(trunk, optimizer="grow", growth=growth))
    assert not list(here.glob("runs/continue-*/points.jsonl"))


def test_equal_copies_may_keep_their_moments(here, trunk):
    growth = {"width": 2, "width_method": "clone"}
    start, end = carry_out(here, second(trunk, optimizer="grow", growth=growth, marks=(0,))).points()
    assert end.loss < start.loss
    assert end.optimizer_reset is False


def test_a_base_without_its_adam_cannot_give_it(here, trunk):
    (trunk.path / "checkpoint-20" / "optimizer.pt").unlink()
    with pytest.raises(TrainingError, match=r"(?s)optimizer: grow.*no .*optimizer\.pt"):
        carry_out(here, second(trunk, optimizer="grow"))


def test_moments_cannot_come_from_a_name_on_the_hub(here, trunk):
    wanted = second(trunk, optimizer="grow")
    elsewhere = here / "model"
    shutil.copytree(trunk.path / "checkpoint-20", elsewhere)
    kept = carry_out(here, dataclasses.replace(wanted, start=str(elsewhere))).points()[-1]
    assert kept.loss == carry_out(here, wanted).points()[-1].loss
    with pytest.raises(TrainingError, match="no folder here"):
        carried_moments(trunk, dataclasses.replace(wanted, start="user/name"), None)


# --- LoRA ------------------------------------------------------------------------------------------------------


def test_a_lora_leaves_points_that_say_what_was_trained(here, trunk):
    facts = {"method": "lora", "marks": (0,), "checkpoints": (100 * BATCH,), "tokens": 100 * BATCH}
    run = carry_out(here, second(trunk, lora=LORA, **facts))
    start, end = run.points()
    base = trunk.points()[-1]
    assert start.loss == base.loss, "an adapter adds nothing before it has learnt"
    assert end.loss < start.loss
    added = 2 * (2 * (16 + 16) + 2 * (24 + 16))  # two layers, rank 2, on a square matrix and on one of 24 x 16
    assert (end.method, end.n_params_base, end.n_params) == ("lora", base.n_params, base.n_params + added)
    assert end.n_params_active == end.n_params
    assert end.n_params_non_embedding == base.n_params_non_embedding, "it merges into the weights beside it"
    own = base.flops / base.tokens  # a token's, all weights trained: a third of it is their gradients, attention aside
    assert end.flops / end.tokens == pytest.approx(own - 2 * (base.n_params - 300 * 16 - 5 * 16) + 6 * added)
    assert "4*N_matmul + 6*N_adapter" in end.flops_formula
    saved = run.path / "checkpoint-100"
    assert sum(t.numel() for t in load_file(saved / "adapter_model.safetensors").values()) == added
    assert json.loads((saved / "adapter_config.json").read_text())["lora_dropout"] == 0.1


def test_a_killed_lora_ends_where_an_undisturbed_one_does(here, trunk):
    wanted = second(trunk, lora=LORA, marks=(5 * BATCH,), checkpoints=(10 * BATCH,))
    killed, straight = killed_at(here, wanted, 7), carry_out(here, wanted)
    assert measured(killed) == measured(straight)
    ends = [load_file(run.path / "checkpoint-10" / "adapter_model.safetensors") for run in (straight, killed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("growth", [None, {"depth": 2, "depth_method": "identity"}], ids=["as it is", "grown"])
def test_a_decay_branched_off_a_lora_equals_one_run_with_the_whole_schedule(here, trunk, growth):
    whole = carry_out(here, second(trunk, lora=LORA, growth=growth, decay_tokens=3 * BATCH))
    stage = carry_out(here, second(trunk, lora=LORA, growth=growth, tokens=7 * BATCH, checkpoints=(7 * BATCH,)))
    facts = {"start": f"{stage.spec().run_id}/checkpoint-7", "resume": True, "growth": None, "checkpoints": ()}
    branch = carry_out(here, dataclasses.replace(whole.spec(), **facts))
    ours, expected = branch.points()[-1], whole.points()[-1]
    same = ("loss", "tokens", "phase", "n_params", "n_params_base", "n_params_non_embedding")
    assert [getattr(ours, name) for name in same] == [getattr(expected, name) for name in same]


def test_no_run_starts_from_an_adapter_alone(here, trunk):
    run = carry_out(here, second(trunk, lora=LORA, checkpoints=(10 * BATCH,)))
    with pytest.raises(TrainingError, match="merge_adapter"):
        carry_out(here, second(trunk, start=f"{run.spec().run_id}/checkpoint-10"))


def test_a_lora_on_layers_the_model_does_not_have_is_refused(here, trunk):
    with pytest.raises(TrainingError, match="c_attn"):
        carry_out(here, second(trunk, lora={"r": 2, "target_modules": ["c_attn"]}))


# --- growth ----------------------------------------------------------------------------------------------------


def test_a_decay_branched_off_a_grown_stage_knows_the_size_of_the_base(here, trunk):
    growth = {"width": 2, "width_method": "split"}
    stage = carry_out(here, second(trunk, growth=growth, checkpoints=(10 * BATCH,)))
    facts = {"start": f"{stage.spec().run_id}/checkpoint-10", "resume": True, "growth": None, "tokens": 15 * BATCH}
    branch = carry_out(here, dataclasses.replace(stage.spec(), **facts, decay_tokens=5 * BATCH, checkpoints=()))
    assert branch.points()[-1].n_params_base == stage.points()[-1].n_params_base == trunk.points()[-1].n_params


def test_a_growth_that_asks_for_nothing_is_none(here, trunk):
    plain, empty = (carry_out(here, second(trunk, growth=growth)) for growth in (None, {"seed": 3}))
    assert empty.points()[-1].loss == plain.points()[-1].loss
    assert json.loads((empty.path / "done.json").read_text())["growth"] is None
