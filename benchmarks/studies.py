"""What studies cost besides training: CPU seconds to plan 10,000 runs, and where the time of a finished study went.

`python benchmarks/studies.py` plans; `python benchmarks/studies.py FOLDER --workers 2` looks at the files of a study
that was carried out in one go.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hf_bootstrap.demo import demo_study
from hf_bootstrap.store import RunFolder, write_json
from hf_bootstrap.study.conduct import planned_runs
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.study.corpora import placeholder_facts
from hf_bootstrap.study.plan import make_plan

__all__ = ["main", "plan_many", "where_time_went"]


def plan_many() -> str:
    """Plans of 10,010 runs: of a study not begun, and of one whose text is ready and whose run folders are there."""
    config = replace(demo_study(), seeds=tuple(range(143)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [_plan(config, folder, "not begun")]
        write_json(folder / "text.json", placeholder_facts(config))
        for spec in planned_runs(config, folder)[0]:
            RunFolder.create(folder, spec)
        lines.append(_plan(config, folder, "with all run folders"))
    return "\n".join(lines)


def _plan(config: StudyConfig, folder: Path, what: str) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    specs, _ = planned_runs(config, folder)
    plan = make_plan(config, specs)
    told = f"{time.process_time() - cpu:.1f} CPU s, {time.perf_counter() - wall:.1f} s wall"
    loaded = "torch" in sys.modules
    return f"plan of {plan.runs:,} runs, {what}: {told}; torch loaded: {loaded}; load {os.getloadavg()[0]:.1f}"


def where_time_went(folder: Path, workers: int) -> str:
    """Of the slots' time from the first run's beginning to the last one's end: in runs, and in Trainer.train()."""
    runs = [path.parent for path in folder.glob("runs/*/done.json") if (path.parent / "log.txt").exists()]
    spans = [((run / "run.json").stat().st_mtime, (run / "done.json").stat().st_mtime) for run in runs]
    wall = max(end for _, end in spans) - min(begin for begin, _ in spans)
    trained = sum(
        float(runtime)
        for run in runs
        for runtime in re.findall(r"'train_runtime': '([\d.e+]+)'", (run / "log.txt").read_text())
    )
    in_runs = sum(end - begin for begin, end in spans)
    empty, set_up = 1 - in_runs / (wall * workers), (in_runs - trained) / (wall * workers)
    return (
        f"{len(runs)} runs in {wall:.0f} s of {workers} slots: {trained / (wall * workers):.1%} in Trainer.train(), "
        f"evaluations included; {set_up:.1%} each run's set-up ({(in_runs - trained) / len(runs):.2f} s a run); "
        f"{empty:.1%} no run at work"
    )


def main() -> None:
    """Print one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of a study that was carried out in one go")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    print(plan_many() if asked.folder is None else where_time_went(asked.folder, asked.workers))


if __name__ == "__main__":
    main()
