"""The callback works in a plain Trainer, and what it writes can be trusted."""

import pytest
from transformers import Trainer, TrainingArguments

from hf_bootstrap import ScalingCallback
from hf_bootstrap.errors import RecordError, TrainingError
from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import PackedBlocks


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
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert [(entry["tokens"], entry["token_slots"]) for entry in logged] == [(128, 136), (256, 272)]


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


def test_facts_that_are_no_field_of_a_point_get_a_suggestion(study):
    with pytest.raises(RecordError, match="Did you mean 'domain'"):
        callback(study, domian="words")


def test_without_evaluation_sets_there_is_nothing_to_measure():
    with pytest.raises(RecordError, match="measures nothing"):
        ScalingCallback({}, base_tokens=0)
