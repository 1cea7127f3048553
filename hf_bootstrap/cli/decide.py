"""`hf-bootstrap decide`: a saved law answers what to do, with an interval and what to know before acting."""

import enum
import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..laws.decisions import Decision

__all__ = ["QuestionName", "decide"]


class QuestionName(enum.StrEnum):
    """The questions a law can be asked."""

    CROSSOVER = "crossover"
    BEST_SPLIT = "best-split"
    SATURATION = "saturation"
    TOKENS_FOR = "tokens-for"
    COMPUTE_OPTIMAL = "compute-optimal"


_UNITS = {
    "crossover": "second-stage tokens",
    "best-split": "base tokens",
    "saturation": "base tokens",
    "tokens-for": "tokens",
    "compute-optimal": "parameters",
}
_COLUMNS = ("unique_tokens", "mixture_ratio")  # of the forms that read them
# Question -> (options it needs, options it can use).
_OPTIONS: dict[str, tuple[set[str], set[str]]] = {
    "crossover": ({"base_tokens"}, {"scratch", "n_params", "n_params_base", "count_base_cost", "tokens"}),
    "best-split": ({"flops", "n_params_base"}, {"n_params", *_COLUMNS}),
    "saturation": (set(), set()),
    "tokens-for": ({"loss"}, {"base_tokens", "n_params", *_COLUMNS}),
    "compute-optimal": ({"flops"}, {"base_tokens", *_COLUMNS}),
}


def decide(
    law_name: Annotated[str, typer.Argument(metavar="LAW", help="A folder that `fit --out` wrote, or user/name.")],
    question: Annotated[
        QuestionName,
        typer.Argument(
            metavar="QUESTION",
            help="crossover, best-split, saturation, tokens-for or compute-optimal.",
            show_choices=False,
        ),
    ],
    scratch: Annotated[str | None, typer.Option(help="crossover: a law of training from scratch.")] = None,
    base_tokens: Annotated[str | None, typer.Option(help="Tokens behind the base: 1e11, 300B.")] = None,
    tokens: Annotated[str | None, typer.Option(help="crossover: a second-stage budget to judge.")] = None,
    n_params: Annotated[str | None, typer.Option(help="Size of the model trained: 7B.")] = None,
    n_params_base: Annotated[str | None, typer.Option(help="Size of its base.")] = None,
    count_base_cost: Annotated[
        bool, typer.Option("--count-base-cost", help="crossover: the base is still to be paid for.")
    ] = False,
    flops: Annotated[str | None, typer.Option(help="best-split, compute-optimal: the budget: 1e21.")] = None,
    unique_tokens: Annotated[str | None, typer.Option(help="Tokens of one epoch, for data_constrained.")] = None,
    mixture_ratio: Annotated[float | None, typer.Option(help="Share of the domain in the tokens, for d_cpt.")] = None,
    loss: Annotated[
        float | None,
        typer.Option(help="tokens-for: to be reached, in the unit of the law."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a law on the Hub: branch, tag or commit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a law: crossover, best-split, saturation, tokens-for or compute-optimal.

    Example: hf-bootstrap decide law crossover --base-tokens 1e11 --tokens 20B
    """
    from ..laws.law import ScalingLaw
    from ..units import parse_quantity

    quantities = {
        "base_tokens": base_tokens,
        "tokens": tokens,
        "n_params": n_params,
        "n_params_base": n_params_base,
        "flops": flops,
        "unique_tokens": unique_tokens,
    }
    asked: dict[str, Any] = {k: parse_quantity(v, k) for k, v in quantities.items() if v is not None}
    given = {"loss": loss, "scratch": scratch, "mixture_ratio": mixture_ratio}
    asked |= {name: value for name, value in given.items() if value is not None}
    asked |= {"count_base_cost": True} if count_base_cost else {}
    _check_options(question.value, set(asked))
    law = ScalingLaw.from_pretrained(law_name, revision=revision)
    if scratch is not None:
        asked["scratch"] = ScalingLaw.from_pretrained(scratch)
    found: Decision = getattr(law, question.value.replace("-", "_"))(**asked)
    if as_json:
        typer.echo(json.dumps({"question": question.value, **_plain(found)}, indent=2))
        return
    head = str(found).split(". ", 1)[0].removesuffix(".")
    is_count = found.value is not None and 0 < found.value < math.inf
    typer.echo(f"{head} {_UNITS[question.value]}." if is_count else f"{head}.")
    for note in found.notes:
        typer.echo(f"- {note}")


def _check_options(question: str, given: set[str]) -> None:
    needed, usable = _OPTIONS[question]
    for name in sorted(needed - given):
        raise typer.BadParameter(f"{question} needs --{name.replace('_', '-')}.")
    for name in sorted(given - needed - usable):
        raise typer.BadParameter(f"{question} has no use for --{name.replace('_', '-')}; leave it out.")


def _plain(found: "Decision") -> dict[str, Any]:
    """JSON has no infinity: it is written as the word it means."""

    def number(value: float | None) -> float | str | None:
        return found.limits[1] if value == math.inf else value

    return {
        "value": number(found.value),
        "low": number(found.low),
        "high": number(found.high),
        "reach": found.reach,
        "probability": found.probability,
        "also": {name: [number(x) for x in numbers] for name, numbers in found.also.items()},
        "notes": list(found.notes),
    }
