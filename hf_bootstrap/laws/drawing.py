"""How figures look, and what axes need: one quiet style that colour-blind readers can use, counts as people write them.

The figures themselves are in `figures` and `check_figures`. matplotlib is loaded when the first one is drawn.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from ..errors import LawError
from ..units import format_count
from .fitted import FittedLaw, LawLike
from .points import Points
from .terms import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "INK",
    "LETTERS",
    "QUIET",
    "colors_of",
    "count_axis",
    "law_and_points",
    "new_figure",
    "plain_log",
    "same_heights",
    "steps",
    "styled",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

INK, QUIET, ACCENT = "#2b2b2b", "#7a7a7a", "#b5432a"
# Column -> its letter in the formulas, where both stages are there and where one is.
LETTERS = {"base_tokens": "D1", "tokens": "D2", "n_params": "N", "unique_tokens": "U", "mixture_ratio": "r"}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9a9a9a",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
}


def styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """Draw in this module's style, whatever style the caller's session has."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        import matplotlib as mpl

        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": mpl.rcParams["backend"]}):
            return draw(*args, **kwargs)

    return styled


def law_and_points(law: LawLike) -> tuple[FittedLaw, Points]:
    """The law and its points.

    Raises:
        LawError: there are no points at hand.
    """
    if law.points_ is None:
        raise LawError(
            "This law has no points at hand to draw. Fit it, or load it from a folder that holds its points."
        )
    return law.fitted, law.points_


def new_figure(width: float, height: float, panels: int, *, stacked: bool = False) -> tuple["Figure", list["Axes"]]:
    """A figure that no window owns, with its panels in a row, or one above the other on one x axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    shape = (panels, 1) if stacked else (1, panels)
    axes = figure.subplots(*shape, squeeze=False, sharex=stacked).ravel()
    return figure, list(axes)


def same_heights(axes: Sequence["Axes"]) -> None:
    """Give panels that show one quantity the y axis that holds all of them."""
    limits = np.array([axis.get_ylim() for axis in axes])
    for axis in axes:
        axis.set_ylim(limits.min(), limits.max())


def colors_of(count: int) -> list[Any]:
    """Light to dark, of equal steps to every eye."""
    import matplotlib as mpl

    return list(mpl.colormaps["viridis"](np.linspace(0.9, 0.08, max(count, 2))))[:count]


def steps(values: FloatArray, *, stretch: float) -> FloatArray:
    """80 places from the smallest to the largest, and by the factor `stretch` beyond."""
    return np.geomspace(values.min() / stretch, values.max() * stretch, 80)


def count_axis(axis: "Axes", label: str) -> None:
    """A log x axis of counts."""
    axis.set_xscale("log")
    axis.set_xlabel(label)
    plain_log(axis.xaxis)


def plain_log(axis: Any) -> None:
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
