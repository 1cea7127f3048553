"""Flags of the training entry point: each is heeded, or refused with the reason; in this process, for that is fast."""

import importlib.util
import json
import shutil
import sys

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainerState

from hf_bootstrap.errors import DataError, TrainingError
from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import train_tokenizer

from ..training.conftest import DOCUMENTS, MODEL
from .pages import ROOT

pytestmark = pytest.mark.filterwarnings("default")
STEP = 2 * 16


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A model with its tokenizer, and texts."""
    folder = tmp_path_factory.mktemp("material")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"})).save_pretrained(
        folder / "base"
    )
    train_tokenizer(DOCUMENTS, 300, folder / "base")
    for name, texts in {"train": DOCUMENTS[:50], "short": DOCUMENTS[:3], "held": DOCUMENTS[50:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "other.jsonl").write_text('{"body": "no text here"}\n')
    return folder


@pytest.fixture
def cpt(material, tmp_path, monkeypatch):
    """Call the entry point as its users do; gives the points of its output folder."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    found = importlib.util.spec_from_file_location("cpt_example", ROOT / "examples/cpt.py")
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "cpt_example", module)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "follow_launcher", lambda: None)

    def call(*words, output="out"):
        monkeypatch.setattr(sys, "argv", ["cpt.py", *map(str, words)])
        module.main()
        read = read_points(tmp_path / output / "points.jsonl")
        assert not read.problems
        return read.points

    call.module = module
    return call


SMALL = {"block_size": 16, "per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True}
TEXTS = {"train_file": "train.jsonl", "validation_file": "held.jsonl"}
BASE = {"model_name_or_path": "base", "base_tokens": "1M"}
RUN = {**BASE, **TEXTS, **SMALL, "output_dir": "out", "learning_rate": 1e-3, "max_tokens": 40 * STEP}


def words(**changes):
    flags = {**RUN, **changes}
    return [word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))]


def measured(points):
    """What a point says of the run, whatever the clock and the name."""
    aside = {"run_id", "tokens_per_second", "mfu"}
    return [{k: v for k, v in point.to_dict().items() if k not in aside} for point in points]


def test_flags_and_the_same_flags_as_yaml_are_one_run(cpt, tmp_path):
    flags = {k: v for k, v in RUN.items() if k not in ("per_device_train_batch_size", "learning_rate")}
    flags |= {"lr_scheduler_kwargs": None, "report_to": ["none"], "output_dir": "yaml"}
    text = yaml.safe_dump(flags) + "learning_rate: 5e-4\n"
    (tmp_path / "flags.yaml").write_text(text)
    as_yaml = cpt("flags.yaml", output="yaml")
    as_flags = cpt(*words(per_device_train_batch_size=None, learning_rate="5e-4"))
    assert measured(as_yaml) == measured(as_flags)
    assert (as_yaml[-1].peak_lr, as_yaml[-1].batch_tokens, as_yaml[-1].phase) == (5e-4, 4 * 16, "end")


def test_yaml_without_a_rate_takes_the_advised_one(cpt, tmp_path):
    (tmp_path / "flags.yml").write_text(yaml.safe_dump({**RUN, "learning_rate": None}))
    (point,) = cpt("flags.yml")
    assert point.peak_lr > 1e-5
    assert point.schedule.startswith("warmup-stable-decay linear")


@pytest.mark.parametrize(
    ("text", "message"),
    [("learning_rat: 1", "Did you mean 'learning_rate'"), ("- 1", "not flags"), ("a: [", "cannot be read as YAML")],
)
def test_a_yaml_file_that_is_no_flags_is_refused(cpt, tmp_path, text, message):
    (tmp_path / "flags.yaml").write_text(text)
    with pytest.raises(TrainingError, match=message):
        cpt("flags.yaml")


@pytest.mark.parametrize("accumulation", [1, 3])
def test_text_that_is_read_twice_trains_every_token_that_was_planned(cpt, accumulation):
    (point,) = cpt(*words(train_file="short.jsonl", max_tokens=60 * STEP, gradient_accumulation_steps=accumulation))
    assert (point.tokens, point.phase) == (60 * STEP, "end")


def test_each_evaluation_asked_for_is_a_point_and_costs_no_second_scoring(cpt, monkeypatch, tmp_path):
    scored = []
    import hf_bootstrap.training.callback as callback

    evaluate = callback.evaluate
    monkeypatch.setattr(callback, "evaluate", lambda *args, **more: scored.append(1) or evaluate(*args, **more))
    points = cpt(*words(eval_strategy="steps", eval_steps=16, save_steps=40))
    assert [point.step for point in points] == [16, 32, 40]
    assert len(scored) == 3
    history = TrainerState.load_from_json(str(tmp_path / "out/checkpoint-40/trainer_state.json")).log_history
    told = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert told == {point.step: point.loss for point in points}


def test_an_evaluation_after_each_pass_is_a_point_too(cpt):
    points = cpt(*words(train_file="short.jsonl", max_tokens=60 * STEP, eval_strategy="epoch"))
    assert len(points) > 2
    assert points[1].step == 2 * points[0].step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_tokens": None}, "base needs --base_tokens"),
        ({"model_name_or_path": None}, "--base_tokens, --train_file, --validation_file without --model_name_or_path"),
        ({"model_name_or_path": None, "base_tokens": None, "train_file": None, "validation_file": None,
          "replay_file": "held.jsonl"}, "--replay_file without --model_name_or_path"),
        ({"dataset_name": "wikitext"}, "--train_file train.jsonl and --dataset_name wikitext are both given"),
        ({"train_file": None}, "no text to train on"),
        ({"validation_file": None}, "no held-out text"),
        ({"replay_ratio": "0.1"}, "--replay_ratio 0.1 is not heeded without --replay_file"),
        ({"max_train_samples": 3}, "--max_train_samples 3 is not heeded without --dataset_name"),
        ({"train_file": "other.jsonl"}, "has no column 'text'. Known: body. Rename"),
        ({"max_steps": 3}, f"--max_tokens {40 * STEP} and --max_steps 3 both say"),
        ({"num_train_epochs": 2}, "--num_train_epochs 2.0 is not heeded here: how long"),
        ({"auto_find_batch_size": True}, "--auto_find_batch_size True is not heeded here"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "--save_strategy best is not heeded"),
        ({"resume_from_checkpoint": "nowhere"}, "--resume_from_checkpoint nowhere is no folder here"),
        ({"per_device_train_batch_size": 5000, "max_tokens": None, "max_steps": 3}, "one step takes 5,000"),
        ({"max_tokens": 31}, "--max_tokens 31 is less than one step"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_heed_is_refused_with_the_reason(cpt, tmp_path, changes, message):
    with pytest.raises((DataError, TrainingError), match=message):
        cpt(*words(**changes))
    assert not (tmp_path / "out/points.jsonl").exists()


def test_steps_say_how_long_as_tokens_do(cpt):
    (point,) = cpt(*words(max_tokens=None, max_steps=12))
    assert point.tokens == 12 * STEP
    assert f"/{12 * STEP}/" in point.schedule


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"save_steps": 0.5}, [20, 40]),
        ({"save_strategy": "epoch", "train_file": "short.jsonl"}, None),
        ({"save_strategy": "no"}, []),
    ],
)
def test_checkpoints_come_when_they_are_asked_for(cpt, tmp_path, changes, steps):
    cpt(*words(save_total_limit=9, **changes))
    found = sorted(int(path.parent.name.partition("-")[2]) for path in tmp_path.glob("out/checkpoint-*/complete.json"))
    assert found == steps if steps is not None else len(found) > 1


@pytest.mark.parametrize(("said", "tokens"), [(0.2, 8 * STEP), (3, 3 * STEP)])
def test_a_warm_up_is_steps_or_a_share_of_them(cpt, said, tokens):
    (point,) = cpt(*words(warmup_steps=said))
    assert point.rewarm_tokens == tokens
    assert point.schedule.startswith(f"warmup-stable-decay linear {tokens}/")


def test_a_rate_that_never_rose_has_no_re_warm(cpt):
    (point,) = cpt(*words(lr_scheduler_type="linear"))
    assert (point.rewarm_tokens, point.schedule) == (None, "linear")


def test_rates_of_tensors_that_grew_are_named_in_the_schedule(cpt, tmp_path):
    (tmp_path / "growth.yaml").write_text("width: 2\n")
    (point,) = cpt(*words(growth="growth.yaml", max_tokens=10 * STEP))
    assert ", times 0.5 or more for " in point.schedule


def test_the_attention_asked_for_is_taken(cpt):
    (point,) = cpt(*words(attn_implementation="eager", max_tokens=10 * STEP))
    assert (point.attention, point.attention_reason) == ("eager", "asked for")


def scale(folder, factor):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_device_train_batch_size": 4, "max_tokens": 80 * STEP}, f"batch_tokens {STEP}, and it is {2 * STEP}"),
        ({"max_tokens": 20 * STEP}, "stands at step 32, and the run is to end at 20"),
        ({"bf16": True}, "autocast no, and it is bf16"),
        ({"seed": 7}, "seed 42, and it is 7"),
        ({}, "hash of base"),
    ],
)
def test_a_folder_of_another_request_is_refused_before_it_has_a_point(cpt, tmp_path, changes, message):
    cpt(*words(save_steps=16))
    (tmp_path / "out/points.jsonl").unlink()  # as long as no mark was reached
    if not changes:
        scale(tmp_path / "base", 0.9)
    with pytest.raises(TrainingError, match=message):
        cpt(*words(save_steps=16, **changes))


def test_a_request_nothing_came_of_may_be_changed(cpt, tmp_path):
    cpt(*words(save_strategy="no", max_tokens=10 * STEP))
    (tmp_path / "out/points.jsonl").unlink()
    assert cpt(*words(save_strategy="no", max_tokens=10 * STEP, seed=7))[-1].seed == 7


def test_a_decay_branches_from_a_checkpoint_of_another_run_and_says_so(cpt, tmp_path):
    trunk = cpt(*words(save_steps=8, save_total_limit=9))
    branch = {"output_dir": "branch", "resume_from_checkpoint": "out/checkpoint-16", "max_tokens": 24 * STEP}
    (end,) = cpt(*words(save_steps=8, **branch), output="branch")
    assert (end.parent_run_id, end.tokens, end.phase) == (trunk[0].run_id, 24 * STEP, "end")
    assert end.run_id != trunk[0].run_id
    (tmp_path / "branch/points.jsonl").unlink()
    shutil.rmtree(tmp_path / "branch/checkpoint-24")
    (again,) = cpt(*words(save_steps=8, **branch), output="branch")
    assert (again.parent_run_id, again.loss, again.run_id) == (end.parent_run_id, end.loss, end.run_id)
    with pytest.raises(TrainingError, match=r"peak_lr 0\.001, and it is 0\.002"):
        cpt(*words(**{**branch, "output_dir": "third"}, learning_rate=2e-3), output="third")


class Interrupt(TrainerCallback):
    """Ctrl-C after a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 21:
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_goes_on_with_the_same_command_to_the_same_end(cpt, monkeypatch, tmp_path):
    straight = cpt(*words(output_dir="straight", save_steps=8, eval_strategy="steps", eval_steps=10), output="straight")
    flags = words(save_steps=8, eval_strategy="steps", eval_steps=10)
    train = cpt.module.TokenTrainer.train

    def interrupted(self, *args, **more):
        self.add_callback(Interrupt())
        return train(self, *args, **more)

    with monkeypatch.context() as once:
        once.setattr(cpt.module.TokenTrainer, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cpt(*flags)
    assert [point.step for point in read_points(tmp_path / "out/points.jsonl").points] == [10, 20]
    assert measured(cpt(*flags)) == measured(straight)
