"""`hf-bootstrap study`: a grid of runs from one file, planned, carried out, watched and reported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .choosing import wanted_rows

if TYPE_CHECKING:
    from ..study.config import StudyConfig
    from ..study.status import StudyStatus

__all__ = ["design", "emit", "plan", "points", "report", "run", "status"]

_File = Annotated[Path, typer.Argument(help="The study: a YAML file.")]
_Out = Annotated[Path | None, typer.Option(help="The study's folder. Default: <name of the study>-out.")]
_Only = Annotated[list[str] | None, typer.Option(help="Only this method of the study; may be given several times.")]
_Seed = Annotated[list[int] | None, typer.Option(help="Only this seed of the study; may be given several times.")]
_Corpora = Annotated[Path | None, typer.Option(help="Folder that the files of the texts start from.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the answer.")]


def plan(
    file: _File,
    out: _Out = None,
    tokens_per_second: Annotated[
        str, typer.Option(help="Speed of the base model on one worker, such as 30k; without it there are no hours.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    only: _Only = None,
    seed: _Seed = None,
    as_json: _Json = False,
) -> None:
    """What the study will take, and what its grid cannot tell; trains nothing and loads no torch.

    Example: hf-bootstrap study plan study.yaml --tokens-per-second 30k --workers 2
    """
    from ..study.conduct import planned_runs, to_do
    from ..study.plan import make_plan
    from ..units import parse_quantity

    config, folder = _study(file, out)
    config = config.narrowed(only or (), seed or ())
    specs, is_final = planned_runs(config, folder)
    done = frozenset(spec.run_id for spec in specs) - {spec.run_id for spec in to_do(specs, folder)}
    speed = parse_quantity(tokens_per_second, "--tokens-per-second") if tokens_per_second else None
    made = make_plan(config, specs, done=done, tokens_per_second=speed, workers=workers, is_final=is_final)
    typer.echo(json.dumps(made.to_dict(), indent=2) if as_json else str(made))


def design(
    file: _File,
    law: Annotated[Path, typer.Option(help="Folder of a bootstrap law of such runs, for instance of a pilot.")],
    budget_flops: Annotated[str, typer.Option(help="To spend, such as 2e15; the file's budget if left out.")] = "",
    aim: Annotated[str, typer.Option(help="What to know best: alpha3, crossover or loss.")] = "alpha3",
    base_tokens: Annotated[str, typer.Option(help="D1 of the place asked about; for crossover and loss.")] = "",
    tokens: Annotated[str, typer.Option(help="D2 of the place asked about; for loss.")] = "",
    method: Annotated[str | None, typer.Option(help="Of the study; its first if left out.")] = None,
    noise: Annotated[float | None, typer.Option(help="Of log loss; from the law's points if left out.")] = None,
    luck: Annotated[float | None, typer.Option(help="Of log loss, shared by the rows of a base.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the proposed study as a file.")] = None,
    as_json: _Json = False,
) -> None:
    """Propose the grid that makes the interval of a decision narrowest for a budget; trains nothing.

    Grids are judged by what a prior law says they would find, the best by fitting laws to drawn points.

    Example: hf-bootstrap study design study.yaml --law pilot-out/law-continue --budget-flops 1e15 --to larger.yaml
    """
    import yaml

    from ..laws.law import ScalingLaw
    from ..store import write_atomic
    from ..study.aims import Aim
    from ..study.config import StudyConfig
    from ..study.design import propose_grid
    from ..units import parse_quantity

    def quantity(text: str, name: str) -> float | None:
        return parse_quantity(text, name) if text else None

    found = propose_grid(
        StudyConfig.from_file(file),
        ScalingLaw.from_pretrained(law),
        Aim(kind=aim, base_tokens=quantity(base_tokens, "--base-tokens"), tokens=quantity(tokens, "--tokens")),
        method=method,
        budget_flops=quantity(budget_flops, "--budget-flops"),
        noise=noise,
        luck=luck,
    )
    typer.echo(json.dumps({**found.to_dict(), "study": found.study.to_dict()}, indent=2) if as_json else str(found))
    if to is not None:
        write_atomic(to, yaml.safe_dump(found.study.to_dict(), sort_keys=False, width=120))
        typer.echo(f"Written: {to}. Look at it with: hf-bootstrap study plan {to}", err=True)


def run(
    file: _File,
    out: _Out = None,
    corpora: _Corpora = None,
    points: Annotated[Path | None, typer.Option(help="Points of runs done elsewhere: not done again here.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    retries: Annotated[int, typer.Option(min=0, help="Times a failed run is tried again.")] = 1,
    only: _Only = None,
    seed: _Seed = None,
    executor: Annotated[str | None, typer.Option(help="slurm: jobs by submitit; here, processes if left out.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="For the jobs, such as slurm_partition=gpu.")] = None,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> None:
    """Carry out what is missing of a study, and export its points.

    Stopped and started again, it goes on where it was; started twice in one folder, also on two machines, both share
    the work. Nothing that is done is done again.

    Example: hf-bootstrap study run study.yaml --workers 2
    """
    from ..study.conduct import conduct_study
    from ..training import data

    config, folder = _study(file, out)
    conduct_study(
        config,
        folder,
        data,
        "hf_bootstrap.training.loop:run_one",
        corpora=corpora,
        points=points,
        workers=workers,
        retries=retries,
        only=only or (),
        seeds=seed or (),
        executor=executor,
        options={name: values[-1] for name, values in wanted_rows(option).items()},
        say=_telling(quiet, err=as_json),
    )
    record = {"folder": str(folder), "points": str(folder / "points")}
    typer.echo(json.dumps(record, indent=2) if as_json else f"Done. Points: {folder / 'points'}")


def status(
    file: _File,
    out: _Out = None,
    only: _Only = None,
    seed: _Seed = None,
    as_json: _Json = False,
) -> None:
    """How far a study is: runs done, running, stopped and waiting.

    Example: hf-bootstrap study status study.yaml --json
    """
    from ..study.conduct import planned_runs
    from ..study.status import read_status

    config, folder = _study(file, out)
    specs, is_final = planned_runs(config.narrowed(only or (), seed or ()), folder)
    found = read_status(specs, folder)
    if as_json:
        typer.echo(json.dumps({"is_final": is_final, **found.to_dict()}, indent=2))
        return
    _show(config.name, found, is_final)


def report(folder: Annotated[Path, typer.Argument(help="The study's folder.")], as_json: _Json = False) -> None:
    """Fit the laws of what is done so far and write report.html.

    Runs that are none of the study any more, since its file or its text changed, are left out and named.

    Example: hf-bootstrap study report demo-out
    """
    from ..study.conduct import write_study_report
    from ..study.points import best_rates, study_points

    found, notes = study_points(folder)
    page, summary = write_study_report(folder, best_rates(found)[0], notes)
    if as_json:
        typer.echo(json.dumps({"report": str(page), "summary": summary}, indent=2))
        return
    typer.echo(summary)
    typer.echo(f"Report: {page}")


def points(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    to: Annotated[Path, typer.Option(help="A .jsonl or .parquet file.")] = Path("points.jsonl"),
    as_json: _Json = False,
) -> None:
    """Write the points of all done runs of the study into one file.

    Example: hf-bootstrap study points demo-out --to points.parquet
    """
    from ..study.points import study_points, write_points

    found, notes = study_points(folder)
    write_points(found, to)
    for note in notes:
        typer.echo(note, err=True)
    runs = len({point.run_id for point in found})
    record = {"points": len(found), "runs": runs, "file": str(to)}
    typer.echo(json.dumps(record, indent=2) if as_json else f"{len(found)} points of {runs} runs: {to}")


def emit(
    file: _File,
    out: _Out = None,
    form: Annotated[str, typer.Option("--format", help="slurm, hf-jobs or skypilot.")] = "slurm",
    accelerator: Annotated[
        str, typer.Option(help="GPU of a job, such as A100:1; for hf-jobs a flavor, such as a10g-small.")
    ] = "",
    corpora: _Corpora = None,
    only: _Only = None,
    seed: _Seed = None,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> None:
    """Write the run folders of what is missing, and print a file for another engine that carries them out.

    Runs come in levels: each level starts from the one before. The text must be there, so it is prepared first.

    Example: hf-bootstrap study emit study.yaml --format slurm > submit.sh
    """
    from ..study.conduct import make_ready
    from ..study.emit import emit_jobs
    from ..training import data

    config, folder = _study(file, out)
    specs = make_ready(
        config,
        folder,
        data,
        corpora=corpora,
        only=only or (),
        seeds=seed or (),
        say=_telling(quiet, err=True),
    )
    text = emit_jobs(config.name, specs, folder, form, accelerator)
    record = {"format": form, "folder": str(folder), "file": text}
    typer.echo(json.dumps(record, indent=2) + "\n" if as_json else text, nl=False)


def _telling(quiet: bool, *, err: bool) -> Callable[[str], None]:
    """What is handed each sentence of progress; standard output stays clean where it is for an answer."""
    return (lambda _: None) if quiet else lambda sentence: typer.echo(sentence, err=err)


def _study(file: Path, out: Path | None) -> "tuple[StudyConfig, Path]":
    from ..study.config import StudyConfig

    config = StudyConfig.from_file(file)
    return config, out or Path(f"{config.name}-out")


def _show(name: str, found: "StudyStatus", is_final: bool) -> None:
    """A row for each method, then what needs a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "done", "running", "stopped", "waiting", title=f"Study {name}", title_justify="left")
    for method in dict.fromkeys(run.method for run in found.runs):
        states = [run.state for run in found.runs if run.method == method]
        table.add_row(method, *(str(states.count(state)) for state in ("done", "running", "stopped", "waiting")))
    Console().print(table)
    notes: list[Any] = []
    if not is_final:
        notes.append("The text is not prepared yet (or changed), so runs cannot be told done.")
    if found.strangers:
        notes.append(
            f"{len(found.strangers)} runs in the folder are none of this study: its file or its text changed. They are "
            "kept, and left out of its points."
        )
    notes += [f"Done runs mix releases of {name}: {', '.join(kinds)}." for name, kinds in found.versions.items()]
    for run_ in found.runs:
        if run_.state == "stopped":
            notes.append(f"Stopped: {run_.run_id}\n{run_.log_end or '(no log)'}")
    for note in notes:
        typer.echo(note)
