"""Figures: each is drawn, says what it shows, and leaves the session's style alone."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from hf_bootstrap import ScalingLaw, compare_forms
from hf_bootstrap.errors import LawError
from hf_bootstrap.laws.check_figures import form_table, null_figure, profile_figure
from hf_bootstrap.laws.figures import loss_curves, three_panels
from hf_bootstrap.laws.profiles import profile
from hf_bootstrap.laws.saturation import null_test

from .grids import demo_design, measured

TABLE = measured(demo_design(), noise=0.003)


@pytest.fixture(scope="module")
def law():
    return ScalingLaw().fit(TABLE)


def test_the_three_panels_share_a_floor_and_name_the_place_of_the_factor(law):
    figure = three_panels(law)
    assert isinstance(figure, Figure)
    slices, exponents, factors = figure.axes
    assert [text.get_text() for text in slices.get_legend().get_texts()] == ["131k", "328k", "819k", "2.05M"]
    assert f"E = {law.params_['E']:.3g}" in exponents.get_title(loc="left")
    assert factors.get_title(loc="left").startswith("Factor at D2 = 262k, E =")
    assert len(slices.lines) == 8


def test_outliers_are_numbered_without_overlap_and_named_below_the_residuals():
    """Three of one base, as high as each other: their numbers meet on the axis of D1."""
    table = measured(demo_design(trunks=6), noise=0.003)
    odd = [8, 9, 10]
    table["loss"][odd] *= 1.05
    figure = ScalingLaw(resamples=20).fit(table).plot("residuals")
    figure.canvas.draw()
    assert all(table["run_id"][row] in figure.get_supxlabel() for row in odd)
    numbers = [[text for text in axis.texts if text.get_text()[0].isdigit()] for axis in figure.axes]
    for axis, texts in zip(figure.axes, numbers, strict=True):
        assert sorted(", ".join(text.get_text() for text in texts).split(", ")) == ["1", "2", "3"]
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(axis.get_tightbbox().x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_loss_curves_show_every_base_and_scratch(law):
    (axis,) = loss_curves(law).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "from scratch", "D1 = 131k", "D1 = 328k", "D1 = 819k", "D1 = 2.05M",
    ]  # fmt: skip
    assert len(axis.collections) == 5  # one band each


def test_loss_curves_are_drawn_for_forms_without_exponents_and_without_intervals():
    form = ScalingLaw("total_tokens").fit(measured(demo_design(bases=(131_072, 524_288)), noise=0.01))
    (axis,) = loss_curves(form).axes
    assert len(axis.collections) == 0
    with pytest.raises(LawError, match="draw loss_curves instead"):
        three_panels(form)


def test_the_null_figure_has_a_row_for_each_null(law):
    tests = [null_test(TABLE, null, n=30) for null in ("total_tokens", "effective_transfer")]
    figure = null_figure(tests, law.interval("alpha3"))
    assert ["total tokens" in figure.axes[0].get_title(loc="left"), len(figure.axes)] == [True, 2]


def test_a_profile_is_a_curve_or_a_map_with_the_resampled_laws_on_it():
    law = ScalingLaw(resamples=60).fit(measured(demo_design(trunks=6), noise=0.003))
    (axis,) = profile_figure(profile(law, "alpha3", steps=5)).axes
    assert axis.get_xlabel() == "alpha3"
    (axis,) = profile_figure(profile(law, steps=4)).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("alpha3", "E")
    assert len(axis.lines[0].get_xdata()) == 60
    assert tuple(axis.lines[1].get_xdata()) == (law.params_["alpha3"],)


def test_the_form_table_has_three_bars_for_each_form():
    comparison = compare_forms(TABLE, ["bootstrap", "total_tokens"])
    (axis,) = form_table(comparison).axes
    assert len(axis.patches) == 6


def test_drawing_neither_takes_nor_changes_the_style_of_the_session(law):
    with mpl.rc_context({"font.size": 30.0, "axes.facecolor": "black"}):
        before = dict(mpl.rcParams)
        axis = loss_curves(law).axes[0]
        assert dict(mpl.rcParams) == before
        assert mpl.colors.to_hex(axis.get_facecolor()) == "#ffffff"
        assert axis.xaxis.label.get_size() < 12


def test_a_law_without_points_cannot_be_drawn():
    with pytest.raises(LawError, match="no points at hand"):
        loss_curves(ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8))
