"""How fast laws are fitted and resampled, against scipy, the published recipe and PyPI `chinchilla`, in one run.

    python benchmarks/laws.py [--only global,bootstrap,two_stage,generic,points] [--starts 500] [--recipe-starts 60]

Rivals run from a random subset of the 4,500 starts of the published grid; their time is scaled to 4,500, and the table
says so. `chinchilla` gets a virtual environment of its own in the system's temporary folder. Prints tables for
docs/benchmarks.md. The measured tables are found by HF_BOOTSTRAP_SHARED, by default `shared` beside the repository.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_bootstrap import FORMS, ScalingLaw, ScalingPoint
from hf_bootstrap.laws.fitting import fit_form, refit
from hf_bootstrap.laws.newton import screen
from hf_bootstrap.laws.points import Points
from hf_bootstrap.sealing import seal

Array = npt.NDArray[np.float64]
OPTIMUM = 1.01827401780e-3
GRID: dict[str, tuple[float, ...]] = {
    "a": (0, 5, 10, 15, 20, 25),
    "b": (0, 5, 10, 15, 20, 25),
    "e": (-1, -0.5, 0, 0.5, 1),
    "alpha": (0, 0.5, 1, 1.5, 2),
    "beta": (0, 0.5, 1, 1.5, 2),
}
SHARED = Path(os.environ.get("HF_BOOTSTRAP_SHARED", Path(__file__).parents[1].parent / "shared"))
DELTA = 1e-3
RESAMPLES = 4000

RIVAL = """
import json, sys
import numpy as np, pandas as pd
from functools import partial
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
asked = json.load(open(sys.argv[1]))
rival = Chinchilla(sys.argv[2], param_grid=asked["grid"], seed_ranges=dict(C=(1e18, 1e22), N_to_D=(1, 100)),
                   loss_fn=partial(log_huber, delta=asked["delta"]), scaling_factor=2.0, log_level=50)
n, d = np.array(asked["n_params"]), np.array(asked["tokens"])
rival.database.df = pd.DataFrame({"C": 6 * n * d, "N": n, "D": d, "loss": asked["loss"]})
rival.visualizer.optim = lambda *_, **__: None
rival.fit(parallel=False)
print(json.dumps({name: float(getattr(rival, name)) for name in ("A", "B", "E", "alpha", "beta")}))
"""


def timed(run: Callable[[], Any], repeats: int = 3) -> tuple[Any, float, float]:
    """What `run` answers, and the medians of its CPU and wall seconds."""
    times = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        answer = run()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = np.median(times, axis=0)
    return answer, float(cpu), float(wall)


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def header(title: str, *cells: str) -> None:
    print(f"\n### {title}\n", flush=True)
    row(*cells)
    row(*["---"] * len(cells))


def chinchilla_points() -> dict[str, Array] | None:
    """The 240 points of the replication (arXiv:2404.10102): all but the five highest losses; None without the table."""
    path = SHARED / "data" / "tables" / "chinchilla-besiroglu" / "svg_extracted_data.csv"
    if not path.exists():
        print(f"skipped: {path} is not here; set HF_BOOTSTRAP_SHARED")
        return None
    with path.open(newline="") as file:
        rows = [(float(r["Model Size"]), float(r["Training FLOP"]), float(r["loss"])) for r in csv.DictReader(file)]
    n, c, loss = np.array(sorted(rows, key=lambda found: found[2])[:-5]).T
    return {"n_params": n, "tokens": c / (6 * n), "loss": loss}


def objective(theta: Array, u: Array, v: Array, log_loss: Array, weights: Array | float = 1.0) -> tuple[float, Array]:
    """Summed Huber loss of log residuals and its gradient, as a careful user of scipy would write it.

    Args:
        theta: (5,), ln A, ln B, ln E, alpha, beta.
        u, v: (rows,), ln N and ln D.
        log_loss: (rows,).
        weights: (rows,).
    """
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * u, b - beta * v, np.full_like(u, e)])
    top = terms.max(axis=0)
    sizes = np.exp(terms - top)
    total = sizes.sum(axis=0)
    x, y, z = sizes / total
    apart = log_loss - (top + np.log(total))
    clipped = np.clip(apart, -DELTA, DELTA)
    pull = -weights * clipped
    gradient = np.array([pull @ x, pull @ y, pull @ z, -pull @ (x * u), -pull @ (y * v)])
    return float(np.sum(weights * clipped * (apart - clipped / 2))), gradient


def scipy_fit(starts: Array, data: tuple[Array, Array, Array], exact: bool) -> float:
    """The least value of BFGS from every start, with the exact gradient or scipy's finite differences."""
    from scipy.optimize import minimize

    best = np.inf
    with np.errstate(all="ignore"):
        for start in starts:
            if exact:
                found = minimize(lambda x: objective(x, *data), start, jac=True, method="BFGS")
            else:
                found = minimize(lambda x: objective(x, *data)[0], start, method="BFGS")
            best = min(best, found.fun) if np.isfinite(found.fun) else best
    return float(best)


def rival_package(points: dict[str, Array]) -> tuple[dict[str, float], float, float] | str:
    """What PyPI `chinchilla` 0.2.0 finds from 243 starts, its CPU and wall seconds; else why it could not run."""
    home = Path(tempfile.gettempdir()) / "hf_bootstrap-benchmark-chinchilla-0.2.0"
    python = home / "bin" / "python"
    try:
        if not (home / "ready").exists():
            venv.create(home, with_pip=True, clear=True)
            install = [str(python), "-m", "pip", "install", "-q", "chinchilla==0.2.0"]
            subprocess.run(install, check=True, capture_output=True, timeout=300)
            (home / "ready").touch()
        with tempfile.TemporaryDirectory() as folder:
            grid = {"e": GRID["e"][::2], "a": GRID["a"][::2], "b": GRID["b"][::2], "alpha": GRID["alpha"][::2]}
            asked = {"grid": {**grid, "beta": GRID["beta"][::2]}, "delta": DELTA}
            whole = {**asked, **{name: column.tolist() for name, column in points.items()}}
            Path(folder, "asked.json").write_text(json.dumps(whole))
            command = [str(python), "-c", RIVAL, f"{folder}/asked.json", f"{folder}/project"]
            before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=400)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
    except (subprocess.SubprocessError, OSError) as error:
        told = getattr(error, "stderr", None) or str(error)
        return str(told.decode() if isinstance(told, bytes) else told).strip().splitlines()[-1]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), cpu, time.perf_counter() - wall


def compare_global(starts: int, recipe_starts: int) -> None:
    """(a) The global fit of the 240-point table."""
    points = chinchilla_points()
    if points is None:
        return
    form = FORMS["chinchilla"]
    logs = {name: np.log(points[name]) for name in form.columns}
    data = (logs["n_params"], logs["tokens"], np.log(points["loss"]))
    grid = np.array(list(itertools.product(*GRID.values())))
    subset = np.random.default_rng(0).permutation(grid)
    header(
        "The 240-point table, 5 parameters, Huber at 1e-3",
        *("method", "starts run", "value", "above the optimum", "CPU s", "wall s", "CPU s for 4,500 starts", "ratio"),
    )
    fit, ours, wall = timed(lambda: fit_form(form, logs, points["loss"], starts=grid))

    def report(name: str, count: int, value: float, cpu: float, wall: float, whole: int = len(grid)) -> None:
        scaled = cpu * whole / count
        cells = (f"{value:.11e}", f"{value / OPTIMUM - 1:.1e}", f"{cpu:.2f}", f"{wall:.2f}")
        row(
            name,
            f"{count:,}",
            *cells,
            f"{scaled:.2f}" + (" (scaled)" if count < whole else ""),
            f"{scaled / ours:.0f}x",
        )

    report("ours: all screened, the best polished", len(grid), fit.value, ours, wall)
    own, cpu, wall = timed(lambda: fit_form(form, logs, points["loss"]))
    report("ours: the form's own starts", own.n_starts, own.value, cpu, wall, own.n_starts)
    few = screen(form, logs, data[2], grid, DELTA)
    value, cpu, wall = timed(lambda: scipy_fit(few, data, exact=True), 1)
    report("scipy BFGS, exact gradient, from the starts we polish", len(few), value, cpu, wall, len(few))
    value, cpu, wall = timed(lambda: scipy_fit(subset[:starts], data, exact=True), 1)
    report("scipy BFGS, exact gradient", starts, value, cpu, wall)
    value, cpu, wall = timed(lambda: scipy_fit(subset[:recipe_starts], data, exact=False), 1)
    report("the published recipe: scipy BFGS, finite differences", recipe_starts, value, cpu, wall)
    rival = rival_package(points)
    if isinstance(rival, str):
        print(f"\nchinchilla 0.2.0 skipped: {rival}")
        return
    params, cpu, wall = rival
    value = objective(form.to_theta(params), *data)[0]
    report("PyPI chinchilla 0.2.0, log_huber, every second start of each axis, imports included", 243, value, cpu, wall)


def compare_bootstrap(scipy_refits: int = 100) -> None:
    """(b) 4000 refits of it to resampled rows."""
    points = chinchilla_points()
    if points is None:
        return
    form = FORMS["chinchilla"]
    logs = {name: np.log(points[name]) for name in form.columns}
    fit = fit_form(form, logs, points["loss"])
    rows = len(points["loss"])
    draws = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)
    header("4,000 bootstrap refits of it", "method", "refits run", "CPU s", "wall s", "CPU s for 4,000", "ratio")
    found, ours, wall = timed(lambda: refit(fit, logs, points["loss"][None], draws))
    row("ours, all rows at once", f"{RESAMPLES:,}", f"{ours:.2f}", f"{wall:.2f}", f"{ours:.2f}", "1x")

    def rival() -> list[float]:
        from scipy.optimize import minimize

        data = (logs["n_params"], logs["tokens"], np.log(points["loss"]))
        solved = [
            minimize(objective, fit.theta, args=(*data, w), jac=True, method="BFGS") for w in draws[:scipy_refits]
        ]
        return [answer.fun for answer in solved]

    values, cpu, wall = timed(rival, 1)
    scaled = cpu * RESAMPLES / scipy_refits
    cells = (f"{cpu:.2f}", f"{wall:.2f}", f"{scaled:.1f} (scaled)", f"{scaled / ours:.0f}x")
    row("scipy BFGS, exact gradient, from the same optimum", f"{scipy_refits}", *cells)
    worse = np.mean(np.array(values) > found.value[:scipy_refits] * (1 + 1e-6))
    ahead = np.mean(found.value[:scipy_refits] > np.array(values) * (1 + 1e-6))
    print(f"\nscipy's refit has the higher loss in {worse:.0%} of these resamples, ours in {ahead:.0%}.")


def two_stage_points(seed: int = 0) -> dict[str, Any]:
    """36 points of the bootstrap law with 0.3% noise: 6 levels of D1, each a trunk, x 6 marks of D2."""
    form, levels = FORMS["bootstrap"], 131_072 * np.geomspace(1, 10**1.5, 6)
    d1, d2 = (grid.ravel() for grid in np.meshgrid(levels, levels, indexing="ij"))
    theta = form.to_theta({"A": 1.37e4, "alpha1": 0.387, "alpha2": 0.655, "alpha3": 0.0247, "E": 1.71})
    noise = 0.003 * np.random.default_rng(seed).standard_normal(len(d1))
    loss = np.exp(form.log_loss({"base_tokens": np.log(d1), "tokens": np.log(d2)}, theta[None])[0] + noise)
    trunks = [f"trunk-{base:.0f}" for base in d1]
    return {"base_tokens": d1, "tokens": d2, "loss": loss, "base_run_id": trunks}


COLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from laws import RESAMPLES, ScalingLaw, two_stage_points
points = two_stage_points()
began = time.process_time(), time.perf_counter()
ScalingLaw("bootstrap", resamples=RESAMPLES).fit(points)
print(time.process_time() - began[0], time.perf_counter() - began[1])
"""


def measure_two_stage() -> None:
    """(c) The two-stage law with 4000 cluster resamples."""
    header("The two-stage law, 36 points, 4,000 cluster resamples", "what", "CPU s", "wall s")
    points = two_stage_points()
    command = [sys.executable, "-c", COLD, str(Path(__file__).parent)]
    cold = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(3)]
    cpu, wall = np.median(np.array(cold, dtype=float), axis=0)
    row("ScalingLaw.fit, first of a process (it imports scipy.special)", f"{cpu:.2f}", f"{wall:.2f}")
    _, cpu, wall = timed(lambda: ScalingLaw("bootstrap", resamples=RESAMPLES).fit(points), 5)
    row("ScalingLaw.fit, later ones", f"{cpu:.2f}", f"{wall:.2f}")
    form = FORMS["bootstrap"]
    logs, loss = {name: np.log(points[name]) for name in form.columns}, points["loss"]
    fit, cpu, wall = timed(lambda: fit_form(form, logs, loss), 5)
    row("of it the global fit", f"{cpu:.2f}", f"{wall:.2f}")
    counts = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=RESAMPLES)
    weights = np.repeat(counts, 6, axis=1).astype(np.float64)
    _, cpu, wall = timed(lambda: refit(fit, logs, loss[None], weights), 5)
    row("of it the refits", f"{cpu:.2f}", f"{wall:.2f}")


def repeated_data() -> dict[str, Any] | None:
    """The runs of Muennighoff et al. 2023 (arXiv:2305.16264), one seed each; None without the table."""
    path = SHARED / "data" / "tables" / "datablations" / "c4_val_losses.csv"
    if not path.exists():
        return None
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["is_seed_repeat"] == "0"]
    names = {"n_params": "params", "tokens": "tokens", "unique_tokens": "unique_tokens", "loss": "val_loss"}
    return {ours: np.array([float(r[theirs]) for r in rows]) for ours, theirs in names.items()}


def measure_generic() -> None:
    """(d) Forms that are not log-linear."""
    title = f"Forms that are not log-linear, ScalingLaw(form, resamples={RESAMPLES}).fit"
    header(title, "form", "points", "CPU s", "wall s", "refits that did not converge")
    tables = {"data_constrained": repeated_data()}
    for name in ("cpt_dynamics", "unified", "effective_transfer"):
        tables[name] = two_stage_points() | {"base_run_id": None}
    for name, table in tables.items():
        if table is None:
            print(f"skipped: {name}, its table is not here")
            continue
        given = {column: values for column, values in table.items() if values is not None}
        form = FORMS[name]
        _, cpu, wall = timed(lambda: ScalingLaw(name, resamples=RESAMPLES).fit(given), 1)  # noqa: B023
        logs, loss = {column: np.log(given[column]) for column in form.columns}, given["loss"]
        draws = np.random.default_rng(0).multinomial(len(loss), np.full(len(loss), 1 / len(loss)), size=1000)
        found = refit(fit_form(form, logs, loss), logs, loss[None], draws.astype(np.float64))
        stopped = np.mean(found.decrement > 1e-6 * found.value)
        row(name, str(len(loss)), f"{cpu:.1f}", f"{wall:.1f}", f"{stopped:.1%}")


def measure_points(rows: int = 1_000_000, sealed: int = 100_000) -> None:
    """(e) Reading a million points."""
    import pandas as pd

    header("Reading 10^6 points", "from", "points read", "CPU s", "wall s", "CPU s for 10^6")
    rng = np.random.default_rng(0)
    columns = {"base_tokens": rng.integers(1, 10**9, rows), "tokens": rng.integers(1, 10**9, rows)}
    table: dict[str, Any] = {**columns, "loss": rng.uniform(2, 3, rows)}

    def report(name: str, source: Any, count: int) -> None:
        points, cpu, wall = timed(lambda: Points.read(source), 1)
        assert len(points) == count
        scaled = f"{cpu * rows / count:.1f}" + (" (scaled)" if count < rows else "")
        row(name, f"{count:,}", f"{cpu:.1f}", f"{wall:.1f}", scaled)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report("arrays", table, rows)
        pd.DataFrame(table).to_parquet(folder / "points.parquet")
        report("Parquet", folder / "points.parquet", rows)
        pd.DataFrame(table).to_csv(folder / "points.csv", index=False)
        report("CSV", folder / "points.csv", rows)
        with (folder / "points.jsonl").open("w") as file:
            for i in range(sealed):
                point = ScalingPoint(
                    run_id=f"run-{i}",
                    phase="end",
                    base_tokens=int(columns["base_tokens"][i]),
                    tokens=int(columns["tokens"][i]),
                    loss=float(table["loss"][i]),
                )
                file.write(seal(point.to_dict()) + "\n")
        report("sealed lines", folder / "points.jsonl", sealed)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["global", "bootstrap", "two_stage", "generic", "points"]
    parser.add_argument("--only", default=",".join(parts), help="parts to measure, with commas between")
    parser.add_argument("--starts", type=int, default=500, help="of the 4,500, for scipy with exact gradients")
    parser.add_argument("--recipe-starts", type=int, default=60, help="of the 4,500, for the published recipe")
    options = parser.parse_args()
    asked = options.only.split(",")
    if unknown := set(asked) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    runs: dict[str, Callable[[], None]] = {
        "global": lambda: compare_global(options.starts, options.recipe_starts),
        "bootstrap": compare_bootstrap,
        "two_stage": measure_two_stage,
        "generic": measure_generic,
        "points": measure_points,
    }
    for part in parts:
        if part in asked:
            runs[part]()


if __name__ == "__main__":
    main()
