"""Does `compare_forms` keep the form that made the points, and does it prefer one with a parameter they do not need?

60 draws per planted form on 6 levels of D1 x 6 marks of D2, 1.5 decades each, with six rows from scratch and 0.3%
noise. Prints a table for docs/benchmarks.md; `--draws 10` is a quick look.
"""

import argparse
import time
from collections import Counter

import numpy as np

from hf_bootstrap import FORMS, ScalingLaw, compare_forms
from hf_bootstrap.laws.evidence import RIVALS, Comparison

NOISE = 0.003
BASES = np.geomspace(1e9, 10**10.5, 6)
MARKS = np.geomspace(3e8, 10**9.977, 6)
BRANCH = {"A_scratch": 1300.0, "alpha_scratch": 0.32}
PLANTED = {
    "bootstrap": {"A": 3.0e5, "alpha1": 0.40, "alpha2": 0.58, "alpha3": 0.0160, "E": 1.7, **BRANCH},
    "multiplicative": {"A": 2600.0, "alpha1": 0.10, "alpha2": 0.25, "E": 1.7, **BRANCH},
    "additive": {"A": 300.0, "alpha1": 0.30, "B": 500.0, "alpha2": 0.30, "E": 1.7, **BRANCH},
    "total_tokens": {"A": 1000.0, "alpha": 0.32, "E": 1.7},
    "effective_transfer": {"A": 1000.0, "alpha": 0.32, "k": 60.0, "b": 0.78, "E": 1.7},
}
# Every form on the right contains the one on the left, so its further parameters are not needed.
CONTAINS = {
    "multiplicative": ("bootstrap", "unified"),
    "total_tokens": ("effective_transfer", "cpt_dynamics", "unified"),
    "effective_transfer": ("unified",),
}


def draw(form: str, seed: int) -> dict[str, object]:
    """One table of 42 rows: a run per row, a base checkpoint per level of D1."""
    rng = np.random.default_rng(seed)
    d1, d2 = np.repeat([0.0, *BASES], 6), np.tile(MARKS, 7)
    truth = ScalingLaw.from_params(form, **PLANTED[form]).predict(base_tokens=d1, tokens=d2, extrapolate=True)
    names = [f"base-{x:.3g}" for x in d1]
    return {
        "base_tokens": d1,
        "tokens": d2,
        "loss": truth.value * np.exp(NOISE * rng.standard_normal(42)),
        "run_id": [f"{base}-{tokens:.3g}" for base, tokens in zip(names, d2, strict=True)],
        "base_run_id": ["trunk"] * 42,
        "base_checkpoint_id": names,
    }


def row(form: str, found: list[Comparison], seconds: float) -> str:
    """What came of the draws of one planted form, as a row of the table."""
    kept = sum(form in (c.confidence_set or ()) for c in found)
    needless = sum(c.preferred in CONTAINS.get(form, ()) for c in found)
    right = sum(c.preferred == form for c in found)
    size = np.mean([len(c.confidence_set or ()) for c in found])
    alone = sum(c.confidence_set == (form,) for c in found)
    aicc = sum(min(c.scores, key=lambda s: s.aicc or np.inf).form == form for c in found)
    others = Counter(c.preferred for c in found if c.preferred != form)
    told = ", ".join(f"{name} {count}" for name, count in others.most_common()) or "-"
    return f"| {form} | {kept} | {needless} | {right} | {told} | {alone} | {size:.1f} | {aicc} | {seconds:.0f} |"


def main() -> None:
    """Draw, compare and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=60)
    draws = parser.parse_args().draws
    print(f"{draws} draws each; candidates: {', '.join(RIVALS)}\n")
    print(
        "| planted | in the set | needless preferred | preferred | else preferred | alone | set size | AICc | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for form in PLANTED:
        if form in FORMS:
            began = time.process_time()
            found = [compare_forms(draw(form, seed)) for seed in range(draws)]
            print(row(form, found, time.process_time() - began), flush=True)


if __name__ == "__main__":
    main()
