"""How fast a checkpoint grows on disk, and in how much memory; beside copying and hashing as much, and mergekit.

    python benchmarks/growth.py [--sizes 0.2B 0.8B] [--repeats 3] [--mergekit] [--folder FOLDER] [--results FILE]

Makes Llama-shaped bfloat16 checkpoints of random parameters, grows each by depth 2 (stack) and width 2 (split), and
prints a table for docs/benchmarks.md: medians. Each run is a new process; start-up is its time until the first byte
could be written. What was measured is kept in --results, so a run that was cut off goes on. A size that does not fit
on the disk is left out with the number. mergekit 0.1.5 grows depth only; it gets a virtual environment of its own in
--cache, with the torch of this one.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "0.02B": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8},
    "0.2B": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16},
    "0.8B": {"hidden_size": 1536, "intermediate_size": 4608, "num_hidden_layers": 25, "num_attention_heads": 24},
    "1.5B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 28, "num_attention_heads": 32},
    "3B": {"hidden_size": 2560, "intermediate_size": 8192, "num_hidden_layers": 36, "num_attention_heads": 32},
    # One layer of two large experts, which run as one fused tensor: Mixtral's, smaller and larger than its own.
    "0.3B-experts": {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "num_local_experts": 2,
    },
    "0.5B-experts": {
        "hidden_size": 2048,
        "intermediate_size": 32768,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "num_local_experts": 2,
    },
}
SIDE = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
GROWTHS = {"depth x2, stack": {"depth": 2}, "width x2, split": {"width": 2}}
# Bytes on disk at once, per byte of the base: itself, the grown one (x4 in width), and a copy of that.
ROOM = {"depth x2, stack": 1 + 2 * 2, "width x2, split": 1 + 2 * 4}
MERGEKIT = "mergekit==0.1.5"

# The command as a user runs it, with a clock at the first byte that could be written.
CHILD = """
import json, re, sys, time
began = time.perf_counter()
from hf_bootstrap.cli.loading import loading_for_good
with loading_for_good():
    from hf_bootstrap.growth import stream
from hf_bootstrap.cli.main import main
inner, prepare = {}, stream.prepare_growth
def prepared(*arguments, **options):
    job = prepare(*arguments, **options)
    inner["start"] = time.perf_counter()
    return job
stream.prepare_growth = prepared
try:
    main()
except SystemExit as left:
    if left.code:
        raise
end = time.perf_counter()
# Not ru_maxrss: that of a child begins at what its parent had in use when it was started.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"startup": inner["start"] - began, "growing": end - inner["start"], "peak": peak}))
"""


def write_base(folder: Path, size: dict[str, int]) -> int:
    """A checkpoint of random bfloat16 weights, written piece by piece; its bytes."""
    from transformers import LlamaConfig, MixtralConfig

    from hf_bootstrap.growth.architecture import build_meta
    from hf_bootstrap.growth.hub_layout import hub_layout
    from hf_bootstrap.growth.layout import lay_out

    kind, name = (MixtralConfig, "Mixtral") if "num_local_experts" in size else (LlamaConfig, "Llama")
    config = kind(**size, **SIDE, dtype="bfloat16", architectures=[f"{name}ForCausalLM"])
    config.save_pretrained(folder)
    shapes = hub_layout(build_meta(config)).shapes
    (shard,) = lay_out(((name, "BF16", shape) for name, shape in shapes.items()), 10**15)
    generator = np.random.default_rng(0)
    with open(folder / shard.name, "wb") as file:
        file.write(shard.header)
        for entry in shard.entries:
            for start in range(entry.start, entry.stop, 2**26):
                count = min(2**26, entry.stop - start) // 2
                values = generator.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return shard.size


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


def run_once(base: Path, folder: Path, growth: dict[str, int]) -> dict[str, float]:
    """One growth, and one copy of what it made."""
    os.sync()
    began = time.perf_counter()
    options = [f"--{name}={value}" for name, value in growth.items()]
    command = [sys.executable, "-c", CHILD, "grow", str(base), str(folder / "grown"), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    run = {"command": time.perf_counter() - began, **json.loads(done.stdout.splitlines()[-1])}
    run["bytes"] = sum(file.stat().st_size for file in (folder / "grown").glob("*.safetensors"))
    run["copy"] = copy_and_hash(folder / "grown", folder / "copy")
    shutil.rmtree(folder / "grown")
    return run


def install_mergekit(cache: Path) -> Path:
    """The `mergekit-yaml` of a virtual environment, made if need be, with the torch this process has."""
    program = cache / "mergekit" / "bin" / "mergekit-yaml"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / "mergekit")], check=True)
        torch = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
        pip = [str(cache / "mergekit/bin/python"), "-m", "pip", "install", "--quiet", torch, MERGEKIT]
        subprocess.run(pip, check=True)
    return program


def run_mergekit(program: Path, base: Path, folder: Path, layers: int) -> dict[str, float]:
    """The same depth growth as a passthrough merge; the peak is that of the child."""
    part = [{"sources": [{"model": str(base), "layer_range": [0, layers]}]}]
    recipe = {"merge_method": "passthrough", "dtype": "bfloat16", "slices": part * 2}
    (folder / "merge.yaml").write_text(json.dumps(recipe))
    os.sync()
    began = time.perf_counter()
    command = [str(program), str(folder / "merge.yaml"), str(folder / "merged"), "--allow-crimes"]
    with open(folder / "log", "w") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        _, status, usage = os.wait4(child.pid, 0)
    taken = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"mergekit ended with code {child.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
    made = sum(file.stat().st_size for file in (folder / "merged").glob("*.safetensors"))
    shutil.rmtree(folder / "merged")
    return {"command": taken, "peak": usage.ru_maxrss * 1024, "bytes": made}


def known(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def keep(results: Path, size: str, title: str, run: dict[str, float]) -> None:
    with results.open("a") as file:
        file.write(json.dumps({"size": size, "growth": title, **run}) + "\n")


def measure(size: str, arguments: argparse.Namespace, program: Path | None) -> None:
    """Every growth of one size, `--repeats` times, runs that are known already left out."""
    tools = [*GROWTHS, *(["mergekit depth x2"] if program else [])]
    had = {t: sum((r["size"], r["growth"]) == (size, t) for r in known(arguments.results)) for t in tools}
    if all(had[title] >= arguments.repeats for title in tools):
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        (folder / "base").mkdir()
        weight = write_base(folder / "base", SIZES[size])
        for number in range(arguments.repeats):  # runs of different tools take turns
            for title in tools:
                if number < had[title]:
                    continue
                needed, free = weight * ROOM.get(title, 5) - weight, shutil.disk_usage(folder).free
                if needed > free:
                    print(f"{size}, {title}: left out, {needed / 1e9:.1f} GB needed and {free / 1e9:.1f} GB free")
                elif title in GROWTHS:
                    keep(arguments.results, size, title, run_once(folder / "base", folder, GROWTHS[title]))
                elif program:
                    layers = SIZES[size]["num_hidden_layers"]
                    keep(arguments.results, size, title, run_mergekit(program, folder / "base", folder, layers))


def show(results: Path, sizes: list[str]) -> None:
    """The table: medians of everything that is known."""
    print(
        "| base | growth | runs | written | start-up | growing | cp + sync + sha256sum | ratio | command | peak RSS |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    runs = known(results)
    for size, title in ((s, t) for s in sizes for t in (*GROWTHS, "mergekit depth x2")):
        found = [r for r in runs if (r["size"], r["growth"]) == (size, title)]
        if not found:
            continue
        middle = {
            name: statistics.median(r[name] for r in found) for name in found[0] if name not in ("size", "growth")
        }
        ours = "growing" in middle
        cells = [
            size,
            title,
            str(len(found)),
            f"{middle['bytes'] / 1e9:.2f} GB",
            *(f"{middle[name]:.1f} s" if ours else "" for name in ("startup", "growing", "copy")),
            f"{middle['growing'] / middle['copy']:.2f}" if ours else "",
            f"{middle['command']:.1f} s",
            f"{middle['peak'] / 1e6:.0f} MB",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--folder", type=Path, default=temporary, help="on the disk to measure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.2B", "0.8B"])
    parser.add_argument("--mergekit", action="store_true", help="measure mergekit as well; installed if need be")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hf-bootstrap-bench")
    parser.add_argument("--results", type=Path, default=temporary / "hf-bootstrap-growth.jsonl")
    arguments = parser.parse_args()
    program = install_mergekit(arguments.cache) if arguments.mergekit else None
    for size in arguments.sizes:
        measure(size, arguments, program)
    show(arguments.results, arguments.sizes)


if __name__ == "__main__":
    main()
