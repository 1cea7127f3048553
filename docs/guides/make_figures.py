"""Draws the figures of laws.md from the pilot's tables: python docs/guides/make_figures.py TABLES OUT."""

import sys
from pathlib import Path

from hf_bootstrap import ScalingLaw, compare_forms
from hf_bootstrap.laws.check_figures import form_table

PILOT = {"continue": ("cpt_fic_cod.csv", "loss_cod"), "stack": ("stack_fic.csv", "loss_fic")}
# One trunk gave one checkpoint for each D1, so D1 names the base.
COLUMNS = {"base_tokens": "D1", "tokens": "D2", "base_checkpoint_id": "D1"}
FORMS = ["bootstrap", "multiplicative", "total_tokens", "effective_transfer", "cpt_dynamics", "unified"]


def draw(tables: Path, out: Path) -> list[Path]:
    """Fit both tables of the pilot, compare the forms on them, and save three figures of each."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (file, loss) in PILOT.items():
        columns = {**COLUMNS, "loss": loss}
        law = ScalingLaw().fit(tables / file, columns=columns)
        figures = {kind: law.plot(kind) for kind in ("three_panels", "held_out")}
        figures["forms"] = form_table(compare_forms(tables / file, FORMS, columns=columns))
        for kind, figure in figures.items():
            made.append(out / f"{name}-{kind.replace('_', '-')}.png")
            figure.savefig(made[-1], dpi=90)
    return made


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
