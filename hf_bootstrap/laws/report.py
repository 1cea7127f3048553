"""A law as text: the summary a person reads, in the manner of statsmodels.

Nothing is computed here that is not already in the law, or in the saturation test handed in beside it.
"""

import textwrap

import numpy as np

from ..units import format_count
from .fitted import FittedLaw
from .saturation import SaturationTest

__all__ = ["number", "parameter_rows", "summary_text"]

_WIDTH = 86


def number(value: float | None) -> str:
    """Four significant digits, or a dash for what is not known."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.4g}"


def parameter_rows(law: FittedLaw, level: float = 0.95) -> list[tuple[str, str, str, str, str]]:
    """Name, value, standard error and interval of every parameter, as text; a dash for what is not known."""
    rows = []
    for name, value in law.known_params().items():
        narrow, wide = law.interval(name, 0.683), law.interval(name, level)
        error = None if narrow is None else (narrow[1] - narrow[0]) / 2
        low, high = (None, None) if wide is None else wide
        rows.append((name, number(value), number(error), number(low), number(high)))
    return rows


def summary_text(law: FittedLaw, evidence: SaturationTest | None = None) -> str:
    """The page `ScalingLaw.summary` returns.

    Args:
        law: any fitted or published law.
        evidence: what `saturation_test` found for it; None where it was not asked for, and then a law with an
            alpha3 says so.
    """
    objective = f"huber, delta {law.delta:g}" if law.objective == "huber" else law.objective
    about = [
        ("form", law.form.name),
        ("formula", law.form.formula),
        ("source", law.form.source),
        ("objective", objective),
        ("points", f"{law.n_points}, of which {law.n_scratch} from scratch" if law.n_scratch else str(law.n_points)),
        ("mean error", "-" if law.error is None else f"{law.error:.2%} of the loss"),
        ("data", "; ".join(f"{n} {format_count(a)} to {format_count(b)}" for n, (a, b) in law.ranges.items()) or "-"),
        ("units", f"raw tokens and parameters, {law.loss_unit}, natural logs"),
        ("intervals", _method(law)),
    ]
    lines = ["Scaling law".center(_WIDTH), "=" * _WIDTH]
    lines += [f"{name + ':':12}{text}" for name, text in about]
    lines += ["-" * _WIDTH, f"{'':16}{'value':>14}{'std err':>14}{'[2.5%':>14}{'97.5%]':>14}", "-" * _WIDTH]
    lines += [
        f"{name:16}{value:>14}{error:>14}{low:>14}{high:>14}" for name, value, error, low, high in parameter_rows(law)
    ]
    lines.append("=" * _WIDTH)
    lines += _saturation(law, evidence)
    if law.warnings:
        lines.append("Warnings:")
        lines += [f"[{i}] {sentence}" for i, sentence in enumerate(law.warnings, start=1)]
    return "\n".join(lines)


def _saturation(law: FittedLaw, evidence: SaturationTest | None) -> list[str]:
    """What alpha3 means: the verdict, every null, and the ridge of alpha3 and the floor."""
    if "alpha3" not in law.form.parameters or "alpha3" in law.unidentified:
        return []
    if evidence is None:
        told = "alpha3 > 0 alone proves nothing: laws without saturation give one too. Hold it against them with "
        return [*textwrap.wrap(told + "summary(nulls=True), where the points are at hand.", _WIDTH), "=" * _WIDTH]
    lines = ["Does the exponent fall?"]
    lines += [line for sentence in str(evidence).splitlines() for line in textwrap.wrap(sentence, _WIDTH)]
    if evidence.profile is not None and len(evidence.profile.names) == 2:
        lines.append(f"{'alpha3 held at':>16}{'best E':>14}{'summed loss':>14}")
        lines += [f"{a:>+16.4f}{number(floor):>14}{more:>+14.1%}" for a, floor, more in evidence.profile.ridge()]
    return [*lines, "=" * _WIDTH]


def _method(law: FittedLaw) -> str:
    replicates = law.replicates
    if replicates.method == "none":
        return "not known"
    if replicates.method == "jackknife":
        return f"95%, leaving out one of {replicates.clusters} clusters ({replicates.unit}) at a time"
    return f"95%, {len(replicates.theta)} resamples of {replicates.clusters} clusters ({replicates.unit})"
