"""Draws the figures of laws.md from the pilot's tables: python docs/guides/make_figures.py TABLES OUT."""

import sys
from pathlib import Path

from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws.figures import three_panels

PILOT = {"continue": ("cpt_fic_cod.csv", "loss_cod"), "stack": ("stack_fic.csv", "loss_fic")}


def draw(tables: Path, out: Path) -> list[Path]:
    """Fit both tables of the pilot and save a figure of each."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (file, loss) in PILOT.items():
        law = ScalingLaw().fit(tables / file, columns={"base_tokens": "D1", "tokens": "D2", "loss": loss})
        made.append(out / f"{name}-three-panels.png")
        three_panels(law).savefig(made[-1], dpi=90)
    return made


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
