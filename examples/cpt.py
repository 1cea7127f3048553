"""Continue a pretrained model, grown first if you like, and log scaling points.

    accelerate launch examples/cpt.py --model_name_or_path MODEL --base_tokens 6.5e9 \
        --train_file train.jsonl --validation_file held_out.jsonl --max_tokens 1B --output_dir out

Every TrainingArguments flag works too, or a YAML file of flags; what a run cannot heed is refused. Model and
points.jsonl go to OUTPUT_DIR; started again it goes on. Without a rate or a warm-up it takes the advised one; without a
model, a tiny Llama and Python code found here, offline.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import (
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from hf_bootstrap import GrowthConfig, ScalingCallback, bootstrap_from_pretrained
from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.growth.learning_rate import factors_words, recorded_factors
from hf_bootstrap.growth.plan import plan_growth
from hf_bootstrap.study.text import python_code, split_documents
from hf_bootstrap.training import advice, attention, checkpoints, data, flags, freezing, prepare
from hf_bootstrap.training.flags import option
from hf_bootstrap.training.isolation import check_isolation
from hf_bootstrap.training.launcher import follow_launcher
from hf_bootstrap.training.replay import Replay
from hf_bootstrap.training.request import weights_digest
from hf_bootstrap.training.schedule import Schedule
from hf_bootstrap.training.texts import Texts
from hf_bootstrap.training.trainer import TokenTrainer
from hf_bootstrap.training.vocabulary import change_vocabulary


@dataclass
class Arguments:
    """What to continue, how, and for how long."""

    model_name_or_path: str | None = option("Folder or Hub name of the base model.")
    tokenizer_name: str | None = option("Another tokenizer than the model's; rows of new tokens begin as the mean.")
    base_tokens: str | None = option("Tokens the base was trained on (D1), such as 6.5e9; needed with a model.")
    base_decayed: bool | None = option("Whether the base's learning rate had been decayed.")
    base_peak_lr: float | None = option("The base's own peak learning rate.")
    growth: str | None = option("growth.yaml, or the folder or file of a growth_config.json.")
    block_size: int = option("Trained tokens of one block.", 128)
    isolate_documents: bool = option("Keep packed documents from seeing each other.", False)
    attn_implementation: str | None = option("Instead of the best attention that runs here.")
    max_tokens: str | None = option("Trained tokens of this stage (D2), such as 1B; 64k if not said, nor max_steps.")
    method: str | None = option("Name in the points; by default from the growth.")
    lora_r: int = option("Rank of a LoRA to train instead of the model; 0 trains the model.", 0)
    only_new_layers: bool = option("Train only what an identity growth put in.", False)
    forecast: bool = option("Log where the run is going.", False)


def main() -> None:
    follow_launcher()  # a killed `accelerate launch` would leave this process behind
    given, texts, args = flags.read_flags(
        HfArgumentParser((Arguments, Texts, TrainingArguments)),
        output_dir="cpt-out", report_to="none", learning_rate=0.0, adam_beta2=0.95, weight_decay=0.1, logging_steps=20,
        per_device_train_batch_size=4, train_sampling_strategy="sequential", lr_scheduler_type="warmup_stable_decay",
    )  # fmt: skip
    named = given.model_name_or_path
    of_base = {name: getattr(given, name) for name in ("tokenizer_name", "base_decayed", "base_peak_lr")}
    base_tokens = flags.check_base(named, given.base_tokens, {**of_base, **texts.said()})
    output = Path(args.output_dir)
    newest = checkpoints.resume_point(output, args.resume_from_checkpoint)
    set_seed(args.seed)
    with args.main_process_first():
        files, tokenizer = pack_texts(given, texts, output / "_text")  # a push leaves out what begins with _
    sets = {
        n: data.PackedBlocks(path, given.block_size, keep_tail=n.startswith("held"), isolate=given.isolate_documents)
        for n, path in files.items()
    }
    blocks = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    step = blocks * given.block_size
    flags.settle_steps(args, given.max_tokens, step, default="64k")
    train: Any = sets["train"]
    if texts.replay_file:
        train = Replay(train, sets["replay"], texts.replay_ratio or "0.05", blocks=args.max_steps * blocks)
    train = data.WholeSteps(train, blocks)
    every = checkpoints.save_interval(args, len(train) // blocks)
    if len(train) < args.max_steps * blocks:
        print(f"{len(train) * given.block_size:,} tokens of text: some will be seen more than once.")
    growth = GrowthConfig.from_pretrained(given.growth) if given.growth else GrowthConfig()
    toy = LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=2)
    base = bootstrap_from_pretrained(named or LlamaForCausalLM(toy), GrowthConfig())  # as it is
    hashes = {"base": weights_digest(base)} if named else {}
    if given.tokenizer_name:
        added = change_vocabulary(base, data.load_tokenizer(named), tokenizer)
        print(f"Another tokenizer, {added:,} tokens are new: compare and fit bits_per_byte, not loss.")
    model = bootstrap_from_pretrained(base, growth)
    dtype = model.dtype if args.mixed_precision == "no" else None
    kernel = attention.give_attention(model, given.attn_implementation, dtype=dtype, isolated=given.isolate_documents)
    if given.isolate_documents:
        check_isolation(model)
    if given.only_new_layers:
        freezing.train_only_new_layers(model)
    if given.lora_r:
        model = freezing.add_lora(model, given.lora_r)
    advised = advice.advise_second_stage(
        n_params=measure_size(model).non_embedding, base_tokens=base_tokens, tokens=args.max_steps * step,
        batch_tokens=step, base_decayed=given.base_decayed, base_peak_lr=given.base_peak_lr,
        growth=plan_growth(base.config, growth).learning_rate if growth.grows else None, adam_beta2=args.adam_beta2,
    )  # fmt: skip
    args.learning_rate = args.learning_rate or advised.peak_lr.value
    warmup = int(args.get_warmup_steps(args.max_steps) * step or advised.rewarm_tokens.value)
    schedule = None  # Trainer's own
    if args.lr_scheduler_type == "warmup_stable_decay" and not args.lr_scheduler_kwargs:
        decay = int(advised.decay_tokens.value)
        schedule = Schedule(tokens=args.max_steps * step, warmup_tokens=warmup, decay_tokens=decay)
    rates = recorded_factors(model.config, [name for name, _ in model.named_parameters()])
    if args.should_save:
        print(f"Attention: {kernel.name} ({kernel.reason})\n{advised}")
        print(f"Peak in use: {args.learning_rate:.3g}{factors_words(rates)}")
    method = "lora" if given.lora_r else "continue" if named else "scratch"
    grown = [str(growth.depth_method)] * growth.grows_depth + [f"expand-{growth.width_method}"] * growth.grows_width
    measure = ScalingCallback(
        {name: held for name, held in sets.items() if name.startswith("held")},
        base_tokens=base_tokens, method=given.method or "+".join(grown) or method, schedule=schedule,
        forecast=given.forecast, base_decayed=given.base_decayed, batch_tokens=step, attention_reason=kernel.reason,
        n_params_base=base.num_parameters() if named else None, attention=kernel.name,
        optimizer_reset=True if base_tokens else None, hashes=hashes,
    )  # fmt: skip
    args.save_strategy = "no"  # Checkpoints says when, so that the newest complete one is never the one removed
    trainer = TokenTrainer(
        model=model, args=args, train_dataset=train, eval_dataset=sets["held_out"],
        data_collator=default_data_collator, schedule=schedule, batch_tokens=step, rate_factors=rates,
        processing_class=tokenizer,
        callbacks=[checkpoints.Checkpoints(every=every, newest=args.save_total_limit or 1), measure],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=newest)
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub()  # the points too: they lie in the same folder
    if args.should_save:
        print(f"Points: {output / 'points.jsonl'}")


def pack_texts(given: Arguments, texts: Texts, folder: Path) -> tuple[dict[str, Path], Any]:
    """Token files by name, and the tokenizer that made them."""
    if given.model_name_or_path:
        texts.check()
        tokenizer = data.load_tokenizer(given.tokenizer_name or given.model_name_or_path)
        return texts.pack(folder, tokenizer), tokenizer
    found = split_documents(python_code())
    tokenizer = data.load_tokenizer(str(data.train_tokenizer(found.train[:300], 512, folder)))
    parts = {"train": found.train, "held_out": found.held_out[:20]}
    return {
        n: prepare.pack_once(folder, n, "python code", lambda d=d: d, tokenizer) for n, d in parts.items()
    }, tokenizer


if __name__ == "__main__":
    main()
    PartialState().destroy_process_group()  # when main's objects are gone: else gloo's threads can abort the exit
