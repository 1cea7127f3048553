"""The callback works in a plain Trainer, and what it writes can be trusted."""

import functools
import re

import pytest
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_bootstrap import ScalingCallback
from hf_bootstrap.errors import DataError, RecordError, TrainingError
from hf_bootstrap.store import read_points
from hf_bootstrap.training import callback as module
from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.forecast import Forecaster


def trainer(model, study, output, callback, **changes):
    args = {
        "max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 4, "report_to": [],
        "save_strategy": "steps", "save_steps": 4, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output), **{**args, **changes}),
        train_dataset=PackedBlocks(study / "train.safetensors", 16),
        callbacks=[callback],
    )


def callback(study, **changes):
    held = {"held": PackedBlocks(study / "held.safetensors", 16, keep_tail=True)}
    return ScalingCallback(held, **{"base_tokens": 5000, "marks": [64, 128], **changes})


def points(output):
    read = read_points(output / "points.jsonl")
    assert not read.problems
    return read.points


def test_any_trainer_gives_points_and_logs_the_counts(model, study, tmp_path):
    run = trainer(model, study, tmp_path, callback(study, domain="words"))
    run.train()
    assert [(p.tokens, p.phase, p.base_tokens, p.domain) for p in points(tmp_path)] == [
        (64, "decay", 5000, "words"),
        (128, "decay", 5000, "words"),
        (256, "end", 5000, "words"),
    ]
    logged = [(e["step"], e["tokens"], e["token_slots"]) for e in run.state.log_history if "loss" in e]
    assert logged == [(2, 64, 68), (4, 128, 136), (8, 256, 272)]


def test_accumulation_does_not_change_the_points(model, study, tmp_path):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = []
    for size, steps in ((8, 1), (1, 8), (2, 4)):
        model.load_state_dict(weights)
        output = tmp_path / str(size)
        trainer(
            model, study, output, callback(study, marks=[256]), max_steps=6, save_strategy="no",
            per_device_train_batch_size=size, gradient_accumulation_steps=steps, train_sampling_strategy="sequential",
        ).train()  # fmt: skip
        losses.append([(p.tokens, p.loss) for p in points(output)])
    assert losses[0] == [(t, pytest.approx(v, rel=1e-5)) for t, v in losses[1]]
    assert losses[0] == [(t, pytest.approx(v, rel=1e-5)) for t, v in losses[2]]


def test_resume_counts_on_and_measures_nothing_twice(model, study, tmp_path):
    trainer(model, study, tmp_path, callback(study)).train()
    straight = points(tmp_path)
    trainer(model, study, tmp_path, callback(study)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert points(tmp_path) == straight


def test_a_checkpoint_saved_without_the_callback_is_refused(model, study, tmp_path):
    bare = trainer(model, study, tmp_path, callback(study))
    bare.callback_handler.callbacks = [c for c in bare.callback_handler.callbacks if not isinstance(c, ScalingCallback)]
    bare.train()
    with pytest.raises(TrainingError, match="without ScalingCallback"):
        trainer(model, study, tmp_path, callback(study)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_folder_with_points_of_another_run_is_refused(model, study, tmp_path):
    trainer(model, study, tmp_path, callback(study, run_id="one")).train()
    with pytest.raises(TrainingError, match="one file is one run"):
        trainer(model, study, tmp_path, callback(study, run_id="two")).train()


def test_a_point_torn_by_a_crash_is_measured_again_on_resume(model, study, tmp_path):
    trainer(model, study, tmp_path, callback(study)).train()
    straight = points(tmp_path)
    file = tmp_path / "points.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    trainer(model, study, tmp_path, callback(study)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [(p.step, p.loss) for p in read_points(file).points] == [(p.step, p.loss) for p in straight]


def test_the_version_of_this_package_changes_with_its_code(tmp_path, monkeypatch):
    from hf_bootstrap.training import facts

    def told(source):
        (tmp_path / "training" / "other.py").write_text(source)
        facts._code_digest.cache_clear()
        return facts.versions()["hf_bootstrap"]

    (tmp_path / "training").mkdir()
    monkeypatch.setattr(facts, "__file__", str(tmp_path / "training" / "facts.py"))
    try:
        one, two, again = told("a = 1"), told("a = 2"), told("a = 1")
    finally:
        facts._code_digest.cache_clear()
    assert one == again != two
    assert re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{8}", one)


def test_facts_that_are_no_field_of_a_point_get_a_suggestion(study):
    with pytest.raises(RecordError, match="Did you mean 'domain'"):
        callback(study, domian="words")


def test_without_evaluation_sets_there_is_nothing_to_measure():
    with pytest.raises(RecordError, match="measures nothing"):
        ScalingCallback({}, base_tokens=0)


def test_what_packed_data_and_the_model_know_need_not_be_said(model, study, tmp_path):
    held = PackedBlocks(study / "held.safetensors", 16, keep_tail=True)
    run = trainer(model, study, tmp_path, callback(study, marks=[64]))
    run.train()
    point = points(tmp_path)[0]
    assert (point.sequence_length, point.batch_tokens, point.replay_ratio) == (16, 32, 0.0)
    assert point.packing == "joined by end-of-text, attention crosses documents"
    assert point.hashes["eval_set"] == held.facts.hash
    assert set(point.hashes) == {"data", "tokenizer", "eval_set"}
    assert point.flops == pytest.approx(point.tokens * 6 * (point.n_params - 300 * 16 - 5 * 16 + 2 * 16 * 16), rel=1e-6)
    assert (point.mfu, point.n_params_base) == (None, None)


def test_every_field_of_a_point_is_filled_or_known_to_stay_empty(model, study, tmp_path):
    known = {"run_id": "r", "parent_run_id": "p", "base_run_id": "b", "base_checkpoint_id": "b/1", "base_decayed": True}
    known |= {"domain": "words", "n_params_base": 7, "optimizer_reset": True, "attention_reason": "asked for"}
    trainer(model, study, tmp_path, callback(study, rewarm_tokens=0, **known)).train()
    last = points(tmp_path)[-1].to_dict()
    assert {name for name, value in last.items() if value is None} == {"mfu"}, "no peak is known of a CPU"


def test_trackers_and_history_get_the_numbers_of_each_point(model, study, tmp_path):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    measure = callback(study, marks=[96])
    run = trainer(model, study, tmp_path, measure)
    run.callback_handler.callbacks.insert(1, Tracker())  # as Trainer places those of report_to
    measure.lead(run)
    run.train()
    of_points = {entry["tokens"]: entry for entry in seen if "eval_held_loss" in entry}
    assert [(p.tokens, p.loss, p.flops, p.bits_per_byte) for p in points(tmp_path)] == [
        (tokens, e["eval_held_loss"], e["flops"], e["bits_per_byte"]) for tokens, e in of_points.items()
    ]


def test_each_evaluation_of_the_trainer_is_a_point(model, study, tmp_path):
    run = trainer(model, study, tmp_path, callback(study, marks=[]))
    run.args.eval_strategy, run.args.eval_steps = IntervalStrategy.STEPS, 3
    run.eval_dataset = PackedBlocks(study / "held.safetensors", 16)
    run.train()
    assert [p.step for p in points(tmp_path)] == [3, 6, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-4}, r"peak_lr 0.001, and it is 0.0001"),
        ({"seed": 7}, "seed 42, and it is 7"),
        ({"per_device_train_batch_size": 4}, "batch_tokens 32, and it is 64"),
        ({"gradient_accumulation_steps": 3}, "batch_tokens 32, and it is 96"),
    ],
)
def test_a_run_that_is_trained_otherwise_does_not_go_on_in_the_same_file(model, study, tmp_path, change, message):
    trainer(model, study, tmp_path, callback(study)).train()
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    for resume in (None, str(tmp_path / "checkpoint-4")):
        with pytest.raises(TrainingError, match=message):
            trainer(model, study, tmp_path, callback(study), **change).train(resume_from_checkpoint=resume)
    assert not seen, "nothing was computed"


def test_another_text_in_the_same_folder_is_refused(model, study, tmp_path):
    trainer(model, study, tmp_path, callback(study)).train()
    other = trainer(model, study, tmp_path, callback(study))
    other.train_dataset = PackedBlocks(study / "held.safetensors", 16)
    with pytest.raises(TrainingError, match="hash of data"):
        other.train()


def test_every_held_out_text_has_its_hash_and_may_not_change(model, study, tmp_path):
    def measure(second):
        sets = {name: PackedBlocks(study / f"{name}.safetensors", 16, keep_tail=True) for name in ("held", second)}
        return ScalingCallback(dict(zip(("held", "base"), sets.values(), strict=True)), base_tokens=0, marks=[])

    trainer(model, study, tmp_path, measure("train"), max_steps=2).train()
    hashes = points(tmp_path)[0].hashes
    assert set(hashes) == {"data", "tokenizer", "eval_set", "eval_set/base"}
    assert hashes["eval_set/base"] == hashes["data"] != hashes["eval_set"]
    changed = measure("train")
    changed.eval_datasets["base"] = changed.eval_datasets["held"]
    with pytest.raises(TrainingError, match="hash of eval_set/base"):
        trainer(model, study, tmp_path, changed, max_steps=2).train()


def test_another_tokenizer_in_the_same_folder_is_refused(model, study, tmp_path):
    trainer(model, study, tmp_path, callback(study, hashes={"tokenizer": "a"})).train()
    with pytest.raises(TrainingError, match="hash of tokenizer a, and it is b"):
        trainer(model, study, tmp_path, callback(study, hashes={"tokenizer": "b"})).train()


def test_data_that_does_not_fit_is_refused_before_a_step(model, study, tmp_path):
    model.config.vocab_size = 100
    with pytest.raises(DataError, match="vocabulary ends at 99"):
        trainer(model, study, tmp_path, callback(study)).train()
    assert not (tmp_path / "points.jsonl").exists()


def test_a_gradient_that_is_no_number_stops_the_run(model, study, tmp_path):
    with pytest.raises(TrainingError, match="the run diverged"):
        trainer(model, study, tmp_path, callback(study), max_steps=200, learning_rate=1e30, logging_steps=1).train()


@pytest.mark.parametrize("mark", [33, 1000, *(pytest.param(mark, marks=pytest.mark.slow) for mark in (32, 300, 2500))])
def test_a_mark_is_found_at_the_first_step_past_it_though_counts_are_seldom_summed(model, study, tmp_path, mark):
    measure = callback(study, marks=[mark])
    sums = []
    total = measure._counter.totals
    measure._counter.totals = lambda: sums.append(1) or total()
    trainer(model, study, tmp_path, measure, max_steps=100, logging_steps=1000, save_strategy="no").train()
    assert points(tmp_path)[0].tokens == -(-mark // 32) * 32
    assert len(sums) < 30


def test_the_step_that_a_trainer_adds_when_it_resumes_its_end_gives_no_point(model, study, tmp_path):
    trainer(model, study, tmp_path, callback(study)).train()
    straight = points(tmp_path)
    again = trainer(model, study, tmp_path, callback(study))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert again.state.global_step == 9, "transformers mended it: the guard can go"
    assert points(tmp_path) == straight


class Interrupt(TrainerCallback):
    """Ctrl-C after a step, once."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.step = None
            raise KeyboardInterrupt


def test_a_trainer_that_was_interrupted_and_trains_again_counts_each_token_once(model, study, tmp_path):
    marks = [64, 128, 160, 192]
    trainer(model, study, tmp_path / "straight", callback(study, marks=marks)).train()
    run = trainer(model, study, tmp_path / "out", callback(study, marks=marks))
    run.add_callback(Interrupt(5))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    straight, broken = points(tmp_path / "straight"), points(tmp_path / "out")
    assert [(p.step, p.tokens) for p in broken] == [(p.step, p.tokens) for p in straight]
    assert broken[-1].tokens == 256


def test_a_request_is_held_to_before_the_first_point(model, study, tmp_path):
    run = trainer(model, study, tmp_path, callback(study, marks=[200]))
    run.add_callback(Interrupt(5))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert not (tmp_path / "points.jsonl").exists()
    for change, message in (
        ({"per_device_train_batch_size": 1}, "batch_tokens 32, and it is 16"),
        ({"bf16": True}, "autocast no, and it is bf16"),
    ):
        with pytest.raises(TrainingError, match=message):
            trainer(model, study, tmp_path, callback(study), **change).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-4")
            )


def test_the_phase_of_a_resumed_run_is_that_of_one_that_was_never_stopped(model, study, tmp_path):
    def run(output):
        return trainer(model, study, output, callback(study, marks=[32, 160, 192]), warmup_steps=2)

    run(tmp_path / "straight").train()
    broken = run(tmp_path / "out")
    broken.add_callback(Interrupt(5))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    (tmp_path / "out" / "points.jsonl").unlink()
    run(tmp_path / "out").train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    phases = {p.step: p.phase for p in points(tmp_path / "straight")}
    assert phases == {1: "warmup", 5: "decay", 6: "decay", 8: "end"}
    assert {p.step: p.phase for p in points(tmp_path / "out")} == {5: "decay", 6: "decay", 8: "end"}


def losing(study, **changes):
    """Marks enough for a forecast, and the whole of the run's time for making it."""
    return callback(study, marks=[32, 64, 96, 128, 160, 192, 256, 320, 384], forecast=True, **changes)


def test_a_forecast_reaches_the_logs_of_any_trainer(model, study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Forecaster", functools.partial(Forecaster, share=1e9))
    run = trainer(
        model, study, tmp_path, losing(study), max_steps=16, lr_scheduler_type="constant", logging_steps=1,
        learning_rate=3e-3, save_strategy="no",
    )  # fmt: skip
    run.train()
    found = [entry for entry in run.state.log_history if "forecast_loss" in entry]
    assert found, "nine points over a factor of twelve"
    assert all(entry["forecast_low"] < entry["forecast_loss"] < entry["forecast_high"] for entry in found)


def test_a_forecast_that_would_stay_silent_says_so_at_the_start(model, study, tmp_path):
    run = trainer(model, study, tmp_path, losing(study), save_strategy="no")
    with pytest.warns(UserWarning, match="with the schedule linear there is none: it stays silent"):
        run.train()
