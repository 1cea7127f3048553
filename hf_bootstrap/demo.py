"""The main job, end to end on text found on this machine: base, second stages, points, laws, report.

Small but real: nothing here is made up. It is the study file `study/demo.yaml`, carried out by the library's own parts.
"""

from collections.abc import Callable
from pathlib import Path

from .study.config import StudyConfig

__all__ = ["demo_study", "run_demo"]


def demo_study() -> StudyConfig:
    """The study of the demo: four bases, three ways to reuse each, and the same models from scratch."""
    return StudyConfig.from_file(Path(__file__).parent / "study" / "demo.yaml")


def run_demo(out: str | Path, *, workers: int = 2, say: Callable[[str], None] = print) -> Path:
    """Train, continue, grow, measure, fit, and write the report; go on where an earlier call was stopped.

    Args:
        out: folder for everything: `runs/`, `points/`, `law-<method>/`, `report.html`.
        workers: processes at a time, one thread each.
        say: told each stage and, at the end, the summary.

    Returns:
        The report's path.

    Raises:
        StudyError: text or a run that failed; finished runs are kept.
        StoreError: a file cannot be written.
    """
    from .study.conduct import conduct_study, write_study_report
    from .training import data

    points = conduct_study(demo_study(), out, data, "hf_bootstrap.training.loop:run_one", workers=workers, say=say)
    say("Fitting laws and writing the report")
    report, summary = write_study_report(out, points)
    say(summary)
    return report
