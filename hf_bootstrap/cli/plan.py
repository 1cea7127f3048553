"""`hf-bootstrap plan`: one page that answers whether to reuse a checkpoint."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .wording import in_options

__all__ = ["plan"]

_MODEL, _BUDGET, _LAWS, _HARDWARE, _OUTPUT = "The base", "The budget (one of)", "What to compare", "Hardware", "Output"


def plan(
    model: Annotated[str, typer.Argument(help="Folder with a config.json, or a name on the Hub; no weights are read.")],
    base_tokens: Annotated[
        str | None,
        typer.Option(rich_help_panel=_MODEL, help="Tokens behind it: 15T, a range 9T:24T, or a published name."),
    ] = None,
    revision: Annotated[str | None, typer.Option(rich_help_panel=_MODEL, help="Of a name on the Hub.")] = None,
    tokens: Annotated[str | None, typer.Option(rich_help_panel=_BUDGET, help="Second-stage tokens: 10B.")] = None,
    flops: Annotated[str | None, typer.Option(rich_help_panel=_BUDGET, help="FLOPs: 1e21.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(rich_help_panel=_BUDGET, help="Device hours; needs --gpu.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=_LAWS, help="continue, stack, split:3, a recipe file; repeat it."),
    ] = None,
    law: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=_LAWS, help="Folder or repository of a law, or METHOD=FOLDER; repeat it."),
    ] = None,
    scratch_law: Annotated[
        str | None, typer.Option(rich_help_panel=_LAWS, help="Of training from scratch, if the laws have none.")
    ] = None,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", rich_help_panel=_LAWS, help="Answer also where a law does not apply.")
    ] = False,
    gpu: Annotated[str | None, typer.Option(rich_help_panel=_HARDWARE, help="H100, A100 ...; for hours.")] = None,
    peak_flops: Annotated[str | None, typer.Option(rich_help_panel=_HARDWARE, help="Of one device: 989e12.")] = None,
    mfu: Annotated[float, typer.Option(rich_help_panel=_HARDWARE, help="Share of the peak that training gets.")] = 0.4,
    ranks: Annotated[int, typer.Option(rich_help_panel=_HARDWARE, min=1, help="That share the state.")] = 1,
    memory: Annotated[str | None, typer.Option(rich_help_panel=_HARDWARE, help="Of one rank: 80GB.")] = None,
    sequence_length: Annotated[
        int | None, typer.Option(rich_help_panel=_HARDWARE, min=2, help="Of a block; 2048 or less by default.")
    ] = None,
    emit_study: Annotated[
        Path | None, typer.Option(rich_help_panel=_OUTPUT, help="Write the study that would settle it here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="Print JSON.")] = False,
) -> None:
    """Should I reuse this checkpoint? Cost, memory, expected loss, and what would settle it.

    The exit code is 3 when a candidate does not fit into --memory.

    Example: hf-bootstrap plan model --base-tokens 2T --tokens 10B --law law
    """
    from ..advise.candidates import make_budget
    from ..advise.reuse import DEFAULT_METHODS, plan_reuse
    from ..errors import QuantityError
    from ..units import parse_count, parse_quantity

    if emit_study is not None and emit_study.exists():
        raise QuantityError(f"--emit-study: {emit_study} exists already, and is not replaced. Name another file.")
    budget = make_budget(
        tokens=None if tokens is None else parse_count(tokens, "--tokens"),
        flops=None if flops is None else parse_quantity(flops, "--flops"),
        gpu_hours=gpu_hours,
        gpu=gpu,
        peak_flops=None if peak_flops is None else parse_quantity(peak_flops, "--peak-flops"),
        mfu=mfu,
    )
    found = plan_reuse(
        model,
        budget=budget,
        base_tokens=base_tokens,
        methods=method or DEFAULT_METHODS,
        laws=law or (),
        scratch_law=scratch_law,
        sequence_length=sequence_length,
        ranks=ranks,
        memory_limit=None if memory is None else parse_count(memory.strip().removesuffix("B"), "--memory"),
        revision=revision,
        extrapolate=extrapolate,
    )
    if emit_study is not None and found.experiment is None:
        raise QuantityError(
            "--emit-study: no study can be laid out without the base's tokens. State them: --base-tokens."
        )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else in_options(str(found)))
    if emit_study is not None and found.experiment is not None:
        found.experiment.write(emit_study)
        typer.echo(f"Written: {emit_study}. Set its texts, then: hf-bootstrap study plan {emit_study}", err=True)
    elif found.experiment is not None and not as_json:
        typer.echo("  --emit-study FILE writes it.")
    if not found.fits:
        raise typer.Exit(3)
