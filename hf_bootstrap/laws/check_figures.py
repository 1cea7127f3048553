"""Figures that judge a law: residuals, runs held out, laws without saturation, profiles, and forms compared.

Those of the law itself are in `figures`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LawError
from ..units import format_count
from .drawing import ACCENT, INK, LETTERS, QUIET, count_axis, law_and_points, new_figure, same_heights, styled
from .evidence import Comparison
from .fitted import LawLike
from .held_out import HeldOut, hold_out_largest
from .noise import outliers, usual_error
from .profiles import Profile
from .saturation import NullTest
from .terms import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["form_table", "held_out_figure", "null_figure", "profile_figure", "residual_figure"]

_LABEL = (0.06, 0.055)  # of a panel, width and height of a number of one digit


@styled
def residual_figure(law: LawLike) -> "Figure":
    """What the law misses, in % of the loss, against every column and against the prediction.

    The grey band holds twice the usual error (see `noise.usual_error`). The three outliers farthest beyond it are
    numbered in every panel and named below, where runs have names.

    Raises:
        LawError: the law has no points at hand.
    """
    fitted, points = law_and_points(law)
    logs = points.logs(fitted.form)
    expected = np.exp(fitted.form.log_loss(logs, fitted.theta[None])[0])
    missed = 100 * (points.loss / expected - 1)
    residuals, k = np.log1p(missed / 100), len(fitted.theta)
    usual = 100 * usual_error(residuals, k)
    far = np.flatnonzero(outliers(residuals, k))
    named = far[np.argsort(-np.abs(missed[far]))][: 0 if points.run_id is None else 3]
    columns = sorted(fitted.form.columns, key=list(LETTERS).index)
    figure, axes = new_figure(3.4 * (len(columns) + 1), 3.2 + 0.15 * len(named), len(columns) + 1)
    scratch = points.from_scratch
    for axis, name in zip(axes, [*columns, None], strict=True):
        place = expected if name is None else getattr(points, name)
        axis.axhspan(-2 * usual, 2 * usual, color="#f1f1f1", lw=0)
        axis.axhline(0, color="#9a9a9a", lw=0.8)
        rows = ~scratch
        axis.plot(place[rows], missed[rows], "o", ms=4, color=INK, alpha=0.8)
        if scratch.any() and name != "base_tokens":
            axis.plot(place[scratch], missed[scratch], "s", ms=4, color=QUIET, label="from scratch")
        if name is None:
            axis.set_xlabel(f"predicted loss ({fitted.loss_unit})")
        else:
            count_axis(axis, f"{_letter(name, columns)}, {name}")
    axes[0].set(ylabel="measured over predicted, %", title=f"What '{fitted.form.name}' misses; grey: twice the usual")
    same_heights(axes)
    for axis, name in zip(axes, [*columns, None], strict=True):
        place = expected if name is None else getattr(points, name)
        seen = named if name != "base_tokens" else named[~scratch[named]]
        _number(axis, place[seen], missed[seen], [str(1 + int(np.flatnonzero(named == row)[0])) for row in seen])
    if len(named) and points.run_id is not None:
        told = [f"{n}  {points.run_id[row]} ({missed[row]:+.1f}%)" for n, row in enumerate(named, start=1)]
        figure.supxlabel("\n".join(told), x=0.01, ha="left", fontsize=7.5, color=ACCENT, linespacing=1.4)
    if scratch.any():
        axes[-1].legend()
    return figure


def _number(axis: "Axes", across: FloatArray, up: FloatArray, labels: Sequence[str]) -> None:
    """Labels beside points; those of points too near to each other for two labels share one."""
    if not len(labels):
        return
    seen = (axis.transData - axis.transAxes).transform(np.column_stack([across, up]))
    left = list(np.argsort(-seen[:, 1]))
    while left:
        near = [row for row in left if np.all(np.abs(seen[row] - seen[left[0]]) < _LABEL)]
        text = ", ".join(labels[row] for row in sorted(near))
        inward = seen[near[0], 0] > 0.9
        axis.annotate(
            text,
            (float(seen[near[0], 0]), float(seen[near[0], 1])),
            (-5 if inward else 5, 0),
            "axes fraction",
            "offset points",
            ha="right" if inward else "left",
            va="center",
            fontsize=8,
            color=ACCENT,
        )
        left = [row for row in left if row not in near]


def _letter(name: str, columns: Sequence[str]) -> str:
    return "D" if name == "tokens" and "base_tokens" not in columns else LETTERS[name]


@styled
def held_out_figure(law: LawLike) -> "Figure":
    """The runs of the largest D1, and of the largest D2 (or of N and D), each predicted by a law that never saw them.

    Raises:
        LawError: the law has no points at hand, or too few to leave any level out.
    """
    fitted, points = law_and_points(law)
    found = [hold_out_largest(fitted, points, name) for name in ("base_tokens", "tokens", "n_params")]
    tests = [test for test in found if test is not None][:2]
    if not tests:
        raise LawError(
            f"With {len(points)} points no level can be left out: the others would not determine the form "
            f"{fitted.form.name!r}. Measure more levels."
        )
    figure, axes = new_figure(5.2 * len(tests), 3.7, len(tests))
    for axis, test in zip(axes, tests, strict=True):
        _draw_held_out(axis, test, fitted.form.columns)
    axes[0].set_ylabel("predicted over measured, %")
    same_heights(axes)
    return figure


def _draw_held_out(axis: "Axes", test: HeldOut, columns: Sequence[str]) -> None:
    left = test.left_out
    place = getattr(left, test.across)
    scratch = place == 0
    place = np.where(scratch, place[~scratch].min(initial=np.inf) / 2, place)
    off = 100 * (test.value / left.loss - 1)
    bars = None
    if test.low is not None and test.high is not None:
        bars = 100 * np.maximum([test.value - test.low, test.high - test.value], 0) / left.loss
    told = "predicted" if bars is None else "predicted, with 95% interval"
    axis.axhline(0, color="#9a9a9a", lw=0.8)
    style = {
        "fmt": "D",
        "ms": 5,
        "mfc": "white",
        "color": ACCENT,
        "ecolor": "#d9a79b",
        "elinewidth": 1.1,
        "capsize": 2.5,
    }
    axis.errorbar(place, off, bars, label=told, **style)  # type: ignore[arg-type]
    if scratch.any():  # a log axis has no 0
        axis.plot(place[scratch], off[scratch], "s", ms=6, color=QUIET, label="from scratch (D1 = 0)")
    count_axis(axis, f"{_letter(test.across, columns)}, {test.across}")
    one = np.ptp(getattr(left, test.column)) == 0
    level = f"{_letter(test.column, columns)} {'=' if one else 'from'} {format_count(test.level)}"
    axis.set_title(f"{level}, from the rest: off by {np.mean(np.abs(off)):.2f}% (mean of {len(left)})")
    axis.legend()


@styled
def null_figure(tests: Sequence[NullTest], interval: tuple[float, float] | None = None) -> "Figure":
    """The observed alpha3 against what laws without saturation give on the same design.

    Args:
        tests: one panel row each.
        interval: the observed alpha3's own interval, if known.
    """
    figure, axes = new_figure(6.2, 1.5 + 1.25 * len(tests), len(tests), stacked=True)
    everything = np.concatenate([np.clip(test.draws, *np.quantile(test.draws, [0.01, 0.99])) for test in tests])
    edges = [*(interval or ()), 0.0, *(test.alpha3 for test in tests), everything.min(), everything.max()]
    margin = 0.06 * (max(edges) - min(edges))
    bins = np.linspace(min(edges) - margin, max(edges) + margin, 45)
    for axis, test in zip(axes, tests, strict=True):
        axis.hist(test.draws, bins=list(bins), color="#9db4c8", lw=0)
        axis.axvline(0, color="#9a9a9a", lw=0.8)
        axis.axvline(test.alpha3, color=ACCENT, lw=1.8)
        if interval is not None:
            axis.axvspan(*interval, color=ACCENT, alpha=0.12, lw=0)
        fits = "does not fit these points" if test.p_fit <= 0.05 else "fits these points as well"
        axis.set_title(f"If {test.null.replace('_', ' ')} were true (it {fits}, p = {test.p_fit:.3f})")
        axis.set_yticks([])
        axis.grid(visible=False)
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel("alpha3 of the bootstrap law; red: observed, with its 95% interval")
    return figure


@styled
def profile_figure(found: Profile) -> "Figure":
    """How well the law fits with one or two parameters held, and where the resampled laws lie.

    Of two parameters a map: dark is as good as the best fit, the line holds 95% of the resampled laws.
    """
    figure, (axis,) = new_figure(5.2, 4.0, 1)
    first = found.values[0]
    if len(found.names) == 1:
        axis.plot(first, found.excess, color=INK, lw=1.5)
        axis.set(xlabel=found.names[0], ylabel="summed loss over its minimum, less 1")
        if found.limit is not None:
            axis.axhline(found.limit, color=ACCENT, lw=1.0, ls="--")
        axis.axvline(found.estimate[0], color=ACCENT, lw=1.5)
        axis.set_title("The fit with one parameter held; dashed: holds 95% of resampled laws")
        return figure
    second = found.values[1]
    axis.contourf(first, second, np.sqrt(found.excess).T, 12, cmap="Blues_r")
    if found.limit is not None:
        axis.contour(first, second, found.excess.T, [found.limit], colors=[ACCENT], linewidths=1.5)
    axis.plot(found.draws[:, 0], found.draws[:, 1], ".", ms=2.5, color=INK, alpha=0.5)
    axis.plot(*found.estimate, "o", color=ACCENT, ms=6)
    axis.set(xlabel=found.names[0], ylabel=found.names[1], xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    axis.set_title(f"The fit with {found.names[0]} and {found.names[1]} held; line: 95% of resampled laws")
    axis.grid(visible=False)
    return figure


@styled
def form_table(comparison: Comparison) -> "Figure":
    """The comparison of forms as bars: error on the points, and held-out errors."""
    scores = comparison.scores[::-1]
    figure, (axis,) = new_figure(6.2, 0.9 + 0.5 * len(scores), 1)
    place = np.arange(len(scores), dtype=float)
    parts = (("on the points", "error", "#c9d3dc"), ("one point left out", "leave_one_out", "#7f9bb3"))
    for offset, (label, field, color) in zip((0.25, 0.0), parts, strict=True):
        axis.barh(place + offset, [100 * getattr(s, field) for s in scores], 0.25, color=color, label=label)
    held = [100 * s.leave_base_out if s.leave_base_out is not None else 0.0 for s in scores]
    axis.barh(place - 0.25, held, 0.25, color="#36566f", label="one D1 left out")
    axis.set_yticks(place, [f"{s.form.replace('_', ' ')} ({s.n_params})" for s in scores])
    axis.set(xlabel="mean absolute error, % of the loss", title="Forms on the same points (parameters)")
    axis.grid(visible=False, axis="y")
    axis.legend(loc="upper right")
    return figure
