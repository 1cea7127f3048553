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
    width_method: Annotated[str, typer.Option(help="split, partition, clone, ...")] = "split",
    seed: Annotated[int, typer.Option(help="Of the random shares.")] = 0,
    recipe: Annotated[Path | None, typer.Option(help="YAML or JSON with a GrowthConfig, instead of the above.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one weight file.")] = "5GB",
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
    config = GrowthConfig.from_dict(asked if recipe is None else _read(recipe))
    if plan:
        _show_plan(source, target, config, max_shard_size, as_json)
        return
    from ..growth.stream import grow_checkpoint

    report = grow_checkpoint(source, target, config, max_shard_size=max_shard_size, overwrite=overwrite)
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))


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
