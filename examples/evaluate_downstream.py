"""Score a checkpoint on downstream tasks, and keep the scores beside the points of its run.

    pip install 'hf_bootstrap[eval]'
    python examples/evaluate_downstream.py --model_name_or_path out/checkpoint-500 --tasks hellaswag,arc_easy

It runs EleutherAI's lm-evaluation-harness and appends to out/scores.jsonl, beside out/points.jsonl. With a
folder of YAML tasks of your own, --include_path, nothing is fetched; a task may name Python code of its folder, so take
only what you trust. Without a model it trains a tiny one on sums for a moment and asks it for some.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_bootstrap import ScalingCallback
from hf_bootstrap.training.data import PackedBlocks, load_tokenizer, pack, train_tokenizer
from hf_bootstrap.training.downstream import append_scores, find_run, scores_from_harness

SUMS = """task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


def option(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class Arguments:
    """Which checkpoint, on what."""

    model_name_or_path: str | None = option("A checkpoint of a run, or its folder with the final model.")
    tasks: str = option("Names of tasks, with commas between them.", "sums")
    include_path: str | None = option("A folder with tasks of your own.")
    num_fewshot: int | None = option("Worked examples in the prompt; by default the task's own.")
    limit: int | None = option("Score so many samples of each task only.")
    batch_size: int = option("Samples at a time.", 8)
    dtype: str = option("Of the weights; by default the checkpoint's.", "auto")
    device: str | None = option("By default the GPU, if there is one.")


def main() -> None:
    given: Arguments
    (given,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SystemExit(
            f"{error}. Scores come from lm-evaluation-harness: pip install 'hf_bootstrap[eval]'"
        ) from error
    if given.model_name_or_path is None:
        given.model_name_or_path, given.include_path = make_an_example(Path("downstream-out"))
    path, facts = find_run(given.model_name_or_path)  # before anything is computed
    own = given.include_path is not None
    results = lm_eval.simple_evaluate(
        model=HFLM(
            pretrained=given.model_name_or_path, dtype=given.dtype, batch_size=given.batch_size,
            device=given.device or PartialState().device.type,
        ),
        tasks=given.tasks.split(","), num_fewshot=given.num_fewshot, limit=given.limit,
        task_manager=TaskManager(include_path=given.include_path, include_defaults=not own), log_samples=True,
    )  # fmt: skip
    if results is None:  # another process of the launcher has them
        return
    scores, left_out = scores_from_harness(results, facts)
    append_scores(path, scores)
    for score in scores:
        spread = f" +- {score.stderr:.3f}" if score.stderr is not None else ""
        where = f"step {score.step}, {score.tokens:,} tokens" if score.tokens is not None else f"step {score.step}"
        print(
            f"{score.task} {score.metric} ({score.filter}): {score.value:.3f}{spread}, {score.samples} samples, {where}"
        )
    print("\n".join([*left_out, f"Scores: {path}"]))


def make_an_example(folder: Path) -> tuple[str, str]:
    """A run of a moment, and a task that asks what it was trained on."""
    texts = [f"{a} plus {b} is {a + b}." for a in range(30) for b in range(30)]
    tokenizer = load_tokenizer(str(train_tokenizer(texts, 300, folder)))
    for name, part in (("train", texts[30:]), ("held_out", texts[:30])):
        pack(part, tokenizer, folder / f"{name}.safetensors")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=256, **shape))
    measure = ScalingCallback(
        {"held_out": PackedBlocks(folder / "held_out.safetensors", 32, keep_tail=True)}, base_tokens=0, method="scratch"
    )
    args = TrainingArguments(
        output_dir=str(folder), max_steps=40, learning_rate=3e-3, per_device_train_batch_size=8, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    train = PackedBlocks(folder / "train.safetensors", 32)
    trainer = Trainer(model=model, args=args, train_dataset=train, callbacks=[measure])
    trainer.train()
    trainer.save_model()
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    rows = [{"question": f"{a} plus 1 is", "choices": [f"{a + 1}.", f"{a + 3}."], "answer": 0} for a in range(30)]
    (tasks / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tasks / "sums.yaml").write_text(SUMS.replace("FILE", str((tasks / "sums.jsonl").absolute())))
    return str(folder), str(tasks)


if __name__ == "__main__":
    main()
