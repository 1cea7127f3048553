"""`hf-bootstrap grow`: a checkpoint folder in, a wider or deeper one out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["grow"]


def grow(
    source: Annotated[Path, typer.Argument(help="Folder with config.json and safetensors weights.")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    depth: Annotated[int, typer.Option(help="Layers after growth per layer before it.")] = 1,
    depth_method: Annotated[str, typer.Option(help="stack, interpose, identity, ...")] = "stack",
    width: Annotated[int, typer.Option(help="Width after growth per unit before it.")] = 1,
    width_method: Annotated[str, typer.Option(help="split, partition, zero_pad, noise, aki, clone")] = "split",
    seed: Annotated[int, typer.Option(help="Of the random shares.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Of the grown weights, such as bfloat16.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML or JSON with a GrowthConfig, instead of the above.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one weight file.")] = "5GB",
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter; grown into TARGET-adapter.")] = None,
    merge_adapter: Annotated[
        bool, typer.Option("--merge-adapter", help="Merge it into TARGET-merged, grow that.")
    ] = False,
    optimizer: Annotated[str, typer.Option(help="Adam's state: reset, grow or asymmetric.")] = "reset",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier growth.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would happen; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grow a checkpoint on disk; memory does not grow with the model.

    With --plan the exit code is 3 when disk or memory do not suffice.

    Example: hf-bootstrap grow base grown --width 2 --plan
    """
    from ..growth.config import GrowthConfig

    asked = {"depth": depth, "depth_method": depth_method, "width": width, "width_method": width_method, "seed": seed}
    asked |= {} if dtype is None else {"dtype": dtype}
    config = GrowthConfig.from_dict(asked if recipe is None else _read(recipe))
    if plan:
        _show_plan(source, target, config, max_shard_size, as_json)
        return
    from ..growth.stream import grow_checkpoint

    _check_optimizer(source, optimizer)
    base = source if adapter is None else _with_adapter(source, target, adapter, merge=merge_adapter)
    report = grow_checkpoint(base, target, config, max_shard_size=max_shard_size, overwrite=overwrite)
    more = _companions(source, target, config, None if merge_adapter else adapter, optimizer)
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), **{name: part.to_dict() for name, part in more.items()}}, indent=2))
    else:
        typer.echo("\n".join(map(str, [report, *more.values()])))


def _with_adapter(source: Path, target: Path, adapter: Path, *, merge: bool) -> Path:
    """The base to grow. An adapter that cannot grow is refused now, and not after hours of growth."""
    from ..growth.adapters import open_adapter
    from ..growth.merging import merge_adapter

    if not merge:
        open_adapter(adapter)
        return source
    merged = target.with_name(f"{target.name}-merged")
    merge_adapter(source, adapter, merged)
    return merged


def _check_optimizer(source: Path, how: str) -> None:
    """Say now, and not after hours of growth, that there is no state to grow."""
    from ..errors import GrowthError, StoreError
    from ..growth.optimizer_state import OPTIMIZER_FILE

    if how not in ("reset", "grow", "asymmetric"):
        raise GrowthError(f"--optimizer is {how!r}; it can be reset, grow or asymmetric.")
    if how != "reset" and not (source / OPTIMIZER_FILE).is_file():
        raise StoreError(f"There is no {source / OPTIMIZER_FILE}, so no state to grow. Leave --optimizer out.")


def _companions(source: Path, target: Path, config: Any, adapter: Path | None, optimizer: str) -> dict[str, Any]:
    """What travels with the weights: reports by name."""
    from ..growth.adapters import grow_adapter
    from ..growth.optimizer_state import grow_optimizer_state

    found: dict[str, Any] = {}
    if adapter is not None:
        grown = target.with_name(f"{target.name}-adapter")
        found["adapter"] = grow_adapter(adapter, grown, config, base=source, grown_base=str(target))
    if optimizer != "reset":
        found["optimizer"] = grow_optimizer_state(source, target, config, how=optimizer)  # type: ignore[arg-type]
    return found


def _show_plan(source: Path, target: Path, config: Any, max_shard_size: str, as_json: bool) -> None:
    from ..growth.forecast import forecast_growth
    from ..growth.job import prepare_growth

    job = prepare_growth(source, config, max_shard_size=max_shard_size)
    forecast = forecast_growth(job, target)
    if as_json:
        typer.echo(json.dumps({"plan": job.plan.to_dict(), "forecast": forecast.to_dict()}, indent=2))
    else:
        typer.echo(f"{job.plan}\n{forecast}")
    if not forecast.fits:
        raise typer.Exit(3)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    from ..errors import CorruptFileError, GrowthError, StoreError

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too; safe_load makes no objects
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Check the path.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CorruptFileError(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(record, dict):
        raise GrowthError(f"{path} holds no GrowthConfig; write lines such as `width: 2`.")
    return record
