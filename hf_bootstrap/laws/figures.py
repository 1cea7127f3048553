"""Figures of a law and its points, in one quiet style that colour-blind readers can use.

Each function returns a matplotlib `Figure` that no window owns; saving it is left to the caller.
matplotlib is loaded when the first figure is drawn.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from ..errors import FitError, LawError
from ..units import format_count
from .evidence import Comparison
from .fitted import FittedLaw, LawLike
from .points import Points
from .profiles import Profile
from .saturation import NullTest
from .slices import Slices, slice_exponents
from .terms import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["form_table", "loss_curves", "null_figure", "profile_figure", "save_figures", "three_panels"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_INK, _GRID, _SCRATCH, _ACCENT = "#2b2b2b", "#e4e4e4", "#7a7a7a", "#b5432a"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9a9a9a",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
}


def _styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """Draw in this module's style, whatever style the caller's session has."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        import matplotlib as mpl

        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": mpl.rcParams["backend"]}):
            return draw(*args, **kwargs)

    return styled


@_styled
def three_panels(law: LawLike) -> "Figure":
    """The founding paper's first figure: slices, their exponents and their factors against D1.

    Left, loss against D2 with one power law per D1; middle, the exponents of those slices with 95% intervals,
    and the law's line alpha2 - alpha3 ln D1 with its band; right, their factors at a D2 in the middle of the data
    (at D2 = 1 token a factor would only repeat its exponent). Slices and law share the law's E, and the slices'
    intervals are those at this E.

    Raises:
        LawError: the law has no points at hand, or a form without an exponent at fixed D1.
    """
    fitted, points = _both(law)
    figure, axes = _figure(11.0, 3.5, 3)
    levels = _levels(points)
    try:
        slices = slice_exponents(points, floor=fitted.params()["E"])
    except FitError as error:
        slices = None
        figure.text(0.01, 0.005, f"No slices: {error}", fontsize=7, color=_SCRATCH)
    for level, color in zip(levels, _colors(len(levels)), strict=True):
        rows = points.base_tokens == level
        axes[0].plot(points.tokens[rows], points.loss[rows], "o", ms=4, color=color, label=format_count(level))
        if slices is not None:
            grid = _grid(points.tokens[rows], stretch=1.0)
            for i in np.flatnonzero(np.isclose(slices.base_tokens, level)):
                curve = slices.factor[i] * (grid / slices.center) ** -slices.exponent[i] + slices.floor
                axes[0].plot(grid, curve, color=color, lw=1.2)
    _tokens_axis(axes[0], "second-stage tokens D2")
    axes[0].set(title="One power law in D2 for each D1", ylabel="loss (nats per token)")
    axes[0].legend(title="D1", title_fontsize=8, handletextpad=0.2, labelspacing=0.25)
    center = float(np.exp(np.log(points.tokens).mean())) if slices is None else slices.center
    _draw_against_base(axes[1], fitted, slices, levels, "exponent", center)
    axes[1].axhline(0, color="#9a9a9a", lw=0.8)
    axes[1].set(title=f"Exponent of D2, {_floor(fitted)}", ylabel="exponent")
    axes[1].legend(loc="best")
    _draw_against_base(axes[2], fitted, slices, levels, "factor", center)
    axes[2].set_yscale("log")
    _plain_log(axes[2].yaxis)
    axes[2].set(title=f"Factor at D2 = {format_count(center)}, {_floor(fitted)}", ylabel="L - E")
    return figure


def _floor(law: FittedLaw) -> str:
    floor = law.params()["E"]
    return f"E = {floor:.3g}" if floor >= 1e-3 else "no floor (E = 0)"


_BAR: dict[str, Any] = {"fmt": "o", "ms": 5, "color": _INK, "ecolor": "#8a8a8a", "elinewidth": 1.2, "capsize": 2.5}
_BAND: dict[str, Any] = {"color": _ACCENT, "alpha": 0.13, "lw": 0}


def _draw_against_base(
    axis: "Axes", law: FittedLaw, slices: Slices | None, levels: FloatArray, what: str, center: float
) -> None:
    """Exponent or factor of the slices, and of the law, against D1."""
    if slices is not None:
        based = slices.base_tokens > 0
        value, low, high = (getattr(slices, name)[based] for name in (what, f"{what}_low", f"{what}_high"))
        bars = np.maximum([value - low, high - value], 0)
        axis.errorbar(slices.base_tokens[based], value, bars, **_BAR, label="slices, at this E")
    grid = _grid(levels, stretch=1.25)
    logs = {"base_tokens": np.log(grid), "tokens": np.full_like(grid, np.log(center))}

    def exponents(theta: FloatArray) -> FloatArray:
        found = law.form.exponents(logs, theta)
        if found is None:
            raise LawError(f"The form {law.form.name!r} has no exponent at fixed D1; draw loss_curves instead.")
        return found["tokens"]

    def factors(theta: FloatArray) -> FloatArray:
        floor = np.exp(theta[:, law.form.parameters.index("E"), None])
        above: FloatArray = np.maximum(np.exp(law.form.log_loss(logs, theta)) - floor, 1e-9)
        return above

    value, band = law.ask(exponents if what == "exponent" else factors)
    axis.plot(grid, value, color=_ACCENT, lw=1.5, label="law, 95% band")
    if band is not None and np.isfinite(band).all():
        axis.fill_between(grid, np.maximum(band[0], 1e-9) if what == "factor" else band[0], band[1], **_BAND)
    _tokens_axis(axis, "first-stage tokens D1")


@_styled
def loss_curves(law: LawLike) -> "Figure":
    """Loss against D2 for every D1, from scratch included, with the law's curves and 95% bands.

    Raises:
        LawError: the law has no points at hand.
    """
    fitted, points = _both(law)
    figure, (axis,) = _figure(6.2, 4.2, 1)
    levels = _levels(points)
    colors = dict(zip(levels, _colors(len(levels)), strict=True))
    for level in sorted({float(x) for x in points.base_tokens}) if points.base_tokens is not None else []:
        rows = points.base_tokens == level
        color = colors.get(level, _SCRATCH)
        label = f"D1 = {format_count(level)}" if level else "from scratch"
        axis.plot(points.tokens[rows], points.loss[rows], "o" if level else "s", ms=4.5, color=color, label=label)
        if level == 0 and not fitted.form.covers_scratch:
            continue
        grid = _grid(points.tokens, stretch=1.6)
        logs, _ = fitted.logs({"base_tokens": np.full_like(grid, level), "tokens": grid, "n_params": _one_size(points)})
        value, band = fitted.ask(lambda theta, logs=logs: fitted.form.log_loss(logs, theta))  # type: ignore[misc]
        axis.plot(grid, np.exp(value), color=color, lw=1.3, ls="-" if level else "--")
        if band is not None:
            axis.fill_between(grid, *np.exp(np.clip(band, -50, 50)), color=color, alpha=0.12, lw=0)
    low, high = points.loss.min(), points.loss.max()
    axis.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    _tokens_axis(axis, "second-stage tokens D2")
    axis.set(ylabel="loss (nats per token)", title=f"The law '{fitted.form.name}' and its points, 95% bands")
    axis.legend(labelspacing=0.3)
    return figure


@_styled
def null_figure(tests: Sequence[NullTest], interval: tuple[float, float] | None = None) -> "Figure":
    """The observed alpha3 against what laws without saturation give on the same design.

    Args:
        tests: one panel row each.
        interval: the observed alpha3's own interval, if known.
    """
    figure, axes = _figure(6.2, 1.5 + 1.25 * len(tests), len(tests), stacked=True)
    everything = np.concatenate([np.clip(test.draws, *np.quantile(test.draws, [0.01, 0.99])) for test in tests])
    edges = [*(interval or ()), 0.0, *(test.alpha3 for test in tests), everything.min(), everything.max()]
    margin = 0.06 * (max(edges) - min(edges))
    bins = np.linspace(min(edges) - margin, max(edges) + margin, 45)
    for axis, test in zip(axes, tests, strict=True):
        axis.hist(test.draws, bins=list(bins), color="#9db4c8", lw=0)
        axis.axvline(0, color="#9a9a9a", lw=0.8)
        axis.axvline(test.alpha3, color=_ACCENT, lw=1.8)
        if interval is not None:
            axis.axvspan(*interval, color=_ACCENT, alpha=0.12, lw=0)
        fits = "does not fit these points" if test.p_fit <= 0.05 else "fits these points as well"
        axis.set_title(f"If {test.null.replace('_', ' ')} were true (it {fits}, p = {test.p_fit:.3f})")
        axis.set_yticks([])
        axis.grid(visible=False)
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel("alpha3 of the bootstrap law; red: observed, with its 95% interval")
    return figure


@_styled
def profile_figure(found: Profile) -> "Figure":
    """How well the law fits with one or two parameters held, and where the resampled laws lie.

    Of two parameters a map: dark is as good as the best fit, the line holds 95% of the resampled laws.
    """
    figure, (axis,) = _figure(5.2, 4.0, 1)
    first = found.values[0]
    if len(found.names) == 1:
        axis.plot(first, found.excess, color=_INK, lw=1.5)
        axis.set(xlabel=found.names[0], ylabel="summed loss over its minimum, less 1")
        if found.limit is not None:
            axis.axhline(found.limit, color=_ACCENT, lw=1.0, ls="--")
        axis.axvline(found.estimate[0], color=_ACCENT, lw=1.5)
        axis.set_title("The fit with one parameter held; dashed: holds 95% of resampled laws")
        return figure
    second = found.values[1]
    axis.contourf(first, second, np.sqrt(found.excess).T, 12, cmap="Blues_r")
    if found.limit is not None:
        axis.contour(first, second, found.excess.T, [found.limit], colors=[_ACCENT], linewidths=1.5)
    axis.plot(found.draws[:, 0], found.draws[:, 1], ".", ms=2.5, color=_INK, alpha=0.5)
    axis.plot(*found.estimate, "o", color=_ACCENT, ms=6)
    axis.set(xlabel=found.names[0], ylabel=found.names[1], xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    axis.set_title(f"The fit with {found.names[0]} and {found.names[1]} held; line: 95% of resampled laws")
    axis.grid(visible=False)
    return figure


@_styled
def form_table(comparison: Comparison) -> "Figure":
    """The comparison of forms as bars: error on the points, and held-out errors."""
    scores = comparison.scores[::-1]
    figure, (axis,) = _figure(6.2, 0.9 + 0.5 * len(scores), 1)
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


def save_figures(law: LawLike, folder: str | Path) -> list[str]:
    """Draw what this law has figures for as PNG files into `folder`.

    Returns:
        The file names, for the card.
    """
    fitted, points = _both(law)
    if points.base_tokens is None or not _levels(points).size:
        return []
    figures = {"loss-curves.png": loss_curves(law)}
    logs, _ = fitted.logs({"base_tokens": _levels(points)[0], "tokens": 1.0, "n_params": 1.0})
    if fitted.form.exponents(logs, fitted.theta[None]) is not None:
        figures["three-panels.png"] = three_panels(law)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(Path(folder) / name, dpi=150)
    return list(figures)


def _both(law: LawLike) -> tuple[FittedLaw, Points]:
    if law.points_ is None:
        raise LawError(
            "This law has no points at hand to draw. Fit it, or load it from a folder that holds its points."
        )
    return law.fitted, law.points_


def _figure(width: float, height: float, panels: int, *, stacked: bool = False) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    shape = (panels, 1) if stacked else (1, panels)
    axes = figure.subplots(*shape, squeeze=False, sharex=stacked).ravel()
    return figure, list(axes)


def _levels(points: Points) -> FloatArray:
    return np.unique(points.base_tokens[~points.from_scratch]) if points.base_tokens is not None else np.empty(0)


def _colors(count: int) -> list[Any]:
    import matplotlib as mpl

    return list(mpl.colormaps["viridis"](np.linspace(0.9, 0.08, max(count, 2))))[:count]


def _grid(values: FloatArray, *, stretch: float) -> FloatArray:
    return np.geomspace(values.min() / stretch, values.max() * stretch, 80)


def _one_size(points: Points) -> float | None:
    return None if points.n_params is None else float(np.median(points.n_params))


def _tokens_axis(axis: "Axes", label: str) -> None:
    axis.set_xscale("log")
    axis.set_xlabel(label)
    _plain_log(axis.xaxis)


def _plain_log(axis: Any) -> None:
    """Ticks as people write counts, a few of them, also where the axis spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    wide = np.log10(high / low) > 2.2
    narrow = np.log10(high / low) < 0.8
    axis.set_major_locator(
        LogLocator(subs=(1.0,) if wide else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if narrow else (1.0, 2.0, 5.0))
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axis.set_minor_formatter(NullFormatter())
