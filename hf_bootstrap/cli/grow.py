"""`hf-bootstrap grow`: a checkpoint folder in, a wider or deeper one out."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from .bars import progress_bar
from .loading import loading_for_good

__all__ = ["grow"]


def grow(
    source: Annotated[Path, typer.Argument(help="Folder with config.json and weights, or a name on the Hub.")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    depth: Annotated[int, typer.Option(help="Layers after growth per layer before it.")] = 1,
    depth_method: Annotated[str, typer.Option(help="stack, interpose, identity, ...")] = "stack",
    width: Annotated[int, typer.Option(help="Width after growth per unit before it.")] = 1,
    width_method: Annotated[str, typer.Option(help="split, partition, zero_pad, noise, aki, clone")] = "split",
    num_hidden_layers: Annotated[int | None, typer.Option(help="Layers after growth, not by factor.")] = None,
    layer_map: Annotated[str | None, typer.Option(help="Old layer of every new one: 0,1,2,1,2,3.")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Size after growth, not by factor.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(help="The same, of the MLP.")] = None,
    num_attention_heads: Annotated[int | None, typer.Option(help="The same, of query heads.")] = None,
    num_key_value_heads: Annotated[int | None, typer.Option(help="The same, of key/value heads.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random shares.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Of the grown weights, such as bfloat16.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML, JSON or folder of a GrowthConfig, instead of these.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one weight file.")] = "5GB",
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter; grown into TARGET-adapter.")] = None,
    merge_adapter: Annotated[
        bool, typer.Option("--merge-adapter", help="Merge it into TARGET-merged, grow that.")
    ] = False,
    optimizer: Annotated[str, typer.Option(help="Adam's state: reset, grow or asymmetric.")] = "reset",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a name on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run its code; needs a 40-digit --revision.")
    ] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read .bin weights, guarded.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier growth.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would happen; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grow a checkpoint on disk; memory does not grow with the model.

    With --plan the exit code is 3 when disk or memory do not suffice.

    Example: hf-bootstrap grow base grown --width 2 --plan
    """
    asked: dict[str, Any] = {
        "depth": depth if (num_hidden_layers is None and layer_map is None) or depth != 1 else None,
        "depth_method": depth_method,
        "num_hidden_layers": num_hidden_layers,
        "layer_map": None if layer_map is None else _layers(layer_map),
        "width": width,
        "width_method": width_method,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "seed": seed,
        "dtype": dtype,
    }
    config = _config({name: value for name, value in asked.items() if value is not None}, recipe)
    options = dict[str, Any](revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    with loading_for_good():
        grown_adapter = _check(source, target, config, (adapter, merge_adapter), optimizer)
    if plan:
        _show_plan(source, target, config, max_shard_size, options, as_json)
        return
    options |= {"max_shard_size": max_shard_size, "overwrite": overwrite}
    _grow(source, target, config, options, adapter if merge_adapter else None, grown_adapter, optimizer, as_json)


def _grow(
    source: Path,
    target: Path,
    config: Any,
    options: dict[str, Any],
    to_merge: Path | None,
    adapter: Any,
    optimizer: str,
    as_json: bool,
) -> None:
    """Grow the model and what travels with it, and say what was done.

    Args:
        to_merge: folder of an adapter that goes into the base first; adapter: a `GrownAdapter` to write beside it.
    """
    with loading_for_good():
        from ..growth.stream import grow_checkpoint
    from ..units import format_bytes

    with (
        _merged(source, target, config, to_merge, options) if to_merge else nullcontext(source) as base,
        progress_bar(format_bytes) as show,
    ):
        report = grow_checkpoint(base, target, config, on_progress=show, **options)
    more = {} if adapter is None else {"adapter": adapter.write()}
    if optimizer != "reset":
        from ..growth.optimizer_state import grow_optimizer_state

        more["optimizer"] = grow_optimizer_state(source, target, config, how=optimizer)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), **{name: part.to_dict() for name, part in more.items()}}, indent=2))
    else:
        typer.echo("\n".join(map(str, [report, *more.values()])))


def _config(asked: dict[str, Any], recipe: Path | None) -> Any:
    """What growth: by the options, or by a file; a file beside options would leave one of them out in silence."""
    from ..errors import GrowthError
    from ..growth.config import GrowthConfig

    if recipe is None:
        return GrowthConfig.from_dict(asked)
    standard = {"depth": 1, "depth_method": "stack", "width": 1, "width_method": "split", "seed": 0}
    if both := sorted(name for name, value in asked.items() if standard.get(name) != value):
        given = ", ".join(f"--{name.replace('_', '-')}" for name in both)
        raise GrowthError(f"--recipe says what growth, and so does {given}. Write it into {recipe}, or leave that out.")
    return GrowthConfig.from_pretrained(recipe)


def _layers(text: str) -> tuple[int, ...]:
    from ..errors import GrowthError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise GrowthError(f"--layer-map is {text!r}; write the old layer of every new one, as in 0,0,1,1.") from error


def _check(source: Path, target: Path, config: Any, adapter: tuple[Path | None, bool], optimizer: str) -> Any:
    """Refuse what cannot be before anything is written; the `GrownAdapter` to write afterwards, if there is one."""
    from ..errors import GrowthError
    from ..growth.adapters import prepare_adapter
    from ..growth.lora import open_adapter
    from ..growth.staging import check_place, check_target

    folder, merge = adapter
    here, there = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    check_target(here, there)
    _check_optimizer(source, optimizer)
    if folder is None and merge:
        raise GrowthError("--merge-adapter says what to do with --adapter, which is not given. Give both or none.")
    if folder is None:
        return None
    check_place(here, beside := _beside(there, "merged" if merge else "adapter"))
    if merge:
        open_adapter(folder)
        return None
    return prepare_adapter(folder, beside, config, base=source, grown_base=str(target))


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{target.name}-{what}")


@contextmanager
def _merged(source: Path, target: Path, config: Any, adapter: Path, options: dict[str, Any]) -> Iterator[Path]:
    """The adapter merged into its base, beside the target; one made here goes again if the growth is refused."""
    from ..errors import BootstrapError
    from ..growth.job import prepare_growth
    from ..growth.merging import merge_adapter

    prepare_growth(source, config, **{name: value for name, value in options.items() if name != "overwrite"})
    merged = _beside(target, "merged")
    is_new = not merged.exists()
    merge_adapter(source, adapter, merged)
    try:
        yield merged
    except BootstrapError:
        if is_new:
            shutil.rmtree(merged, ignore_errors=True)
        raise


def _check_optimizer(source: Path, how: str) -> None:
    """Say now, and not after hours of growth, that there is no state to grow."""
    from ..errors import GrowthError, StoreError
    from ..growth.optimizer_state import OPTIMIZER_FILE

    if how not in ("reset", "grow", "asymmetric"):
        raise GrowthError(f"--optimizer is {how!r}; it can be reset, grow or asymmetric.")
    if how != "reset" and not (source / OPTIMIZER_FILE).is_file():
        raise StoreError(f"There is no {source / OPTIMIZER_FILE}, so no state to grow. Leave --optimizer out.")


def _show_plan(
    source: Path, target: Path, config: Any, max_shard_size: str, options: dict[str, Any], as_json: bool
) -> None:
    with loading_for_good():
        from ..growth.forecast import forecast_growth
        from ..growth.job import prepare_growth

    job = prepare_growth(source, config, max_shard_size=max_shard_size, **options)
    forecast = forecast_growth(job, target)
    if as_json:
        typer.echo(json.dumps({"plan": job.plan.to_dict(), "forecast": forecast.to_dict()}, indent=2))
    else:
        typer.echo(f"{job.plan}\n{forecast}")
    if not forecast.fits:
        raise typer.Exit(3)
