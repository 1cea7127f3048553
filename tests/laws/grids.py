"""Points made from known laws, and the measured tables of the shared folder."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from hf_bootstrap import ScalingLaw

SHARED = Path(os.environ.get("HF_BOOTSTRAP_SHARED", Path(__file__).parents[2].parent / "shared"))
TABLES = SHARED / "data" / "tables"
CODE = {"base_tokens": "D1", "tokens": "D2", "loss": "loss_cod"}
FICTION = {"base_tokens": "D1", "tokens": "D2", "loss": "loss_fic"}

# Close to what the miniature runs of continued pretraining gave.
TRUTH = {
    "A": 1.37e4, "alpha1": 0.387, "alpha2": 0.655, "alpha3": 0.0247, "E": 1.71, "A_scratch": 368.0,
    "alpha_scratch": 0.433,
}  # fmt: skip
# Constants of the size that published fits have.
PLANTED = {
    "bootstrap": {"A": 900.0, "alpha1": 0.25, "alpha2": 0.42, "alpha3": 0.012, "E": 1.6},
    "bootstrap_n": {"A": 900.0, "alpha1": 0.25, "alpha2": 0.42, "alpha3": 0.012, "B": 40.0, "beta": 0.25, "E": 1.4},
    "multiplicative": {"A": 300.0, "alpha1": 0.08, "alpha2": 0.3, "E": 1.7},
    "additive": {"A": 40.0, "alpha1": 0.3, "B": 90.0, "alpha2": 0.35, "E": 1.5},
    "hybrid": {"A": 300.0, "alpha1": 0.3, "alpha2": 0.1, "B": 900.0, "beta": 0.5, "E": 1.5},
    "barnett": {"A": 900.0, "alpha": 0.3, "G": 20.0, "beta": 0.25, "E": 1.5},
    "total_tokens": {"A": 400.0, "alpha": 0.36, "E": 1.8},
    "effective_transfer": {"A": 500.0, "alpha": 0.38, "k": 40.0, "b": 0.6, "E": 1.7},
    "cpt_dynamics": {"A": 400.0, "alpha": 0.38, "B": -0.7, "beta": 0.6, "c": 4e-6, "E": 2.4},
    "unified": {"A": 500.0, "alpha": 0.38, "k": 0.6, "s": 0.45, "E": 1.7},
    "chinchilla": {"A": 480.0, "B": 2100.0, "E": 1.8, "alpha": 0.35, "beta": 0.37},
    "cross_lingual": {"A": 420.0, "B": 433.0, "E": 1.55, "alpha": 0.4, "beta": 0.2, "gamma": 0.08},
    "gadre": {"a": 30.0, "b": 45.0, "eta": 0.12, "E": 1.6},
    "kaplan": {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
    "data_constrained": {"A": 520.0, "B": 1490.0, "E": 1.87, "alpha": 0.36, "beta": 0.34, "R_D": 15.4, "R_N": 5.3},
    "d_cpt": {
        "A": 400.0, "alpha": 0.35, "B": 900.0, "beta": 0.38, "eta": 0.2, "C": 0.6, "gamma": 0.5, "epsilon": 0.08,
        "E": 1.4,
    },
}  # fmt: skip
FOUR_BASES = (131_072, 327_680, 819_200, 2_048_000)


def table(*parts):
    path = TABLES.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the shared table {'/'.join(parts)} is not here; set HF_BOOTSTRAP_SHARED")
    return path


def chinchilla_240():
    """Hoffmann et al.'s points as Besiroglu et al. (arXiv:2404.10102) traced them, without the 5 highest losses."""
    with table("chinchilla-besiroglu", "svg_extracted_data.csv").open(newline="") as file:
        rows = [(float(r["Model Size"]), float(r["Training FLOP"]), float(r["loss"])) for r in csv.DictReader(file)]
    n, c, loss = np.array(sorted(rows, key=lambda row: row[2])[:-5]).T
    return {"n_params": n, "tokens": c / (6 * n), "loss": loss}


def gemstones(every=1):
    """Gemstones before and after a cooldown of a tenth of their tokens, at 22 model sizes; every `every`-th pair."""
    before, after = (
        [json.loads(line) for line in table("gemstones-paired", name).read_text().splitlines()][::every]
        for name in ("cool_begin.jsonl", "cool_end.jsonl")
    )
    return {
        "base_tokens": [row["tokens"] for row in before],
        "tokens": [b["tokens"] - a["tokens"] for a, b in zip(before, after, strict=True)],
        "n_params": [row["params_active_precise"] for row in after],
        "loss": [row["final_loss"] for row in after],
        "run_id": [f"{row['run_name']}-{row['step']}" for row in after],
        "base_run_id": [row["run_name"] for row in before],
    }


def demo_design(trunks=1, bases=FOUR_BASES, marks=(131_072, 262_144, 524_288), scratch=True):
    """(base_tokens, tokens, trunk) of every run."""
    levels = (0, *bases) if scratch else bases
    return [(d1, d2, trunk) for trunk in range(trunks) for d1 in levels for d2 in marks]


def measured(design, law=None, noise=0.0, base_noise=0.0, seed=0):
    """A table of points of a law, with log-normal noise per run and per base, and all ids."""
    law = law or ScalingLaw.from_params("bootstrap", **TRUTH)
    rng = np.random.default_rng(seed)
    d1, d2, trunk = (np.array(column) for column in zip(*design, strict=True))
    bases = [f"trunk{t}-{b}" for t, b in zip(trunk, d1, strict=True)]
    luck = {base: base_noise * rng.standard_normal() for base in dict.fromkeys(bases)}
    loss = law.predict(base_tokens=d1, tokens=d2, extrapolate=True).value
    loss = loss * np.exp(noise * rng.standard_normal(len(d1)) + np.array([luck[base] for base in bases]))
    return {
        "base_tokens": d1, "tokens": d2, "loss": loss,
        "run_id": [f"{base}-{tokens}" for base, tokens in zip(bases, d2, strict=True)],
        "base_run_id": [f"trunk{t}" for t in trunk],
        "base_checkpoint_id": bases,
    }  # fmt: skip
