"""A run is measured at every mark, once, whatever else makes it measure."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hf_bootstrap.training.marks import Marks, geometric_marks


def test_geometric_marks_double():
    assert list(itertools.islice(geometric_marks(100), 4)) == [100, 200, 400, 800]


@given(
    st.lists(st.integers(0, 5_000), max_size=8), st.integers(1, 300), st.sets(st.integers(1, 60)), st.integers(0, 20)
)
def test_each_mark_is_met_at_the_first_step_that_reaches_it(asked, batch, others, before):
    """Also where Trainer evaluates at steps of its own (`others`), and where a run goes on from a step (`before`)."""
    marks = Marks(asked)
    marks.begin(before * batch, before)
    met = []
    if marks.next == before * batch:
        met.append(before)
        marks.pass_by(before * batch, before)
    for step in range(before + 1, 61):
        reached = marks.is_reached(step, lambda step=step: (step * batch, step * batch, step * batch))
        if reached:
            met.append(step)
        if reached or step in others:
            marks.pass_by(step * batch, step)
    wanted = sorted({-(-mark // batch) for mark in asked if before * batch <= mark <= 60 * batch})
    assert met == wanted


def test_the_counts_are_not_asked_for_at_every_step():
    marks, asked = Marks([100_000]), []
    marks.begin(0, 0)
    reached = [
        step for step in range(1, 1_001) if marks.is_reached(step, lambda s=step: asked.append(s) or (s * 128,) * 3)
    ]
    assert reached[0] == 782
    assert len([step for step in asked if step <= 782]) < 25
