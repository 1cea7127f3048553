import math
from pathlib import Path
from random import Random

import pytest
import yaml

import hf_bootstrap.demo
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.study.grid import Corpus, Grid, Method

from .fake_slurm import install

DOCS = Corpus(domain="docs", data="docs.tokens", data_hash="d" * 8, eval_sets={"docs": "docs.held"}, eval_hash="e" * 8)
CODE = Corpus(domain="code", data="code.tokens", data_hash="c" * 8, eval_sets={"code": "code.held"}, eval_hash="f" * 8)
SMALL = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 176,
    "num_attention_heads": 2, "vocab_size": 512,
}  # fmt: skip
DEEP = {**SMALL, "num_hidden_layers": 4}
WIDE = {**SMALL, "hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4}
# Facts of the demo's text as `prepare_text` would write them.
DEMO_FACTS = {
    name: {
        "train": {"file": f"text/{name}-train.safetensors", "hash": name * 3, "tokenizer_hash": "t" * 8},
        "held_out": {"file": f"text/{name}-held_out.safetensors", "hash": name * 4, "tokenizer_hash": "t" * 8},
    }
    for name in ("docs", "code")
}
D2 = (131_072, 262_144, 524_288)


def demo_study_record() -> dict:
    """What the demo's study file holds, to be changed."""
    return yaml.safe_load((Path(hf_bootstrap.demo.__file__).parent / "study" / "demo.yaml").read_text())


@pytest.fixture(scope="session")
def demo_grid() -> Grid:
    """The grid of the demo: four bases of one trunk, three methods."""
    return Grid(
        model=SMALL,
        corpus=DOCS,
        base_tokens=(131_072, 327_680, 819_200, 2_048_000),
        methods=(
            Method(name="continue", corpus=CODE, tokens=(*D2, 1_048_576), scratch=SMALL),
            Method(name="stack", corpus=DOCS, tokens=D2, scratch=DEEP, growth={"depth": 2, "depth_method": "stack"}),
            Method(
                name="expand-split", corpus=DOCS, tokens=D2, scratch=WIDE, growth={"width": 2, "width_method": "split"}
            ),
        ),
        tokenizer="tokenizer",
        tokenizer_hash="t" * 8,
    )


def make_tiny_grid() -> Grid:
    """Two bases, one method, two marks: a trunk, two decays, and nine runs of second stages and scratch."""
    return Grid(
        model=SMALL,
        corpus=DOCS,
        base_tokens=(5_120, 10_240),
        methods=(Method(name="continue", corpus=CODE, tokens=(5_120, 10_240), scratch=SMALL),),
        warmup_steps=2,
        rewarm_steps=1,
    )


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch) -> Path:
    """A Slurm whose jobs carry out fake runs; the folder of the scripts that were submitted."""
    return install(tmp_path, monkeypatch)


@pytest.fixture
def tiny_grid() -> Grid:
    return make_tiny_grid()


def points_of(grid: Grid, noise: float = 0.003) -> list[ScalingPoint]:
    """Points as the runs of a grid would leave them if the founding law held; coefficients are made up."""
    random = Random(0)
    sizes = {2: 100_672, 4: 201_280, 128: 402_000}
    points, specs = [], {spec.run_id: spec for spec in grid.specs()}
    for spec in specs.values():
        u, v = math.log(max(spec.base_tokens, 1)), math.log(spec.tokens)
        two_stages, scratch = 8.42 - 0.4 * u - 0.55 * v + 0.025 * u * v, 4.6 - 0.3 * v
        excess = two_stages if spec.base_tokens else scratch
        growth, model = spec.growth or {}, spec.model or {}
        if spec.resume:
            stage = specs[spec.parent_run_id]
            growth, model = stage.growth or {}, stage.model or {}
        deep = growth.get("depth") or model.get("num_hidden_layers") == 4
        wide = growth.get("width") or model.get("hidden_size") == 128
        size = sizes[4 if deep else 128 if wide else 2]
        points.append(
            ScalingPoint(
                run_id=spec.run_id,
                parent_run_id=spec.parent_run_id,
                base_run_id=spec.base_run_id,
                base_checkpoint_id=spec.base_checkpoint_id,
                base_decayed=spec.base_decayed,
                method=spec.method,
                domain=spec.domain,
                seed=spec.seed,
                step=spec.tokens // spec.batch_tokens,
                base_tokens=spec.base_tokens,
                tokens=spec.tokens,
                batch_tokens=spec.batch_tokens,
                peak_lr=spec.peak_lr,
                n_params=size + 2 * 512 * 64,
                n_params_non_embedding=size,
                phase="end" if spec.decay_tokens else "stable",
                loss=1.2 + math.exp(excess + random.gauss(0, noise)),
                hashes=spec.hashes,
                versions={"python": "3.11.7", "torch": "2.13.0"},
            )
        )
    return points


@pytest.fixture(scope="session")
def demo_points(demo_grid) -> list[ScalingPoint]:
    return points_of(demo_grid)
