"""Continue a pretrained model, grown first if you like, and log scaling points.

    accelerate launch examples/cpt.py --model_name_or_path MODEL --base_tokens 6.5e9 \
        --train_file train.jsonl --validation_file held_out.jsonl --max_tokens 1B --output_dir out

Every TrainingArguments flag works too. Points go to OUTPUT_DIR/points.jsonl, the model to OUTPUT_DIR.
Without a model and files it trains a tiny Llama on Python code found on this machine, offline.
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from transformers import (
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from hf_bootstrap import GrowthConfig, ScalingCallback, bootstrap_from_pretrained
from hf_bootstrap.errors import DataError
from hf_bootstrap.study.text import python_code, split_documents
from hf_bootstrap.training.attention import choose_attention
from hf_bootstrap.training.data import PackedBlocks, load_tokenizer, pack, train_tokenizer
from hf_bootstrap.training.documents import read_documents
from hf_bootstrap.units import format_count, parse_count


@dataclass
class Arguments:
    """What to continue, on what, for how long."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub name of the base model."})
    base_tokens: str = field(default="0", metadata={"help": "Tokens the base was trained on (D1), such as 6.5e9."})
    growth: str | None = field(default=None, metadata={"help": "Folder or file of a growth_config.json."})
    train_file: str | None = field(default=None, metadata={"help": ".txt, .jsonl or .parquet, .gz too."})
    validation_file: str | None = field(default=None, metadata={"help": "Held-out text in one of these formats."})
    block_size: int = field(default=128, metadata={"help": "Trained tokens of one block."})
    max_tokens: str = field(default="64k", metadata={"help": "Trained tokens of this stage (D2), such as 1B."})
    method: str | None = field(default=None, metadata={"help": "Name in the points; by default from the growth."})


def load_text(given: Arguments) -> tuple[list[str], list[str]]:
    """Documents to train on and documents held out."""
    if given.train_file is None and given.validation_file is None:
        text = split_documents(python_code())
        return list(text.train), list(text.held_out[:20])
    if given.train_file is None or given.validation_file is None:
        raise DataError("Give both --train_file and --validation_file: a loss on seen text is not worth a point.")
    return read_documents(given.train_file), read_documents(given.validation_file)


def main() -> None:
    parser = HfArgumentParser((Arguments, TrainingArguments))
    parser.set_defaults(
        output_dir="cpt-out", report_to="none", learning_rate=1e-3, adam_beta2=0.95, weight_decay=0.1, warmup_steps=10,
        per_device_train_batch_size=4, train_sampling_strategy="sequential", logging_steps=20, save_strategy="no",
        lr_scheduler_type="warmup_stable_decay",
    )  # fmt: skip
    given, args = parser.parse_args_into_dataclasses()
    output = Path(args.output_dir)

    with args.main_process_first():
        if not (output / "held_out.safetensors").exists():  # written last
            train, held_out = load_text(given)
            source = given.model_name_or_path or str(train_tokenizer(train[:300], 512, output))
            tokenizer = load_tokenizer(source)
            pack(train, tokenizer, output / "train.safetensors")
            pack(held_out, tokenizer, output / "held_out.safetensors")
    tokenizer = load_tokenizer(given.model_name_or_path or str(output))
    blocks = PackedBlocks(output / "train.safetensors", given.block_size)
    held = PackedBlocks(output / "held_out.safetensors", given.block_size, keep_tail=True)

    growth = GrowthConfig.from_pretrained(given.growth) if given.growth else GrowthConfig()
    tiny = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    base = bootstrap_from_pretrained(given.model_name_or_path or LlamaForCausalLM(tiny), GrowthConfig())  # as it is
    model = bootstrap_from_pretrained(base, growth)
    attention = choose_attention()
    model.set_attn_implementation(attention.name)
    print(f"Attention: {attention.name} ({attention.reason})")

    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size * given.block_size
    args.max_steps = parse_count(given.max_tokens, "--max_tokens") // step
    if args.lr_scheduler_type == "warmup_stable_decay" and not args.lr_scheduler_kwargs:
        args.lr_scheduler_kwargs = {"num_decay_steps": args.max_steps // 5, "decay_type": "linear"}
    if len(blocks) * given.block_size < args.max_steps * step:
        print(f"{format_count(len(blocks) * given.block_size)} tokens of text: some will be seen more than once.")

    callback = ScalingCallback(
        {"held_out": held},
        base_tokens=parse_count(given.base_tokens, "--base_tokens"),
        method=given.method or growth_name(given, growth),
        n_params_base=base.num_parameters() if given.model_name_or_path else None,
        attention=attention.name,
        attention_reason=attention.reason,
        batch_tokens=step,
        sequence_length=given.block_size,
        hashes={"data": blocks.facts.hash, "eval_set": held.facts.hash, "tokenizer": blocks.facts.tokenizer_hash},
    )
    trainer = Trainer(
        model=model, args=args, train_dataset=blocks, data_collator=default_data_collator,
        callbacks=[callback], processing_class=tokenizer,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    if args.should_save:
        print(f"Points: {output / 'points.jsonl'}")


def growth_name(given: Arguments, growth: GrowthConfig) -> str:
    """What the points call the second stage."""
    if not growth.grows:
        return "continue" if given.model_name_or_path else "scratch"
    parts = [str(growth.depth_method)] * growth.grows_depth + [f"expand-{growth.width_method}"] * growth.grows_width
    return "+".join(parts)


if __name__ == "__main__":
    main()
    PartialState().destroy_process_group()  # when main's objects are gone: else gloo's threads can abort the exit
