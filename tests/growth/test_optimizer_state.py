"""Adam's state after growth, held to the state Adam has when it trains the grown model on the same data."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from hf_bootstrap.errors import CorruptFileError, GrowthError, StoreError, UnsupportedModelError
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.optimizer_state import OPTIMIZER_FILE, grow_optimizer_state
from hf_bootstrap.growth.stream import grow_checkpoint

from .models import SIZES, tiny


def optimizer_of(model):
    """Two groups, as the Trainer makes them."""
    decayed = Trainer.get_decay_parameter_names(None, model)
    named = list(model.named_parameters())
    groups = [[p for n, p in named if (n in decayed) is wanted] for wanted in (True, False)]
    # A rate of 0: the weights stay, so both models compute one function and the moments are of the same data.
    return torch.optim.AdamW([{"params": group, "weight_decay": 0.0} for group in groups], lr=0.0)


def after_steps(model, steps=4):
    optimizer = optimizer_of(model.eval())  # no dropout: both models are to see the same
    for step in range(steps):
        ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return optimizer.state_dict()


def grown_and_trained(source, growth, tmp_path, how="grow"):
    """(report, the grown state, the state after training the grown model, names), by the same numbers."""
    source.save_pretrained(tmp_path / "base")
    torch.save(after_steps(source), tmp_path / "base" / OPTIMIZER_FILE)
    grown = bootstrap_from_pretrained(source, growth, verify=False)
    grown.save_pretrained(tmp_path / "grown")
    report = grow_optimizer_state(tmp_path / "base", tmp_path / "grown", growth, how=how)
    optimizer = optimizer_of(grown)
    optimizer.load_state_dict(torch.load(tmp_path / "grown" / OPTIMIZER_FILE, weights_only=True))
    names = {id(p): n for n, p in grown.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    return report, optimizer.state_dict(), after_steps(grown), order


def worst(ours, theirs, key):
    """Largest error of a moment, relative to the largest entry of its tensor."""
    errors = [
        ((state[key] - theirs["state"][number][key]).abs().max() / theirs["state"][number][key].abs().max()).item()
        for number, state in ours["state"].items()
        if theirs["state"][number][key].abs().max() > 1e-12
    ]
    return max(errors)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma", "phi"])
@pytest.mark.parametrize("factor", [2, 3])
def test_with_equal_shares_the_grown_state_is_adams(model_type, factor, tmp_path):
    # gemma ties its head and multiplies its table by a constant of the width; gpt2 ties, and stores matrices (in, out).
    source = tiny(model_type, num_key_value_heads=SIZES["num_attention_heads"])
    growth = GrowthConfig(width=factor, width_method="clone")
    report, ours, theirs, _ = grown_and_trained(source, growth, tmp_path)
    assert (report.approximate, report.new) == (0, 0)
    assert report.exact == len(ours["state"]) == len(theirs["state"])
    assert worst(ours, theirs, "exp_avg") < 1e-5
    assert worst(ours, theirs, "exp_avg_sq") < 1e-5
    assert all(state["step"] == 4 for state in ours["state"].values())


def test_unequal_growth_of_each_dimension_is_exact_too(tmp_path):
    source = tiny("llama", num_key_value_heads=SIZES["num_attention_heads"])
    growth = GrowthConfig(width_method="clone", hidden_size=96, intermediate_size=120)
    report, ours, theirs, _ = grown_and_trained(source, growth, tmp_path)
    assert report.approximate == 0
    assert max(worst(ours, theirs, key) for key in ("exp_avg", "exp_avg_sq")) < 1e-5


def test_silent_layers_begin_anew_and_the_old_ones_keep_their_state(tmp_path):
    growth = GrowthConfig(depth=2, depth_method="identity")
    report, ours, theirs, order = grown_and_trained(tiny("llama"), growth, tmp_path)
    assert (report.exact, report.approximate, report.new) == (30, 0, 27)
    for number, state in ours["state"].items():
        name = order[number]
        if any(f"layers.{layer}." in name for layer in (1, 3, 5)):
            assert state["step"] == 0
            assert not state["exp_avg"].any()
        else:
            assert torch.allclose(state["exp_avg"], theirs["state"][number]["exp_avg"], rtol=1e-5, atol=1e-9)


def test_old_units_keep_their_moments_when_silent_ones_are_added(tmp_path):
    growth = GrowthConfig(width_method="zero_pad", hidden_size=60, intermediate_size=53)
    report, ours, theirs, order = grown_and_trained(tiny("llama"), growth, tmp_path)
    assert report.approximate == 30
    assert "those of old ones are exact" in report.notes[0]
    number = order.index("model.layers.1.mlp.down_proj.weight")
    for key in ("exp_avg", "exp_avg_sq"):
        mine, real = (state["state"][number][key][:48, :40] for state in (ours, theirs))
        assert ((mine - real).abs().max() / real.abs().max()).item() < 1e-5


@pytest.mark.parametrize(
    ("growth", "why"),
    [
        (GrowthConfig(width=2), "split are unequal"),
        (GrowthConfig(depth=2), "change the function"),
        (GrowthConfig(width=2, width_method="clone"), "serve different ones"),
    ],
    ids=["split", "stack", "shared key heads"],
)
def test_what_has_no_exact_rule_is_named_approximate(growth, why, tmp_path):
    report, ours, theirs, _ = grown_and_trained(tiny("llama"), growth, tmp_path)
    assert report.approximate > 0
    assert any(why in note for note in report.notes)
    assert worst(ours, theirs, "exp_avg") > 1e-2  # it is not exact, and does not say it is


def test_an_asymmetric_reset_keeps_the_first_copy_alone(tmp_path):
    source = tiny("llama", num_key_value_heads=4)
    growth = GrowthConfig(width=2, width_method="clone")
    _, ours, theirs, order = grown_and_trained(source, growth, tmp_path, how="asymmetric")
    number = order.index("model.layers.0.mlp.up_proj.weight")
    mine, real = (state["state"][number]["exp_avg"] for state in (ours, theirs))
    assert torch.allclose(mine[::2, ::2], real[::2, ::2], rtol=1e-5, atol=1e-9)
    assert not mine[1::2].any()
    assert not mine[:, 1::2].any()
    assert (ours["state"][number]["exp_avg_sq"] > 0).all()


def test_a_reset_writes_nothing(tmp_path):
    report = grow_optimizer_state(tmp_path, tmp_path, GrowthConfig(width=2))
    assert report.file is None
    assert "fresh moments" in str(report)
    assert list(tmp_path.iterdir()) == []


class Blocks(torch.utils.data.Dataset):
    """The same 16 blocks of random tokens in every process."""

    def __len__(self):
        return 16

    def __getitem__(self, number):
        ids = torch.randint(3, 97, (16,), generator=torch.Generator().manual_seed(number))
        return {"input_ids": ids, "labels": ids}


def run_of(model, folder, steps, resume=None):
    """(losses by step, the optimizer's state) of a run of the Trainer."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, save_steps=2, logging_steps=1, per_device_train_batch_size=2,
        learning_rate=1e-3, lr_scheduler_type="constant", max_grad_norm=0, report_to=[], use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Blocks())
    trainer.train(resume_from_checkpoint=resume)
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    return losses, trainer.optimizer.state_dict()


def test_a_run_of_the_trainer_goes_on_with_the_grown_model_and_its_grown_state(tmp_path):
    source = tiny("llama", num_key_value_heads=SIZES["num_attention_heads"])
    expected, theirs = run_of(source, tmp_path / "base", 4)
    growth = GrowthConfig(width=2, width_method="clone")
    checkpoint, grown = tmp_path / "base/checkpoint-2", tmp_path / "grown"
    grow_checkpoint(checkpoint, grown, growth)
    assert grow_optimizer_state(checkpoint, grown, growth, how="grow").approximate == 0
    for name in ("trainer_state.json", "scheduler.pt", "rng_state.pth"):  # the position in the run, for those who go on
        shutil.copy(checkpoint / name, grown / name)
    wide = AutoModelForCausalLM.from_pretrained(grown, dtype=source.dtype)
    losses, state = run_of(wide, tmp_path / "more", 4, resume=str(grown))
    # Step 3 sees the same text with the same function; after it the rate of the copies differs (growth.learning_rate).
    assert losses[3] == pytest.approx(expected[3], rel=1e-4)
    assert all(moments["step"] == 4 for moments in state["state"].values())
    assert len(state["state"]) == len(theirs["state"])


class Evil:
    def __reduce__(self):
        return print, ("code of the file ran",)


def test_what_is_no_state_of_adam_is_refused(tmp_path, capsys):
    source, growth = tiny("llama"), GrowthConfig(width=2, width_method="clone")
    source.save_pretrained(tmp_path / "base")
    bootstrap_from_pretrained(source, growth, verify=False).save_pretrained(tmp_path / "grown")

    def refused(error, match, **fields):
        with pytest.raises(error, match=match):
            grow_optimizer_state(tmp_path / "base", tmp_path / "grown", **{"config": growth, "how": "grow", **fields})

    refused(StoreError, "save_only_model")
    refused(GrowthError, "'reset', 'grow' or 'asymmetric'", how="keep")
    refused(GrowthError, "is not this growth of the source", config=GrowthConfig(width=3, width_method="clone"))
    file = tmp_path / "base" / OPTIMIZER_FILE
    torch.save({"state": {0: Evil()}, "param_groups": []}, file)
    refused(CorruptFileError, "tensors and numbers")
    assert "ran" not in capsys.readouterr().out
    file.write_bytes(b"not a state")
    refused(CorruptFileError, "tensors and numbers")
    state = after_steps(source, 1)
    state["param_groups"] = state["param_groups"][:1]
    torch.save(state, file)
    refused(UnsupportedModelError, "which state belongs to which parameter")
    state = after_steps(source, 1)
    state["state"][0] = {"momentum_buffer": torch.zeros(2)}
    torch.save(state, file)
    refused(UnsupportedModelError, "not Adam's state")
    assert not (tmp_path / "grown" / OPTIMIZER_FILE).exists()
