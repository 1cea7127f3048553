"""Fit the two-stage law to points, ask it questions, and hold it against its rivals.

    python examples/fit_law.py [points.jsonl] [method]

Without a file, it makes a small grid of points from a known law, so that one can see what is recovered.
"""

import sys

import numpy as np

from hf_bootstrap import ScalingLaw, compare_forms
from hf_bootstrap.laws.saturation import null_test, verdict


def made_up_points() -> dict[str, list[object]]:
    """Six trunks, four base sizes each, four second stages, and runs from scratch; 0.3% noise."""
    truth = ScalingLaw.from_params(
        "bootstrap", A=1.37e4, alpha1=0.387, alpha2=0.655, alpha3=0.0247, E=1.71, A_scratch=368.0, alpha_scratch=0.433
    )
    noise = np.random.default_rng(0)
    rows: list[tuple[object, ...]] = []
    for trunk in range(6):
        for base_tokens in (0, 131_072, 524_288, 2_097_152, 8_388_608):
            for tokens in (131_072, 262_144, 524_288, 2_097_152):
                loss = truth.predict(base_tokens=base_tokens, tokens=tokens).value
                run = f"seed{trunk}-{base_tokens}-{tokens}"
                rows.append((base_tokens, tokens, loss * np.exp(0.003 * noise.normal()), run, f"trunk{trunk}"))
    names = ("base_tokens", "tokens", "loss", "run_id", "base_run_id")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def main() -> None:
    """Print a law, a prediction, two decisions and a verdict."""
    points = sys.argv[1] if len(sys.argv) > 1 else made_up_points()
    where = {"method": sys.argv[2]} if len(sys.argv) > 2 else None

    law = ScalingLaw(form="bootstrap").fit(points, where=where)
    print(law.summary())

    middle = {name: (low * high) ** 0.5 for name, (low, high) in law.fitted.ranges.items()}
    print("\nIn the middle of the data:", law.predict(**middle))
    print("Exponent there:", law.exponent(middle["base_tokens"]))
    if law.fitted.n_scratch:
        print("Reuse beats scratch up to:", law.crossover(base_tokens=middle["base_tokens"]))
    print("Saturation:", law.saturation())

    print()
    print(compare_forms(points, where=where))
    nulls = [null_test(points, null, n=200, where=where) for null in ("total_tokens", "effective_transfer")]
    print(*nulls, verdict(law, nulls), sep="\n")


if __name__ == "__main__":
    main()
