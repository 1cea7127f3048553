"""What measuring costs a run: the callback's bookkeeping, and packing against the tokenizer alone.

    python benchmarks/training.py [--steps 60]

CPU seconds as well as wall time, for the machine may be busy; docs/benchmarks.md has the figures.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from hf_bootstrap import ScalingCallback
from hf_bootstrap.study.text import python_code, split_documents
from hf_bootstrap.training import callback, counting
from hf_bootstrap.training.data import PackedBlocks, load_tokenizer, pack, train_tokenizer
from hf_bootstrap.units import format_count

BLOCK, BATCH = 128, 4


class StepTimes(TrainerCallback):
    """Seconds of each step, CPU and wall, from one beginning to the next; medians pass over those that evaluate."""

    def __init__(self):
        self.begun, self.walls = [], []

    def on_step_begin(self, args, state, control, **kwargs):
        """Note both clocks."""
        self.begun.append(time.process_time())
        self.walls.append(time.perf_counter())

    @property
    def median(self):
        """CPU seconds of a step."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.begun[5:]))

    @property
    def wall(self):
        """Wall seconds of a step."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.walls[5:]))


def train(folder, steps, measure):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512, hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4,
            attn_implementation="eager",
        )
    )  # fmt: skip
    args = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=steps, per_device_train_batch_size=BATCH, report_to=[],
        save_strategy="no", logging_steps=20, use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    times = StepTimes()
    trainer = Trainer(model=model, args=args, train_dataset=PackedBlocks(folder / "train", BLOCK), callbacks=[times])
    trainer.callback_handler.callbacks = [
        c for c in trainer.callback_handler.callbacks if "Printer" not in type(c).__name__
    ]
    if measure is not None:
        trainer.add_callback(measure)
    trainer.train()
    return times, sum(p.numel() for p in model.model.layers.parameters())


class _CpuClock:
    """Stands in for `time` where the callback reads it: on a busy machine wall time says who else was running."""

    perf_counter = monotonic = staticmethod(time.process_time)


class _Syncs:
    """Wall seconds in which a point waits for the disk: its promise, and none of the callback's work."""

    def __init__(self):
        self.seconds = 0.0
        self._sync = os.fsync

    def __call__(self, descriptor):
        """Sync, timed."""
        began = time.perf_counter()
        self._sync(descriptor)
        self.seconds += time.perf_counter() - began


def overhead(folder, steps):
    """The share inside the callback, in CPU and wall time, and A/B medians of a step, in pairs begun in turns."""
    held = {"held": PackedBlocks(folder / "held", BLOCK, keep_tail=True)}
    inside, inside_wall, waited, ours, plain = [], [], [], [], []
    for turn in range(8):
        callback.time = counting.time = _CpuClock if turn % 2 else time
        os.fsync = syncs = _Syncs()
        marks = [n * steps // 6 * BATCH * BLOCK for n in range(1, 6)]
        measure = ScalingCallback(held, base_tokens=0, marks=marks, forecast=True, batch_tokens=BATCH * BLOCK,
                                  points_file=folder / f"points-{turn}.jsonl")  # fmt: skip
        if turn % 4 < 2:
            plain.append(train(folder, steps, None)[0].median)
        times, size = train(folder, steps, measure)
        os.fsync = syncs._sync
        if turn % 2:
            inside.append(measure.seconds / (times.median * steps))
        else:
            inside_wall.append(measure.seconds / (times.wall * steps))
            waited.append(syncs.seconds / (times.wall * steps))
        ours.append(times.median)
        if turn % 4 >= 2:
            plain.append(train(folder, steps, None)[0].median)
    share, wall, disk, a, b = (statistics.median(values) for values in (inside, inside_wall, waited, ours, plain))
    ratios = sorted(with_it / without for with_it, without in zip(ours, plain, strict=True))
    print(f"{format_count(size)} parameters without embeddings, {BATCH} x {BLOCK} tokens a step, {steps} steps")
    print(f"A point each {steps // 6} steps; geometric marks put one each time the tokens have doubled.")
    print(
        f"| inside the callback, evaluation apart | {share:.2%} of the steps' CPU time, {wall:.2%} of their wall time, "
        f"of which {disk:.2%} wait for the disk to sync a point |"
    )
    print(
        f"| A/B, CPU time of a step | {a * 1e3:.1f} ms with, {b * 1e3:.1f} ms without; "
        f"{len(ratios)} pairs: {statistics.median(ratios) - 1:+.1%} in the median, "
        f"{ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%} |"
    )


def packing(folder, texts, tokenizer):
    """Bytes a CPU second of `pack`, and of the tokenizer's own batch encoding."""
    size = sum(len(text.encode()) for text in texts)
    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    rates = {"pack": [], "tokenizer": []}
    for _ in range(3):
        began = time.process_time()
        for start in range(0, len(texts), 256):
            bare.encode_batch_fast(texts[start : start + 256], add_special_tokens=False)
        rates["tokenizer"].append(size / (time.process_time() - began))
        began = time.process_time()
        pack(texts, tokenizer, folder / "again")
        rates["pack"].append(size / (time.process_time() - began))
    alone, ours = (statistics.median(rates[name]) for name in ("tokenizer", "pack"))
    print(f"| packing {size / 1e6:.1f} MB, MB a CPU second | {ours / 1e6:.2f} |")
    print(f"| the tokenizer alone | {alone / 1e6:.2f}; packing has {ours / alone:.0%} of that |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = list(split_documents(python_code()).train[:2500])
        tokenizer = load_tokenizer(str(train_tokenizer(texts[:300], 512, folder)))
        pack(texts[:-10], tokenizer, folder / "train")
        pack(texts[-10:], tokenizer, folder / "held")
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, torch {torch.__version__}")
        packing(folder, texts, tokenizer)
        overhead(folder, steps)


if __name__ == "__main__":
    main()
