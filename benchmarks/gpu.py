"""Training speed on a GPU: attention kernels, fused kernels and compilation against the plain Trainer; do losses agree?

    python benchmarks/gpu.py [--out results.md] [--seconds 400]

A Llama of 0.94B parameters, packed blocks of 4,096 tokens of the standard library's code, bfloat16 by autocast. The
plain Trainer (sdpa, no compilation) is the baseline. MFU is of the matmul rate measured here, and of the data sheet
where it is known. How far bfloat16 itself moves a loss is measured too, by the same steps in float32: kernels whose
losses differ by less may be pooled. Without a GPU a tiny model runs, which shows that the script works, nothing else.
"""

import argparse
import gc
import itertools
import statistics
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import is_liger_kernel_available

from hf_bootstrap.growth.counting import measure_size
from hf_bootstrap.training.attention import choose_attention
from hf_bootstrap.training.hardware import peak_flops

HAS_GPU = torch.cuda.is_available()
LENGTH, BATCH, STEPS, COMPARED = (4096, 4, 24, 10) if HAS_GPU else (64, 2, 6, 3)
SHAPE = (
    {
        "hidden_size": 2048,
        "intermediate_size": 5504,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "vocab_size": 32000,
    }
    if HAS_GPU
    else {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 300,
    }
)
HEAD = ("variant", "tokens/s", "against the first", "MFU, measured rate", "MFU, data sheet", "GiB", "loss apart")


@dataclass(frozen=True)
class Variant:
    """One way to train the same model on the same blocks."""

    name: str
    attention: str = "sdpa"
    compiled: bool = False
    fused: bool = False  # Liger's kernels, its cross-entropy without a table of logits among them
    isolated: bool = False  # eight documents a block, kept apart
    exact: bool = False  # float32, for how far bfloat16 is from it; the speed is of no interest


@dataclass(frozen=True)
class Measured:
    """What a variant came to."""

    speed: float
    flops_per_token: float
    losses: list
    peak_bytes: int


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
        """Of a step; the first third, in which kernels are chosen and compiled, is left out."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.begun[len(self.begun) // 3 :]))


def variants():
    """In the order they run: what the goal needs first."""
    best, apart = (choose_attention(dtype=torch.bfloat16, isolated=isolated) for isolated in (False, True))
    fused = HAS_GPU and is_liger_kernel_available()
    wanted = [Variant("plain Trainer: sdpa")]
    wanted += [Variant("sdpa, compiled", compiled=True)] * HAS_GPU
    wanted += [Variant("sdpa, Liger kernels", fused=True)] * fused
    wanted += [Variant("plain, in float32", exact=True)]
    if best.name != "sdpa":
        wanted += [Variant(best.name, best.name)]
        wanted += [Variant(f"{best.name}, Liger kernels", best.name, fused=True)] * fused
    wanted += [Variant("documents apart: sdpa with a mask", isolated=True)]
    if apart.name != "sdpa":
        wanted += [Variant(f"documents apart: {apart.name}", apart.name, isolated=True)]
        wanted += [
            Variant(f"documents apart: {apart.name}, Liger kernels", apart.name, isolated=True, fused=True)
        ] * fused
    wanted += [Variant("eager", "eager")] * (not HAS_GPU)
    return wanted, best


def blocks(isolated):
    """The standard library's code, a byte a token, the same for all. Kept apart, a block has 8 documents."""
    needed, read = BATCH * STEPS * LENGTH, b""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if len(read) >= needed:
            break
        read += path.read_bytes()
    ids = torch.frombuffer(bytearray(read[:needed]), dtype=torch.uint8).long().view(-1, LENGTH)
    apart = {"position_ids": torch.arange(LENGTH // 8).repeat(8)} if isolated else {}
    return [{"input_ids": row, "labels": row, **apart} for row in ids]


def train(variant):
    """Train a few steps and say how it went."""
    torch.manual_seed(0)
    with torch.device("cuda" if HAS_GPU else "cpu"):
        config = LlamaConfig(**SHAPE, max_position_embeddings=LENGTH, attn_implementation=variant.attention)
        model = LlamaForCausalLM(config)
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=COMPARED if variant.exact else STEPS,
        per_device_train_batch_size=BATCH, bf16=HAS_GPU and not variant.exact, use_cpu=not HAS_GPU,
        torch_compile=variant.compiled, use_liger_kernel=variant.fused,
        logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
        train_sampling_strategy="sequential", learning_rate=1e-4, lr_scheduler_type="constant",
    )  # fmt: skip
    clock = Clock()
    trainer = Trainer(model=model, args=args, train_dataset=blocks(variant.isolated), callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    if HAS_GPU:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return Measured(
        speed=BATCH * LENGTH / clock.seconds,
        flops_per_token=measure_size(model).flops_per_token(LENGTH),
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry][:COMPARED],
        peak_bytes=torch.cuda.max_memory_allocated() if HAS_GPU else 0,
    )


def clear():
    """Give the next variant the device as the first one had it."""
    gc.collect()
    if HAS_GPU:
        torch.cuda.empty_cache()
        torch.compiler.reset()


def matmul_rate():
    """FLOP/s of one large bfloat16 product on this device, the median of twenty."""
    size, device = (8192, "cuda") if HAS_GPU else (256, "cpu")
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if HAS_GPU else torch.float32)
    seconds = []
    for _ in range(23):
        began = time.perf_counter()
        a @ a
        if HAS_GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[3:])


def apart(losses, others):
    """The largest difference of two runs' losses at the same step."""
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def row(variant, found, first, rate, peak):
    """A line of the table."""
    reference = first[variant.isolated]
    differ = f"{apart(found.losses, reference.losses):.1e}" if found is not reference else ""
    if variant.exact:
        cells = [variant.name, "", "", "", "", "", f"{differ}: bfloat16's own"]
    else:
        sheet = f"{found.speed * found.flops_per_token / peak:.0%}" if peak else "not known"
        cells = [
            variant.name, f"{found.speed:,.0f}", f"{found.speed / first[False].speed:.2f}x",
            f"{found.speed * found.flops_per_token / rate:.0%}", sheet, f"{found.peak_bytes / 2**30:.0f}", differ,
        ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="a Markdown file for the table")
    parser.add_argument(
        "--seconds", type=float, default=400, help="begin no further variant after this time; one takes up to a minute"
    )
    parser.add_argument(
        "--variants", default="", help="only those whose name holds one of these words, and sdpa itself"
    )
    asked = parser.parse_args()
    wanted, best = variants()
    plain = ("plain Trainer: sdpa", "documents apart: sdpa with a mask")  # what the others are held against
    wanted = [v for v in wanted if v.name in plain or any(word in v.name for word in asked.variants.split(","))]
    rate, peak, began = matmul_rate(), peak_flops(), time.monotonic()
    device = torch.cuda.get_device_name() if HAS_GPU else "CPU, tiny model: shows that the script works, and no speed"
    chosen = f"attention chosen: {best.name} ({best.reason})"
    lines = [
        f"{device}; torch {torch.__version__}; measured matmul {rate:.3g} FLOP/s; {chosen}",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    print("\n".join(lines), flush=True)
    first = {}  # of those that keep documents apart, and of the others: their losses are not the same
    for variant in wanted:
        if time.monotonic() - began > asked.seconds:
            lines.append(f"| {variant.name} | not run: {asked.seconds:.0f} s were over |{' |' * (len(HEAD) - 2)}")
        else:
            try:
                found = train(variant)
                first.setdefault(variant.isolated, found)
                lines.append(row(variant, found, first, rate, peak))
            except Exception as error:  # a kernel package that breaks is a result too, and the rest goes on
                if not first:
                    raise
                lines.append(f"| {variant.name} | failed: {type(error).__name__} |{' |' * (len(HEAD) - 2)}")
                print(f"{variant.name}: {error}"[:2000], flush=True)
        print(lines[-1], flush=True)
        clear()
    if asked.out:
        Path(asked.out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
