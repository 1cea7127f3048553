"""Training speed on a GPU: attention kernels and compilation against the plain Trainer, and whether losses agree.

    python benchmarks/gpu.py [--out results.md] [--seconds 400]

A Llama of 0.7B parameters in bfloat16, packed blocks of 4,096 tokens. MFU is of the matmul rate measured here, and of
the data sheet where it is known. Without a GPU a tiny model runs, which shows that the script works and nothing else.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.training.attention import choose_attention
from hf_bootstrap.training.hardware import peak_flops

HAS_GPU = torch.cuda.is_available()
LENGTH, BATCH, STEPS = (4096, 2, 25) if HAS_GPU else (64, 2, 6)
SHAPE = (
    {
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 20,
        "num_attention_heads": 12,
        "vocab_size": 32000,
    }
    if HAS_GPU
    else {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 100,
    }
)


class Clock(TrainerCallback):
    """Wall seconds of each step, the device waited for."""

    def __init__(self):
        self.begun = []

    def on_step_begin(self, args, state, control, **kwargs):
        """Note the time."""
        if HAS_GPU:
            torch.cuda.synchronize()
        self.begun.append(time.perf_counter())

    @property
    def seconds(self):
        """Of a step; the first ones, in which kernels are chosen and compiled, are left out."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.begun[len(self.begun) // 3 :]))


def blocks(isolated):
    """Random tokens: speed does not depend on them, and two runs read the same. Kept apart, a block has 8 documents."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SHAPE["vocab_size"], (BATCH * STEPS, LENGTH), generator=chance)
    apart = {"position_ids": torch.arange(LENGTH // 8).repeat(8)} if isolated else {}
    return [{"input_ids": row, "labels": row, **apart} for row in ids]


def train(attention, compiled, isolated):
    """(tokens a second, FLOPs a token, loss of every step)."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=LENGTH, attn_implementation=attention))
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=STEPS, per_device_train_batch_size=BATCH, bf16=HAS_GPU,
        use_cpu=not HAS_GPU, torch_compile=compiled,
        logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
        train_sampling_strategy="sequential", learning_rate=1e-4,
    )  # fmt: skip
    clock = Clock()
    trainer = Trainer(model=model, args=args, train_dataset=blocks(isolated), callbacks=[clock])
    trainer.callback_handler.callbacks = [
        c for c in trainer.callback_handler.callbacks if type(c).__name__ != "PrinterCallback"
    ]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return BATCH * LENGTH / clock.seconds, measure_size(model).flops_per_token(LENGTH), losses


def matmul_rate():
    """FLOP/s of one large bfloat16 product on this device, the best of ten."""
    size, device = (8192, "cuda") if HAS_GPU else (256, "cpu")
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if HAS_GPU else torch.float32)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        if HAS_GPU:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="a Markdown file for the table")
    parser.add_argument(
        "--seconds",
        type=float,
        default=400,
        help="begin no further variant after this time; one takes up to two minutes",
    )
    asked = parser.parse_args()
    best, apart = (choose_attention(dtype=torch.bfloat16, isolated=isolated) for isolated in (False, True))
    variants = [("plain Trainer: sdpa", "sdpa", False, False)]
    variants += [("sdpa, compiled", "sdpa", True, False)] if HAS_GPU else [("eager", "eager", False, False)]
    if best.name != "sdpa":
        variants += [(best.name, best.name, False, False), (f"{best.name}, compiled", best.name, True, False)]
    variants += [("documents apart: sdpa", "sdpa", False, True)]
    if apart.name != "sdpa":
        variants += [(f"documents apart: {apart.name}", apart.name, False, True)]
    rate, peak, began = matmul_rate(), peak_flops(), time.monotonic()
    device = torch.cuda.get_device_name() if HAS_GPU else "CPU, tiny model: shows that the script works, and no speed"
    chosen = f"attention chosen: {best.name} ({best.reason})"
    lines = [f"{device}; torch {torch.__version__}; measured matmul {rate:.3g} FLOP/s; {chosen}", ""]
    lines += [
        "| variant | tokens/s | against the first | MFU of the measured rate | MFU of the data sheet | loss apart |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    first = {}  # of those that keep documents apart, and of the others: their losses are not the same
    for name, attention, compiled, isolated in variants:
        if time.monotonic() - began > asked.seconds:
            lines.append(f"| {name} | not run: {asked.seconds:.0f} s were over | | | | |")
            continue
        speed, per_token, losses = train(attention, compiled, isolated)
        first.setdefault(isolated, (speed, losses))
        differ = max(abs(a - b) for a, b in zip(losses, first[isolated][1], strict=True))
        sheet = f"{speed * per_token / peak:.0%}" if peak else "not known"
        shares = f"{speed / first[False][0]:.2f}x | {speed * per_token / rate:.0%} | {sheet}"
        lines.append(f"| {name} | {speed:,.0f} | {shares} | {differ:.1e} |")
    if asked.out:
        Path(asked.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
