"""Continue a pretrained model, grown first if you like, and log scaling points.

    accelerate launch examples/cpt.py --model_name_or_path MODEL --base_tokens 6.5e9 \
        --train_file train.jsonl --validation_file held_out.jsonl --max_tokens 1B --output_dir out

Every TrainingArguments flag works too, or a YAML file of flags. Model and points.jsonl go to OUTPUT_DIR; started again
it goes on. Without a rate it takes the advised one; without a model, a tiny Llama and Python code found here, offline.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, TrainingArguments, default_data_collator

from hf_bootstrap import GrowthConfig, ScalingCallback, bootstrap_from_pretrained
from hf_bootstrap.errors import DataError
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.growth.learning_rate import factors_words, recorded_factors
from hf_bootstrap.growth.plan import plan_growth
from hf_bootstrap.store import RunFolder
from hf_bootstrap.study.text import python_code, split_documents
from hf_bootstrap.training import advice, attention, checkpoints, data, documents, freezing, prepare
from hf_bootstrap.training.isolation import check_isolation
from hf_bootstrap.training.launcher import follow_launcher
from hf_bootstrap.training.replay import Replay
from hf_bootstrap.training.schedule import Schedule
from hf_bootstrap.training.trainer import TokenTrainer
from hf_bootstrap.training.vocabulary import change_vocabulary
from hf_bootstrap.units import parse_count


def option(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class Arguments:
    """What to continue, on what, for how long."""

    model_name_or_path: str | None = option("Folder or Hub name of the base model.")
    tokenizer_name: str | None = option("Another tokenizer than the model's; rows of new tokens begin as the mean.")
    base_tokens: str = option("Tokens the base was trained on (D1), such as 6.5e9.", "0")
    base_decayed: bool | None = option("Whether the base's learning rate had been decayed.")
    base_peak_lr: float | None = option("The base's own peak learning rate.")
    growth: str | None = option("growth.yaml, or the folder or file of a growth_config.json.")
    train_file: str | None = option("Text to train on: .txt, .jsonl or .parquet, .gz too.")
    validation_file: str | None = option("Held-out text, all of it scored at every point: keep it short.")
    dataset_name: str | None = option("Instead of train_file: a data set of the Hub.")
    dataset_config_name: str | None = option("Its configuration.")
    max_train_samples: int | None = option("How many of its documents, from the start.")
    streaming: bool = option("Read it without keeping its files.", False)
    preprocessing_num_workers: int = option("Processes that tokenise.", 1)
    replay_file: str | None = option("Text of the base's domain to mix in, so that it forgets less.")
    replay_ratio: str = option("Share of blocks that are replayed.", "0.05")
    base_validation_file: str | None = option("Held-out text of the base's domain: its loss beside the target's.")
    block_size: int = option("Trained tokens of one block.", 128)
    isolate_documents: bool = option("Keep packed documents from seeing each other.", False)
    max_tokens: str = option("Trained tokens of this stage (D2), such as 1B.", "64k")
    method: str | None = option("Name in the points; by default from the growth.")
    lora_r: int = option("Rank of a LoRA to train instead of the model; 0 trains the model.", 0)
    only_new_layers: bool = option("Train only what an identity growth put in.", False)
    forecast: bool = option("Log where the run is going.", False)


def main() -> None:
    follow_launcher()  # a killed `accelerate launch` would leave this process behind
    parser = HfArgumentParser((Arguments, TrainingArguments))
    parser.set_defaults(
        output_dir="cpt-out", report_to="none", learning_rate=0.0, adam_beta2=0.95, weight_decay=0.1, logging_steps=20,
        per_device_train_batch_size=4, train_sampling_strategy="sequential", lr_scheduler_type="warmup_stable_decay",
    )  # fmt: skip
    from_file = len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml"))
    given, args = parser.parse_yaml_file(sys.argv[1]) if from_file else parser.parse_args_into_dataclasses()
    output = Path(args.output_dir)
    with args.main_process_first():
        files, tokenizer = pack_texts(given, output / "_text")  # a push leaves out what begins so: text is not for all
    sets = {
        n: data.PackedBlocks(path, given.block_size, keep_tail=n.startswith("held"), isolate=given.isolate_documents)
        for n, path in files.items()
    }
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size * given.block_size
    args.max_steps = parse_count(given.max_tokens, "--max_tokens") // step
    if args.max_steps < 1:
        raise DataError(f"--max_tokens {given.max_tokens} is less than one step, which trains {step:,}. Train longer.")
    train: Any = sets["train"]
    if given.replay_file:
        train = Replay(train, sets["replay"], given.replay_ratio, blocks=args.max_steps * step // given.block_size)
    if len(train) * given.block_size < args.max_steps * step:
        print(f"{len(train) * given.block_size:,} tokens of text: some will be seen more than once.")
    growth = GrowthConfig.from_pretrained(given.growth) if given.growth else GrowthConfig()
    toy = LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=2)
    base = bootstrap_from_pretrained(given.model_name_or_path or LlamaForCausalLM(toy), GrowthConfig())  # as it is
    if given.tokenizer_name:
        added = change_vocabulary(base, data.load_tokenizer(given.model_name_or_path), tokenizer)
        print(f"Another tokenizer, {added:,} tokens are new: compare and fit bits_per_byte, not loss.")
    model = bootstrap_from_pretrained(base, growth)
    dtype = None if args.bf16 or args.fp16 else model.dtype
    kernel = attention.choose_attention(dtype=dtype, isolated=given.isolate_documents)
    model.set_attn_implementation(kernel.name)
    if given.isolate_documents:
        check_isolation(model)
    if given.only_new_layers:
        freezing.train_only_new_layers(model)
    if given.lora_r:
        model = freezing.add_lora(model, given.lora_r)
    base_tokens = parse_count(given.base_tokens, "--base_tokens")
    advised = advice.advise_second_stage(
        n_params=measure_size(model).non_embedding, base_tokens=base_tokens, tokens=args.max_steps * step,
        batch_tokens=step, base_decayed=given.base_decayed, base_peak_lr=given.base_peak_lr,
        growth=plan_growth(base.config, growth).learning_rate if growth.grows else None, adam_beta2=args.adam_beta2,
    )  # fmt: skip
    args.learning_rate = args.learning_rate or advised.peak_lr.value
    warmup = int(args.warmup_steps * step if args.warmup_steps else advised.rewarm_tokens.value)
    schedule = None  # Trainer's own
    if args.lr_scheduler_type == "warmup_stable_decay" and not args.lr_scheduler_kwargs:
        decay = int(advised.decay_tokens.value)
        schedule = Schedule(tokens=args.max_steps * step, warmup_tokens=warmup, decay_tokens=decay)
    rates = recorded_factors(model.config, [name for name, _ in model.named_parameters()])
    if args.should_save:
        print(f"Attention: {kernel.name} ({kernel.reason})\n{advised}")
        print(f"Peak in use: {args.learning_rate:.3g}{factors_words(rates)}")
    method = "lora" if given.lora_r else "continue" if given.model_name_or_path else "scratch"
    grown = [str(growth.depth_method)] * growth.grows_depth + [f"expand-{growth.width_method}"] * growth.grows_width
    measure = ScalingCallback(
        {name: blocks for name, blocks in sets.items() if name.startswith("held")},
        base_tokens=base_tokens, method=given.method or "+".join(grown) or method, schedule=schedule,
        forecast=given.forecast, base_decayed=given.base_decayed, batch_tokens=step, attention_reason=kernel.reason,
        n_params_base=base.num_parameters() if given.model_name_or_path else None, attention=kernel.name,
        optimizer_reset=True if base_tokens else None, rewarm_tokens=warmup if base_tokens else None,
    )  # fmt: skip
    every = int(args.save_steps) if args.save_strategy == "steps" else 0
    args.save_strategy = "no"  # Checkpoints says when, so that the newest complete one is never the one removed
    trainer = TokenTrainer(
        model=model, args=args, train_dataset=train, data_collator=default_data_collator, schedule=schedule,
        batch_tokens=step, rate_factors=rates, processing_class=tokenizer,
        callbacks=[checkpoints.Checkpoints(every=every, newest=args.save_total_limit or 1), measure],
    )  # fmt: skip
    newest = [str(path) for path in RunFolder(output).checkpoints()[-1:]]
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or (newest[0] if newest else None))
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub()  # the points too: they lie in the same folder
    if args.should_save:
        print(f"Points: {output / 'points.jsonl'}")


def pack_texts(given: Arguments, folder: Path) -> tuple[dict[str, Path], Any]:
    """Token files by name, and the tokenizer that made them."""
    names = {"train": given.train_file, "held_out": given.validation_file}
    names |= {"replay": given.replay_file, "held_out_base": given.base_validation_file}
    if not given.model_name_or_path and not given.train_file and not given.dataset_name:
        found = split_documents(python_code())
        tokenizer = data.load_tokenizer(str(data.train_tokenizer(found.train[:300], 512, folder)))
        parts = {"train": found.train, "held_out": found.held_out[:20]}
        files = {n: prepare.pack_once(folder, n, "python code", lambda d=d: d, tokenizer) for n, d in parts.items()}
        return files, tokenizer
    source = given.train_file or given.dataset_name
    if None in (given.model_name_or_path, given.validation_file, source):
        raise DataError("Give --model_name_or_path, a text to train on, and held-out text as --validation_file.")
    tokenizer = data.load_tokenizer(given.tokenizer_name or given.model_name_or_path)
    workers = given.preprocessing_num_workers
    files = prepare.pack_files(folder, names, tokenizer, processes=workers)
    if given.dataset_name:
        asked = {
            "config": given.dataset_config_name,
            "documents": given.max_train_samples,
            "streaming": given.streaming,
        }
        files["train"] = prepare.pack_once(
            folder, "train", f"{given.dataset_name} {asked}",
            lambda: documents.read_hub_documents(given.dataset_name, **asked), tokenizer, processes=workers,
        )  # fmt: skip
    return files, tokenizer


if __name__ == "__main__":
    main()
    PartialState().destroy_process_group()  # when main's objects are gone: else gloo's threads can abort the exit
