"""Figures of a law and its points: the founding paper's three panels, and loss against tokens.

Each function returns a matplotlib `Figure` that no window owns; saving it is left to the caller. Figures that judge a
law are in `check_figures`, the style of all in `drawing`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError, LawError, did_you_mean
from ..units import format_count
from .check_figures import held_out_figure, residual_figure
from .drawing import (
    ACCENT,
    INK,
    LETTERS,
    QUIET,
    colors_of,
    count_axis,
    law_and_points,
    new_figure,
    plain_log,
    steps,
    styled,
)
from .fitted import FittedLaw, LawLike
from .points import Points
from .slices import Slices, slice_exponents
from .terms import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "loss_curves", "save_figures", "three_panels"]

_MANY = 9  # kinds of runs, beyond which not every one gets a curve and a name


@styled
def three_panels(law: LawLike) -> "Figure":
    """The founding paper's first figure: slices, their exponents and their factors against D1.

    Left, loss against D2 with one power law per D1; middle, the exponents of those slices with 95% intervals,
    and the law's line alpha2 - alpha3 ln D1 with its band; right, their factors at a D2 in the middle of the data
    (at D2 = 1 token a factor would only repeat its exponent). Slices and law share the law's E, and the slices'
    intervals are those at this E.

    Raises:
        LawError: the law has no points at hand, or a form without an exponent at fixed D1.
    """
    fitted, points = law_and_points(law)
    if not _has_slices(fitted):
        why = "does not know its exponents here" if fitted.unidentified else "has no exponent at fixed D1 alone"
        raise LawError(f"The form {fitted.form.name!r} {why}; draw loss_curves instead.")
    figure, axes = new_figure(11.0, 3.5, 3)
    levels = _levels(points)
    try:
        slices = slice_exponents(points, floor=fitted.params()["E"])
    except FitError as error:
        slices = None
        figure.text(0.01, 0.005, f"No slices: {error}", fontsize=7, color=QUIET)
    for level, color in zip(levels, colors_of(len(levels)), strict=True):
        rows = points.base_tokens == level
        axes[0].plot(points.tokens[rows], points.loss[rows], "o", ms=4, color=color, label=format_count(level))
        if slices is not None:
            grid = steps(points.tokens[rows], stretch=1.0)
            for i in np.flatnonzero(np.isclose(slices.base_tokens, level)):
                curve = slices.factor[i] * (grid / slices.center) ** -slices.exponent[i] + slices.floor
                axes[0].plot(grid, curve, color=color, lw=1.2)
    count_axis(axes[0], "second-stage tokens D2")
    axes[0].set(title="One power law in D2 for each D1", ylabel=f"loss ({fitted.loss_unit})")
    axes[0].legend(title="D1", title_fontsize=8, handletextpad=0.2, labelspacing=0.25)
    center = float(np.exp(np.log(points.tokens).mean())) if slices is None else slices.center
    _draw_against_base(axes[1], fitted, slices, levels, "exponent", center)
    axes[1].axhline(0, color="#9a9a9a", lw=0.8)
    axes[1].set(title=f"Exponent of D2, {_floor(fitted)}", ylabel="exponent")
    axes[1].legend(loc="best")
    _draw_against_base(axes[2], fitted, slices, levels, "factor", center)
    axes[2].set_yscale("log")
    plain_log(axes[2].yaxis)
    axes[2].set(title=f"Factor at D2 = {format_count(center)}, {_floor(fitted)}", ylabel="L - E")
    return figure


def _floor(law: FittedLaw) -> str:
    floor = law.params()["E"]
    return f"E = {floor:.3g}" if floor >= 1e-3 else "no floor (E = 0)"


_BAR: dict[str, Any] = {"fmt": "o", "ms": 5, "color": INK, "ecolor": "#8a8a8a", "elinewidth": 1.2, "capsize": 2.5}
_BAND: dict[str, Any] = {"color": ACCENT, "alpha": 0.13, "lw": 0}


def _draw_against_base(
    axis: "Axes", law: FittedLaw, slices: Slices | None, levels: FloatArray, what: str, center: float
) -> None:
    """Exponent or factor of the slices, and of the law, against D1."""
    if slices is not None:
        based = slices.base_tokens > 0
        value, low, high = (getattr(slices, name)[based] for name in (what, f"{what}_low", f"{what}_high"))
        bars = np.maximum([value - low, high - value], 0)
        axis.errorbar(slices.base_tokens[based], value, bars, **_BAR, label="slices, at this E")
    grid = steps(levels, stretch=1.25)
    logs = {"base_tokens": np.log(grid), "tokens": np.full_like(grid, np.log(center))}

    def exponents(theta: FloatArray) -> FloatArray:
        found = law.form.exponents(logs, theta)
        assert found is not None  # `three_panels` has looked
        return found["tokens"]

    def factors(theta: FloatArray) -> FloatArray:
        floor = np.exp(theta[:, law.form.parameters.index("E"), None])
        above: FloatArray = np.maximum(np.exp(law.form.log_loss(logs, theta)) - floor, 1e-9)
        return above

    value, band = law.ask(exponents if what == "exponent" else factors)
    axis.plot(grid, value, color=ACCENT, lw=1.5, label="law, 95% band")
    below, above = (value, value) if band is None or not np.isfinite(band).all() else band
    if what == "factor":  # a band that reaches 0 would fill a log axis with nothing
        below = np.maximum(below, 1e-9)
        axis.set_ylim(max(below.min() / 1.2, value.min() / 6), min(above.max() * 1.2, value.max() * 6))
    axis.fill_between(grid, below, above, **_BAND)
    count_axis(axis, "first-stage tokens D1")


@styled
def loss_curves(law: LawLike) -> "Figure":
    """Loss against tokens for every D1 (from scratch included), or every N, with the law's curves and 95% bands.

    Of more than nine kinds of runs six are drawn with their curve, spread over the range; all points are shown. Where
    points do not determine a curve (`ScalingLaw.params_` has None), crosses show the law at the points.

    Raises:
        LawError: the law has no points at hand.
    """
    fitted, points = law_and_points(law)
    figure, (axis,) = new_figure(6.2, 4.2, 1)
    kinds = _kinds(fitted, points)
    color = _scatter(axis, kinds, points)
    for kind in kinds.drawn:
        (_crosses if fitted.unidentified else _curve)(axis, fitted, points, kinds, kind, color(kind))
    low, high = points.loss.min(), points.loss.max()
    margin = 0.12 * (high - low) or 0.05 * high
    axis.set_ylim(low - margin, high + margin)
    count_axis(axis, "second-stage tokens D2" if "base_tokens" in fitted.form.columns else "tokens D")
    bands = "" if fitted.replicates.method == "none" else ", 95% bands"
    told = " at its points (x), unknown off them" if fitted.unidentified else f" and its points{bands}"
    axis.set(ylabel=f"loss ({fitted.loss_unit})", title=f"The law '{fitted.form.name}'{told}")
    axis.legend(labelspacing=0.3)
    return figure


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kinds:
    """Rows that differ in tokens alone: `values` (kinds, columns) of `columns`, the kind of each row, those drawn."""

    columns: tuple[str, ...]
    values: FloatArray
    of_row: npt.NDArray[np.intp]
    drawn: tuple[int, ...]

    def near(self, kind: int) -> npt.NDArray[np.bool_]:
        """Rows whose first column is nearer to that of this kind than to that of any other drawn."""
        lead = np.log(np.maximum(self.values[:, 0], 1))
        far = np.abs(lead[self.of_row, None] - lead[list(self.drawn)])
        return np.asarray(np.argmin(far, axis=1) == self.drawn.index(kind))

    def label(self, kind: int) -> str:
        """The first column, and any other that differs between the curves drawn."""
        if not self.columns:
            return "law"
        chosen = self.values[list(self.drawn)]
        told = [i for i in range(len(self.columns)) if i == 0 or len(np.unique(chosen[:, i])) > 1]
        if self.columns[0] == "base_tokens" and self.values[kind, 0] == 0:
            told = told[1:]
        words = [f"{LETTERS[self.columns[i]]} = {format_count(self.values[kind, i])}" for i in told]
        return ", ".join([*(["from scratch"] if len(words) < 1 or told[0] != 0 else []), *words])


def _kinds(law: FittedLaw, points: Points) -> _Kinds:
    columns = tuple(sorted((c for c in law.form.columns if c != "tokens"), key=list(LETTERS).index))
    table = np.stack([getattr(points, name) for name in columns], axis=1) if columns else np.zeros((len(points), 1))
    values, of_row, count = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    known = [i for i in range(len(values)) if values[i, 0] > 0 or not columns or law.form.covers_scratch]
    drawn = known
    if len(values) > _MANY:
        # Of each of six levels of the first column, the kind with most rows.
        levels = np.unique(values[known, 0])
        wanted = levels[np.unique(np.linspace(0, len(levels) - 1, 6).round().astype(int))]
        drawn = [max((i for i in known if values[i, 0] == level), key=lambda i: count[i]) for level in wanted]
    return _Kinds(columns=columns, values=values, of_row=of_row.ravel(), drawn=tuple(drawn))


def _scatter(axis: "Axes", kinds: _Kinds, points: Points) -> Callable[[int], Any]:
    """Every point, light to dark in the first column; how to colour a kind's curve."""
    import matplotlib as mpl
    from matplotlib.colors import LogNorm

    lead = kinds.values[:, 0]
    levels = np.unique(lead[lead > 0])
    few = len(kinds.values) <= _MANY
    shades = dict(zip(levels, colors_of(len(levels)), strict=True))
    norm = None if few or len(levels) < 2 else LogNorm(levels[0], levels[-1])

    def color(kind: int) -> Any:
        if not lead[kind]:
            return QUIET
        return shades[lead[kind]] if norm is None else mpl.colormaps["viridis"](0.9 - 0.82 * float(norm(lead[kind])))

    for kind in range(len(lead)):
        rows = kinds.of_row == kind
        size = 4.5 if few else 3.5
        axis.plot(points.tokens[rows], points.loss[rows], "o" if lead[kind] else "s", ms=size, color=color(kind))
    return color


def _curve(axis: "Axes", law: FittedLaw, points: Points, kinds: _Kinds, kind: int, color: Any) -> None:
    rows = np.ones(len(points), dtype=bool) if len(kinds.values) <= _MANY else kinds.near(kind)
    grid = steps(points.tokens[rows], stretch=1.6)
    columns = dict(zip(kinds.columns, kinds.values[kind], strict=False))
    logs, _ = law.logs({**{name: np.full_like(grid, value) for name, value in columns.items()}, "tokens": grid})

    def question(theta: FloatArray) -> FloatArray:
        return law.form.log_loss(logs, theta)

    value, band = law.ask(question)
    based = kinds.values[kind, 0] > 0
    style = {"marker": "o" if based else "s", "ms": 4.5, "markevery": [], "color": color}
    axis.plot(grid, np.exp(value), lw=1.3, ls="-" if based else "--", label=kinds.label(kind), **style)
    if band is not None:
        axis.fill_between(grid, *np.exp(np.clip(band, -50, 50)), color=color, alpha=0.12, lw=0)


def _crosses(axis: "Axes", law: FittedLaw, points: Points, kinds: _Kinds, kind: int, color: Any) -> None:
    rows = kinds.near(kind)
    value = np.exp(law.form.log_loss(points.logs(law.form), law.theta[None])[0])
    axis.plot(points.tokens[rows], value[rows], "x", ms=6, mew=1.2, color=color, label=kinds.label(kind))


def draw(law: LawLike, kind: str | None = None) -> "Figure":
    """A figure by its kind; see `ScalingLaw.plot`.

    Raises:
        LawError: no such kind, or nothing of this kind to draw.
    """
    if kind is None:
        kind = "three_panels" if _has_slices(law.fitted) else "loss_curves"
    kinds: dict[str, Callable[[LawLike], Figure]] = {
        "three_panels": three_panels,
        "loss_curves": loss_curves,
        "residuals": residual_figure,
        "held_out": held_out_figure,
    }
    if kind not in kinds:
        raise LawError(f"There is no figure of the kind {kind!r}. {did_you_mean(str(kind), kinds)}")
    return kinds[kind](law)


def _has_slices(law: FittedLaw) -> bool:
    """Whether the form is a power law in D2 at fixed D1, known apart from other parameters, without further columns."""
    if set(law.form.columns) != {"base_tokens", "tokens"} or law.unidentified:
        return False
    logs, _ = law.logs({"base_tokens": [1e6, 1e6], "tokens": [1e4, 1e9]})
    found = law.form.exponents(logs, law.theta[None])
    return found is not None and bool(np.ptp(found["tokens"]) < 1e-12)


def save_figures(law: LawLike, folder: str | Path) -> list[str]:
    """Draw what this law has figures for as PNG files into `folder`.

    Returns:
        The file names, for the card.
    """
    figures = {"loss-curves.png": loss_curves(law), "residuals.png": residual_figure(law)}
    if _has_slices(law.fitted):
        figures["three-panels.png"] = three_panels(law)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(Path(folder) / name, dpi=150)
    return list(figures)


def _levels(points: Points) -> FloatArray:
    return np.unique(points.base_tokens[~points.from_scratch]) if points.base_tokens is not None else np.empty(0)
