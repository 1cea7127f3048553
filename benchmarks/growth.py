"""How fast a checkpoint grows on disk, against copying, syncing and hashing the same bytes, and in how much memory.

    python benchmarks/growth.py [--folder FOLDER] [--repeats 3]

Makes Llama-shaped bfloat16 checkpoints of 0.2B and 0.7B random parameters (about 12 GB of disk are used on the way),
grows each by depth 2 (stack) and width 2 (split), and prints a table for docs/benchmarks.md. Skips with a reason when
the disk is too full. Each growth is a new process; start-up is its time until the first byte could be written.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {
    "0.2B": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16},
    "0.7B": {"hidden_size": 1536, "intermediate_size": 4608, "num_hidden_layers": 22, "num_attention_heads": 24},
}
SIDE = {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False}
GROWTHS = {"depth x2, stack": {"depth": 2}, "width x2, split": {"width": 2}}
NEEDED = 12_000_000_000

CHILD = """
import json, resource, sys, time
began = time.perf_counter()
from hf_bootstrap import GrowthConfig, grow_checkpoint
from hf_bootstrap.growth import stream
source, target, growth = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
inner, prepare = {}, stream.prepare_growth
def prepared(*arguments, **options):
    job = prepare(*arguments, **options)
    inner["start"] = time.perf_counter()
    return job
stream.prepare_growth = prepared
grow_checkpoint(source, target, GrowthConfig(**growth))
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"startup": inner["start"] - began, "growing": end - inner["start"], "peak": peak}))
"""


def write_base(folder: Path, shape: dict[str, int]) -> None:
    """A checkpoint of random bfloat16 weights, written piece by piece."""
    from transformers import LlamaConfig

    from hf_bootstrap.growth.architecture import build_meta, named_tensors
    from hf_bootstrap.growth.layout import lay_out

    config = LlamaConfig(**shape, **SIDE, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    tensors = [(name, "BF16", tuple(tensor.shape)) for name, tensor in named_tensors(build_meta(config)).items()]
    (shard,) = lay_out(tensors, 10**15)
    generator = np.random.default_rng(0)
    with open(folder / shard.name, "wb") as file:
        file.write(shard.header)
        for entry in shard.entries:
            for start in range(entry.start, entry.stop, 2**26):
                count = min(2**26, entry.stop - start) // 2
                values = generator.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def copy_and_hash(source: Path, target: Path) -> float:
    """Seconds to copy, sync and hash the weights that a growth made: what publishing them must cost."""
    files = sorted(source.glob("*.safetensors"))
    target.mkdir()
    began = time.perf_counter()
    subprocess.run(["cp", *files, target], check=True)
    subprocess.run(["sync", *sorted(target.iterdir())], check=True)
    subprocess.run(["sha256sum", *sorted(target.iterdir())], check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - began
    shutil.rmtree(target)
    return taken


def measure(base: Path, folder: Path, growth: dict[str, int], repeats: int) -> dict[str, float]:
    """Medians over runs that alternate between growing and copying."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        os.sync()
        began = time.perf_counter()
        command = [sys.executable, "-c", CHILD, str(base), str(folder / "grown"), json.dumps(growth)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        run = {"command": time.perf_counter() - began, **json.loads(done.stdout.splitlines()[-1])}
        run["bytes"] = sum(file.stat().st_size for file in (folder / "grown").glob("*.safetensors"))
        run["copy"] = copy_and_hash(folder / "grown", folder / "copy")
        shutil.rmtree(folder / "grown")
        runs.append(run)
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="on the disk to measure; default: the system's temporary folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    free = shutil.disk_usage(arguments.folder or tempfile.gettempdir()).free
    if free < NEEDED:
        print(f"skipped: {free / 1e9:.1f} GB free, {NEEDED / 1e9:.0f} GB needed; give --folder on another disk")
        return
    print("| base | growth | written | start-up | growing | cp + sync + sha256sum | ratio | whole command | peak RSS |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            (folder / "base").mkdir()
            write_base(folder / "base", SIZES[size])
            for title, growth in GROWTHS.items():
                run = measure(folder / "base", folder, growth, arguments.repeats)
                cells = [
                    size,
                    title,
                    f"{run['bytes'] / 1e9:.2f} GB",
                    *(f"{run[name]:.1f} s" for name in ("startup", "growing", "copy")),
                    f"{run['growing'] / run['copy']:.2f}",
                    f"{run['command']:.1f} s",
                    f"{run['peak'] / 1e6:.0f} MB",
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
