"""The control of stacking with randomised copies: what do the copied layers know?

    python docs/reproduction/shuffled_copies.py OUT --corpora DIR

trains, for one seed, the bases of reproduction.yaml that it needs, and from each the stacked model whose new layers
have the entries of every matrix shuffled: the same numbers, and nothing learnt. Everything else is as in the arm
`stack`, of which each run is a copy. Stopped and started again it goes on. The points are
OUT/points-reproduction-shuffled.jsonl.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import RunFolder, append_point, read_points
from hf_bootstrap.study.conduct import make_ready
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.training import data, loop
from hf_bootstrap.training.beginning import Beginning, begin

METHOD, SEED = "stack-shuffled", 1
BASES = (192_000, 768_000, 3_072_000)
MARKS = (153_600, 614_400, 2_457_600)


def shuffle_new_layers(model: Any, n_layers: int, seed: int) -> None:
    """Permute the entries of every matrix of the layers from `n_layers` on, each by a draw of its own, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= n_layers and weight.dim() > 1:
            with torch.no_grad():
                order = torch.randperm(weight.numel(), generator=generator)
                weight.copy_(weight.flatten()[order].view_as(weight))


def begin_shuffled(folder: RunFolder, spec: RunSpec) -> Beginning:
    """As `begin`, with the copies of the control shuffled before they are trained."""
    start = begin(folder, spec)
    if spec.method == METHOD:
        shuffle_new_layers(start.model, start.model.config.num_hidden_layers // 2, spec.seed)
    return start


def control_runs(specs: list[RunSpec]) -> list[RunSpec]:
    """One run for each cell, with a schedule of its own, from the stages and decays of `stack`."""
    stack = [spec for spec in specs if spec.method == "stack" and spec.base_tokens in BASES]
    stages = {spec.base_tokens: spec for spec in stack if not spec.resume}
    decays = {(spec.base_tokens, spec.tokens): spec.decay_tokens for spec in stack if spec.resume}
    return [
        replace(stages[d1], method=METHOD, tokens=d2, decay_tokens=decays[d1, d2], checkpoints=(), marks=(0,))
        for d1 in BASES
        for d2 in MARKS
    ]


def carry_out(out: Path, specs: list[RunSpec], wanted: RunSpec) -> None:
    """Train a run, after those it starts from; what is done is left alone."""
    by_id = {spec.run_id: spec for spec in specs}
    if wanted.start and (before := by_id.get(wanted.start.partition("/")[0])):
        carry_out(out, specs, before)
    folder = RunFolder.create(out, wanted)
    if not folder.is_done():
        loop.run_one(folder)
        print(f"{wanted.method}, D1 = {wanted.base_tokens:,}, D2 = {wanted.tokens:,}", flush=True)


def main() -> None:
    """Train what is missing, then write the points of the control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpora", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loop.begin = begin_shuffled
    config = StudyConfig.from_file(Path(__file__).parents[2] / "examples/studies/reproduction.yaml")
    specs = make_ready(config, options.out, data, corpora=options.corpora, only=["stack"], seeds=[SEED])
    runs = control_runs(specs)
    for spec in runs:
        carry_out(options.out, specs, spec)
    target = options.out / "points-reproduction-shuffled.jsonl"
    target.unlink(missing_ok=True)
    for spec in runs:
        for point in read_points(RunFolder.create(options.out, spec).points_file).points:
            append_point(target, point)


if __name__ == "__main__":
    main()
