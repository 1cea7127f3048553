"""Downstream scores say whose they are, and are those that a plain loop over the task finds."""

import dataclasses
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_bootstrap import ScalingCallback
from hf_bootstrap.errors import RecordError, TrainingError
from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import PackedBlocks
from hf_bootstrap.training.downstream import Score, append_scores, find_run, read_scores, scores_from_harness

from .conftest import MODEL

ROWS = [{"question": f"word{i} and", "choices": [f"{i}", "word", f"{i} X"], "answer": i % 3} for i in range(12)]
TASK = """
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 3}
"""


@pytest.fixture(scope="module")
def run(study, tokenizer_folder, tmp_path_factory):
    """A run of eight steps with a checkpoint at the fourth and the model at its end."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in MODEL.items() if k != "model_type"}))
    held = {"held": PackedBlocks(study / "held.safetensors", 16, keep_tail=True)}
    args = TrainingArguments(
        output_dir=str(folder), max_steps=8, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        save_steps=4, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    train = PackedBlocks(study / "train.safetensors", 16)
    trainer = Trainer(
        model=model, args=args, train_dataset=train, callbacks=[ScalingCallback(held, base_tokens=5000, marks=[])]
    )
    trainer.train()
    trainer.save_model()
    for place in (folder, folder / "checkpoint-4"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer_folder / name, place)
    return folder


def plain_accuracy(checkpoint, tokenizer):
    """The oracle: the likeliest continuation of each question, one at a time."""
    model, right = AutoModelForCausalLM.from_pretrained(checkpoint), 0
    for row in ROWS:
        nats = []
        for choice in row["choices"]:
            asked = tokenizer(row["question"])["input_ids"]
            whole = torch.tensor([tokenizer(f"{row['question']} {choice}")["input_ids"]])
            with torch.no_grad():
                logs = model(input_ids=whole).logits[0].log_softmax(-1)
            places = range(len(asked), whole.shape[1])
            nats.append(sum(logs[i - 1, whole[0, i]].item() for i in places))
        right += nats.index(max(nats)) == row["answer"]
    return right / len(ROWS)


@pytest.mark.filterwarnings("ignore")  # those of other libraries
def test_the_harness_scores_a_checkpoint_as_a_plain_loop_does_and_the_score_names_it(run, tokenizer, tmp_path):
    harness = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install -e '.[eval]'")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "words.yaml").write_text(TASK.replace("FILE", str(tmp_path / "words.jsonl")))
    path, facts = find_run(run / "checkpoint-4")
    results = harness.simple_evaluate(
        model=HFLM(pretrained=str(run / "checkpoint-4"), dtype="float32", device="cpu", batch_size=5),
        tasks=["words"], task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True, bootstrap_iters=0, limit=12,
    )  # fmt: skip
    scores, left_out = scores_from_harness(results, facts)
    append_scores(path, scores)
    assert (read_scores(run / "scores.jsonl"), left_out) == ((scores, []), [])
    (score,) = scores
    run_id = read_points(run / "points.jsonl").points[0].run_id
    assert score.value == plain_accuracy(run / "checkpoint-4", tokenizer)
    assert (score.run_id, score.step, score.base_tokens, score.tokens) == (run_id, 4, 5000, 4 * 32)
    assert (score.task, score.metric, score.task_version, score.num_fewshot) == ("words", "acc", "3", 0)
    assert (score.samples, score.samples_total, score.higher_is_better, score.stderr) == (12, 12, True, None)
    assert len(score.hashes["prompts"]) == 64
    assert score.versions["lm_eval"]


def test_the_model_at_the_end_of_a_run_belongs_to_its_last_point(run):
    path, facts = find_run(run)
    assert path == run / "scores.jsonl"
    assert (facts["step"], facts["tokens"], facts["base_tokens"]) == (8, 8 * 32, 5000)


def test_a_folder_without_points_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(TrainingError, match="no points beside it"):
        find_run(tmp_path / "checkpoint-4")


def test_what_is_no_number_is_named_and_left_out():
    results = {
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A", "ppl,none": float("inf")}},
        "lm_eval_version": "0.4.13",
    }
    scores, left_out = scores_from_harness(results, {"run_id": "r"})
    assert [(s.metric, s.value, s.stderr, s.samples) for s in scores] == [("acc", 0.5, None, None)]
    assert left_out == ["t: ppl,none is inf, which is no number."]


def test_a_score_measured_again_counts_once_and_a_damaged_line_is_named(tmp_path):
    score = Score(run_id="r", step=4, task="t", metric="loglikelihood", value=-2.5)
    newer, other = dataclasses.replace(score, value=-2.0), dataclasses.replace(score, num_fewshot=5)
    path = tmp_path / "scores.jsonl"
    append_scores(path, [score, other, newer])
    path.write_text(path.read_text() + path.read_text().splitlines()[0].replace("-2.5", "-9.5") + "\n")
    found, problems = read_scores(path)
    assert found == [newer, other]
    assert len(problems) == 1
    assert problems[0].startswith("line 4: ")


@pytest.mark.parametrize("change", [{"task": ""}, {"value": float("nan")}, {"samples": -1}, {"value": "0.5"}])
def test_a_score_that_says_nothing_is_refused(change):
    with pytest.raises(RecordError):
        Score(**{"run_id": "r", "task": "t", "metric": "acc", "value": 0.5, **change})
