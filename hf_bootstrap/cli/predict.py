"""`hf-bootstrap predict`: a saved law answers for one run."""

import json
from typing import Annotated, Any

import typer

__all__ = ["predict"]


def predict(
    law_name: Annotated[str, typer.Argument(metavar="LAW", help="A folder that `fit --out` wrote, or user/name.")],
    tokens: Annotated[str, typer.Option(help="Tokens of the second stage, or the only one: 2e9, 3B, 128k.")],
    base_tokens: Annotated[str | None, typer.Option(help="Tokens behind the base; 0 is from scratch.")] = None,
    n_params: Annotated[str | None, typer.Option(help="Non-embedding parameters, for laws that read them.")] = None,
    unique_tokens: Annotated[str | None, typer.Option(help="Tokens of one epoch, for data_constrained.")] = None,
    mixture_ratio: Annotated[float | None, typer.Option(help="Share of the domain in the tokens, for d_cpt.")] = None,
    extrapolate: Annotated[bool, typer.Option("--extrapolate", help="Answer also far beyond the data.")] = False,
    revision: Annotated[str | None, typer.Option(help="Of a law on the Hub: branch, tag or commit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict the loss of a run that was not made, with its interval and its distance from the data.

    Example: hf-bootstrap predict law --base-tokens 1e10 --tokens 2e9
    """
    from ..laws.law import ScalingLaw
    from ..units import parse_count

    law = ScalingLaw.from_pretrained(law_name, revision=revision)
    asked = {"base_tokens": base_tokens, "tokens": tokens, "n_params": n_params, "unique_tokens": unique_tokens}
    counts: dict[str, Any] = {name: None if x is None else parse_count(x, name) for name, x in asked.items()}
    counts["mixture_ratio"] = mixture_ratio
    found = law.predict(**counts, extrapolate=extrapolate)
    unit = law.fitted.loss_unit
    record = {"loss": found.value, "unit": unit, "low": found.low, "high": found.high, "reach": found.reach}
    if as_json:
        typer.echo(json.dumps({**counts, **record}, indent=2))
        return
    interval = "interval not known" if found.low is None else f"95% interval {found.low:.4f} to {found.high:.4f}"
    far = "distance from the data not known" if found.reach is None else _where(found.reach)
    typer.echo(f"{found.value:.4f} {unit} ({interval}; {far})")


def _where(reach: Any) -> str:
    return f"{reach:.1f} decades beyond the data" if reach else "inside the data"
