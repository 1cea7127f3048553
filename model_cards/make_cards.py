"""Makes the laws, cards and figures of this folder: python model_cards/make_cards.py [OUT].

Published coefficients as their papers print them, and the laws of our own studies from the points in docs/.
"""

import math
import sys
from pathlib import Path

from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws.card import card_text
from hf_bootstrap.laws.figures import save_figures
from hf_bootstrap.laws.law_file import LAW_FILE, law_text
from hf_bootstrap.store import write_atomic

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
REPRODUCTION = "reproduction/points-reproduction.jsonl"

# Name -> title, form, parameters (raw tokens, raw parameters, natural logs, nats per token).
PUBLISHED = {
    "chinchilla-hoffmann": (
        "Chinchilla, as first published (Hoffmann et al. 2022, arXiv:2203.15556, approach 3; Huber)",
        "chinchilla",
        {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28},
    ),
    "chinchilla-huber": (
        "Chinchilla, fitted anew (Besiroglu et al. 2024, arXiv:2404.10102; Huber)",
        "chinchilla",
        {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658},
    ),
    "chinchilla-least-squares": (
        "Chinchilla, the same 240 points by least squares of log loss (our optimum; points of arXiv:2404.10102)",
        "chinchilla",
        {"A": 593.3, "B": 4875.6, "E": 1.8645, "alpha": 0.3603, "beta": 0.4059},
    ),
    "upcycling": (
        "Upcycling of dense models into mixtures of experts (Liew et al. 2025, arXiv:2502.03009, table 2)",
        "bootstrap_n",
        {"A": 16.3, "alpha1": 0.043, "alpha2": 0.085, "alpha3": 7.98e-4, "B": 8.53, "beta": 0.112, "E": 0.165},
    ),
    "data-constrained": (
        "Repeated data (Muennighoff et al. 2023, arXiv:2305.16264)",
        "data_constrained",
        {
            "A": math.exp(6.255414),
            "B": math.exp(7.3049974),
            "E": math.exp(0.6254804),
            "alpha": 0.3526596,
            "beta": 0.3526596,
            "R_D": 15.387756,
            "R_N": 5.309743,
        },
    ),
}
# Name -> title, points, method.
STUDIES = {
    "demo-continue": ("The demo: continued pretraining of a 100k-parameter Llama", "demo/continue.jsonl", "continue"),
    "demo-stack": ("The demo: a 100k-parameter Llama stacked to twice its depth", "demo/stack.jsonl", "stack"),
    "demo-expand-split": (
        "The demo: a 100k-parameter Llama split to twice its width",
        "demo/expand-split.jsonl",
        "expand-split",
    ),
    "reproduction-continue": (
        "The reproduction: a 100k-parameter Llama trained on novels, continued on code",
        REPRODUCTION,
        "continue",
    ),
    "reproduction-stack": (
        "The reproduction: a 100k-parameter Llama stacked to twice its depth, on unseen novels",
        REPRODUCTION,
        "stack",
    ),
    "reproduction-widen-pad": (
        "The reproduction: a 100k-parameter Llama widened by zero padding to twice its parameters, on unseen novels",
        REPRODUCTION,
        "widen-pad",
    ),
    "reproduction-continue-same": (
        "The reproduction, control: a 100k-parameter Llama trained further on the same novels' kind of text",
        REPRODUCTION,
        "continue-same",
    ),
}


def make(out: Path) -> list[Path]:
    """Write every law with its card; returns the cards."""
    laws = {name: (title, ScalingLaw.from_params(form, **params)) for name, (title, form, params) in PUBLISHED.items()}
    for name, (title, points, method) in STUDIES.items():
        laws[name] = (title, ScalingLaw().fit(DOCS / points, where={"method": method}))
    cards = []
    for name, (title, law) in laws.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / LAW_FILE, law_text(law.fitted))
        # Published coefficients come without the points behind them, and a law without points has nothing to draw.
        figures = [] if law.points_ is None else save_figures(law, folder / "figures")
        card = card_text(law, figures, address=f"model_cards/{name}", title=title)
        cards.append(folder / "README.md")
        write_atomic(cards[-1], card)
    return cards


if __name__ == "__main__":
    print(*make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE), sep="\n")
