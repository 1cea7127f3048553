"""Recovery curves: the loss right after growth and along the second stages, beside that of the base."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from cells import ends

from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.units import format_count

METHODS = ("stack", "interpose", "widen-pad", "identity", "continue-same")


def draw_recovery(points: Sequence[ScalingPoint], folder: Path, seed: int = 1) -> None:
    """One panel for each of the least, the middle and the largest base of a seed.

    Each end is a run of its own, decayed; the first mark stands at the loss before the second stage's first token.
    """
    own = [p for p in points if p.seed == seed]
    bases = {p.tokens: p.loss for p in own if p.method == "scratch" and p.phase == "end" and p.domain == "fiction"}
    levels = sorted({p.base_tokens for p in ends(own, METHODS[0])})
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharex=True)
    for axes, d1 in zip(panels, (levels[0], levels[len(levels) // 2], levels[-1]), strict=True):
        for method in METHODS:
            begun = [p.loss for p in own if p.method == method and p.base_tokens == d1 and p.tokens == 0]
            curve = sorted((p.tokens, p.loss) for p in ends(own, method) if p.base_tokens == d1)
            if begun and curve:
                least = curve[0][0] / 2
                axes.plot(
                    [least, *(d2 for d2, _ in curve)], [fmean(begun), *(x for _, x in curve)], "o-", ms=4, label=method
                )
        if d1 in bases:
            axes.axhline(bases[d1], color="0.4", lw=1, ls="--", label="the base, decayed")
        axes.set_xscale("log")
        axes.set_title(f"base of {format_count(d1)} tokens", fontsize=10)
        axes.set_xlabel("D2, tokens; leftmost: before any")
    panels[0].set_ylabel("loss on fiction, nats per token")
    panels[-1].legend(fontsize=8, frameon=False)
    figure.savefig(folder / "recovery.png", dpi=110, bbox_inches="tight")
